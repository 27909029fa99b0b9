"""Whether an object shows ultrasound: by its SOP class, else by its modality."""

from pydicom.dataset import Dataset

from detector.imaging.dicom_file import text

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_ULTRASOUND = frozenset(_STORAGE + last for last in ("3", "3.1", "6", "6.1", "6.2", "6.3"))
"""Ultrasound (Multi-frame) Image with its retired class, Enhanced US Volume, Photoacoustic."""
_SECONDARY_CAPTURE = _STORAGE + "7"
_MODALITIES = frozenset({"US", "IVUS", "PA"})
_UNTOLD = frozenset({"", "OT", "SC"})
"""Modalities of captured screens and frames, which may show anything."""


def is_ultrasound(dataset: Dataset) -> bool:
    """Whether it is or may be: a captured picture counts unless its modality names another."""
    sop_class = text(dataset, "SOPClassUID") or ""
    modality = (text(dataset, "Modality") or "").upper()
    if sop_class in _ULTRASOUND:
        return True
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(f"{_SECONDARY_CAPTURE}.")
    if is_capture or not sop_class.startswith(_STORAGE):
        return modality in _MODALITIES or modality in _UNTOLD
    return modality in _MODALITIES
