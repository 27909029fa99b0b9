"""The de-identified image as a DICOM file: a header made from nothing, and cleaned pixels.

PS3.15 Annex E, Basic Application Level Confidentiality Profile with the Clean Pixel Data Option. No
option to retain anything is used: dates and times are empty or absent, UIDs are replaced. While no
person has looked at the picture its header says that text may be burned in and that the patient's
identity is not removed; `release` says otherwise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from struct import pack
from typing import BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from detector.boxes import clip
from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from qc_daemon.deidentification.image_facts import ImageFacts
from qc_daemon.deidentification.pixel_cleaning import PixelPlan
from qc_daemon.dicom.implementation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
)

METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113101", "Clean Pixel Data Option"),
)
"""The codes of DCM (PS3.16 CID 7050) that say what was done."""
METHOD = "PS3.15 Annex E; all attributes removed but a closed list"
_MAX_BYTES = 2**32 - 2
"""Native pixel data of an explicit VR have a length of 32 bits, and an even one."""
_PIXEL_DATA = (0x7FE0, 0x0010)
_FRAME_TIME_MS = 40.0
"""Of a cine that says nothing of its speed: some value is asked for, and 25 frames a second is
common."""
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """UIDs and the patient's name in place of the real ones."""

    patient: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str


def build_header(facts: ImageFacts, plan: PixelPlan, names: Pseudonyms, number: int) -> Dataset:
    """The header of an Ultrasound (Multi-frame) Image without pixel data (PS3.3 A.6, A.7).

    `number` is its Instance Number. Raises QCError TOO_LARGE for more pixels than a file can hold.
    """
    if pixel_bytes(plan) > _MAX_BYTES:
        raise QCError(ErrorCode.TOO_LARGE, "the cine has more than 4 GiB of uncompressed pixels")
    header = Dataset()
    is_cine = plan.frames > 1
    for keyword, value in {
        "SOPClassUID": UltrasoundMultiFrameImageStorage if is_cine else UltrasoundImageStorage,
        "SOPInstanceUID": names.sop_instance_uid,
        "StudyInstanceUID": names.study_uid,
        "SeriesInstanceUID": names.series_uid,
        # Type 2 elements of patient, study, series and equipment; an empty one is action Z.
        "PatientName": f"Teaching^{names.patient}",
        "PatientID": names.patient,
        **dict.fromkeys(("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"), ""),
        **dict.fromkeys(("ReferringPhysicianName", "AccessionNumber", "StudyID"), ""),
        **dict.fromkeys(("Manufacturer", "Laterality", "PatientOrientation"), ""),
        "PatientIdentityRemoved": "NO",
        "BurnedInAnnotation": "YES",
        "Modality": "US",
        "SeriesNumber": None,
        "InstanceNumber": number,
        "ImageType": ["DERIVED", "PRIMARY"],
        **_pixel_elements(plan),
        "LossyImageCompression": "01" if facts.is_lossy else "00",
    }.items():
        setattr(header, keyword, value)
    if facts.lossy_ratios:
        header.LossyImageCompressionRatio = list(facts.lossy_ratios)
    if facts.lossy_methods:
        header.LossyImageCompressionMethod = list(facts.lossy_methods)
    if is_cine:
        header.NumberOfFrames = plan.frames
        header.FrameIncrementPointer = 0x00181063
        header.FrameTime = round(facts.frame_time_ms or _FRAME_TIME_MS, 3)
    if regions := _regions(facts, plan):
        header.SequenceOfUltrasoundRegions = regions
    return header


def pixel_bytes(plan: PixelPlan) -> int:
    """How many bytes the cleaned pixels have."""
    return plan.rows * plan.columns * plan.frames * (1 if plan.is_grey else 3)


def write_image(file: BinaryIO, header: Dataset, plan: PixelPlan, frames: Iterable[Pixels]) -> None:
    """Write the PS3.10 file, frame by frame as they come, each of them cleaned and RGB.

    Explicit VR Little Endian, uncompressed. Raises OSError, and QCError DECODE_FAILED where other
    frames come than were planned.
    """
    file.write(_head(header))
    size = pixel_bytes(plan)
    file.write(pack("<HH2sHI", *_PIXEL_DATA, b"OB", 0, size + size % 2))
    count = 0
    for pixels in frames:
        count += 1
        plane = pixels[..., 0] if plan.is_grey else pixels
        file.write(np.ascontiguousarray(plane).data)
    if count != plan.frames:
        raise QCError(ErrorCode.DECODE_FAILED, "it has other frames than a moment ago")
    file.write(b"\0" * (size % 2))


def release(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file of `write_image` that a person has looked at, and say so in its header: nothing
    is burned in, the identity is removed, and how (PS3.15 E.1.1). Raises OSError."""
    header = dcmread(source, stop_before_pixels=True)
    pixel_offset = source.tell()
    header.BurnedInAnnotation = "NO"
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = METHOD
    header.DeidentificationMethodCodeSequence = [_code(*code) for code in METHODS]
    equipment = Dataset()
    equipment.Manufacturer = MANUFACTURER
    equipment.PurposeOfReferenceCodeSequence = [_code("109104", "De-identifying Equipment")]
    header.ContributingEquipmentSequence = [equipment]
    target.write(_head(header))
    # What follows is the pixel data as they were written, too large to be held.
    source.seek(pixel_offset)
    while block := source.read(_COPY_BYTES):
        target.write(block)


def _pixel_elements(plan: PixelPlan) -> dict[str, object]:
    elements: dict[str, object] = {
        "Rows": plan.rows,
        "Columns": plan.columns,
        "SamplesPerPixel": 1 if plan.is_grey else 3,
        "PhotometricInterpretation": "MONOCHROME2" if plan.is_grey else "RGB",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "UltrasoundColorDataPresent": 0 if plan.is_grey else 1,
    }
    return elements if plan.is_grey else elements | {"PlanarConfiguration": 0}


def _regions(facts: ImageFacts, plan: PixelPlan) -> list[Dataset]:
    """The items of the regions that the picture still has; none for one that was estimated."""
    items = []
    for index, box in plan.regions:
        elements = facts.regions[index] if index < len(facts.regions) else None
        if elements is None:
            continue
        stated = (
            elements["RegionLocationMinX0"],
            elements["RegionLocationMinY0"],
            elements["RegionLocationMaxX1"] + 1,
            elements["RegionLocationMaxY1"] + 1,
        )
        if clip(stated, float(plan.columns), float(plan.rows)) == tuple(box):
            item = Dataset()
            for keyword, value in elements.items():
                setattr(item, keyword, value)
            items.append(item)
    return items


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _head(header: Dataset) -> bytes:
    """Preamble, File Meta Information and the elements before the pixel data."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    header.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    return buffer.getvalue()
