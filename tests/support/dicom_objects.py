"""Small ultrasound objects with a canary for a patient, as data sets and as files."""

import io
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

US = "1.2.840.10008.5.1.4.1.1.6.1"
US_RETIRED = "1.2.840.10008.5.1.4.1.1.6"
# A name, identifier and number that must turn up in no log.
CANARY = "CANARY^NAME"
CANARY_ID = "CANARYID4711"
CANARY_ACCESSION = "CANARYACC99"
WHO_AND_WHERE: dict[str, Any] = {
    "OperatorsName": ["CANARY^OPERATOR", "CANARY^SECOND"],
    "PerformingPhysicianName": "CANARY^PHYSICIAN",
    "InstitutionName": "CANARY HOSPITAL",
    "InstitutionalDepartmentName": "CANARY WARD",
    "DeviceSerialNumber": "CANARY-7",
    "StudyDescription": "CANARY STUDY",
    "PatientAge": "031Y",
    "PatientSize": "1.6471",
    "PatientWeight": "70.4711",
}
"""Facts of acquisition that must turn up in no log either."""
CANARY_NUMBERS = ("1.6471", "70.4711")


def ultrasound(
    study: str = "1.2.3.4.5",
    sop_class: str = US,
    pixels: bytes = bytes(range(256)),
    syntax: str = ExplicitVRLittleEndian,
    **values: Any,
) -> Dataset:
    """A 16 x 16 monochrome still with a patient who is a canary."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = CANARY
    dataset.PatientID = CANARY_ID
    dataset.AccessionNumber = CANARY_ACCESSION
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = study + ".1"
    dataset.Modality = "US"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 16, 16, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    dataset.PixelData = pixels
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def part10(dataset: Dataset) -> bytes:
    """The object as a file."""
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write(folder: Path, *datasets: Dataset) -> list[Path]:
    """The objects as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.dcm" for number, _ in enumerate(datasets)]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(part10(dataset))
    return paths
