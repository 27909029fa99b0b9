"""The SOP classes and transfer syntaxes that are accepted for storage (docs/conformance.md)."""

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid

from qc_daemon.dicom.uids import VERIFICATION

_STORAGE = "1.2.840.10008.5.1.4.1.1."

# Retired in 1999 and 1995, but old machines still send them; pynetdicom does not know them.
RETIRED_ULTRASOUND = {
    _STORAGE + "6": "UltrasoundImageStorageRetired",
    _STORAGE + "3": "UltrasoundMultiFrameImageStorageRetired",
}

SOP_CLASSES = (
    *RETIRED_ULTRASOUND,
    _STORAGE + "6.1",  # Ultrasound Image
    _STORAGE + "3.1",  # Ultrasound Multi-frame Image
    _STORAGE + "6.2",  # Enhanced US Volume
    _STORAGE + "6.3",  # Photoacoustic Image
    _STORAGE + "7",  # Secondary Capture Image
    _STORAGE + "7.1",  # Multi-frame Single Bit Secondary Capture
    _STORAGE + "7.2",  # Multi-frame Grayscale Byte Secondary Capture
    _STORAGE + "7.3",  # Multi-frame Grayscale Word Secondary Capture
    _STORAGE + "7.4",  # Multi-frame True Color Secondary Capture
    _STORAGE + "9.1.1",  # 12-lead ECG Waveform: stress echo carts send it beside the clips
    _STORAGE + "9.1.2",  # General ECG Waveform
    _STORAGE + "9.4.1",  # Basic Voice Audio Waveform
    _STORAGE + "77.1.4",  # VL Photographic Image
    _STORAGE + "77.1.4.1",  # Video Photographic Image
    _STORAGE + "88.11",  # Basic Text SR
    _STORAGE + "88.22",  # Enhanced SR
    _STORAGE + "88.33",  # Comprehensive SR
    _STORAGE + "88.34",  # Comprehensive 3D SR
    _STORAGE + "88.35",  # Extensible SR
    _STORAGE + "88.40",  # Procedure Log
    _STORAGE + "88.50",  # Mammography CAD SR
    _STORAGE + "88.59",  # Key Object Selection Document
    _STORAGE + "88.65",  # Chest CAD SR
    _STORAGE + "88.67",  # X-Ray Radiation Dose SR
    _STORAGE + "88.68",  # Radiopharmaceutical Radiation Dose SR
    _STORAGE + "88.69",  # Colon CAD SR
    _STORAGE + "88.70",  # Implantation Plan SR
    _STORAGE + "88.71",  # Acquisition Context SR
    _STORAGE + "88.72",  # Simplified Adult Echo SR
    _STORAGE + "88.73",  # Patient Radiation Dose SR
    _STORAGE + "88.74",  # Planned Imaging Agent Administration SR
    _STORAGE + "88.75",  # Performed Imaging Agent Administration SR
    _STORAGE + "11.1",  # Grayscale Softcopy Presentation State
    _STORAGE + "11.2",  # Color Softcopy Presentation State
    _STORAGE + "11.3",  # Pseudo-Color Softcopy Presentation State
    _STORAGE + "11.4",  # Blending Softcopy Presentation State
    _STORAGE + "11.5",  # XA/XRF Grayscale Softcopy Presentation State
    _STORAGE + "11.6",  # Grayscale Planar MPR Volumetric Presentation State
    _STORAGE + "11.7",  # Compositing Planar MPR Volumetric Presentation State
    _STORAGE + "11.8",  # Advanced Blending Presentation State
    _STORAGE + "11.9",  # Volume Rendering Volumetric Presentation State
    _STORAGE + "11.10",  # Segmented Volume Rendering Volumetric Presentation State
    _STORAGE + "11.11",  # Multiple Volume Rendering Volumetric Presentation State
    _STORAGE + "11.12",  # Variable Modality LUT Softcopy Presentation State
    _STORAGE + "66",  # Raw Data
    _STORAGE + "66.4",  # Segmentation
    _STORAGE + "66.5",  # Surface Segmentation
    _STORAGE + "67",  # Real World Value Mapping
    _STORAGE + "104.1",  # Encapsulated PDF
    _STORAGE + "104.2",  # Encapsulated CDA
    _STORAGE + "104.3",  # Encapsulated STL
    _STORAGE + "104.4",  # Encapsulated OBJ
    _STORAGE + "104.5",  # Encapsulated MTL
)

# Prefixes of transfer syntaxes that no stored data set has: live video (PS3.22), MIME and XML.
_NOT_STORED = ("1.2.840.10008.1.2.7.", "1.2.840.10008.1.2.6.")


def transfer_syntaxes() -> list[str]:
    """UIDs of every transfer syntax that pydicom knows, retired ones too; the usual ones first."""
    all_syntaxes = [
        UID(uid) for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"
    ]
    ordered = [
        *AllTransferSyntaxes,
        *(uid for uid in all_syntaxes if uid not in AllTransferSyntaxes),
    ]
    return [str(uid) for uid in ordered if not uid.startswith(_NOT_STORED)]


def accepted() -> list[PresentationContext]:
    """The presentation contexts of Verification and of every SOP class that is stored."""
    for uid, keyword in RETIRED_ULTRASOUND.items():
        register_uid(uid, keyword, StorageServiceClass)
    syntaxes = transfer_syntaxes()
    return [
        build_context(VERIFICATION),
        *(build_context(sop_class, syntaxes) for sop_class in SOP_CLASSES),
    ]
