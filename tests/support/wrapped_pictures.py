"""Pictures as DICOM: what a scanner would have sent, for an invented patient."""

import csv
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

_START = datetime(2026, 2, 3, 10, 0)


def nuchal_pictures(folder: Path, count: int) -> list[Path]:
    """Pictures of the Fetus Framework data set, half of them of each quality, in a fixed order."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths: list[Path] = []
    for quality, share in (("standard", count - count // 2), ("nonstandard", count // 2)):
        of_quality = [folder / row["local_file"] for row in rows if row["quality"] == quality]
        paths += of_quality[:share]
    return paths


def ultrasound_image(picture: Path, patient: int, number: int) -> Dataset:
    """An Ultrasound Image object (PS3.3 A.6), RGB, file meta included.

    `patient` decides patient, study and series, `number` (from 1) the instance.
    """
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    acquired = _START + timedelta(days=patient, seconds=40 * number)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.SOPInstanceUID = _uid("instance", patient, number)
    _patient_study_series(dataset, patient, acquired)
    dataset.InstanceNumber = number
    dataset.ContentDate, dataset.ContentTime = f"{acquired:%Y%m%d}", f"{acquired:%H%M%S}"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ""
    # The pictures were JPEG files once.
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = "10"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.UltrasoundColorDataPresent = 0
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = pixels.shape
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    raw = pixels.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _patient_study_series(dataset: Dataset, patient: int, acquired: datetime) -> None:
    dataset.PatientName = f"Wrapped^Änne {patient}"
    dataset.PatientID = f"WRAP-{patient:03d}"
    dataset.PatientBirthDate = f"{date(1990, 1, 1) + timedelta(days=100 * patient):%Y%m%d}"
    dataset.PatientSex = "F"
    dataset.StudyInstanceUID = _uid("study", patient)
    dataset.SeriesInstanceUID = _uid("series", patient)
    dataset.StudyDate, dataset.StudyTime = f"{acquired:%Y%m%d}", f"{_START:%H%M%S}"
    dataset.StudyID, dataset.AccessionNumber = str(patient), f"ACC{patient:03d}"
    dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.SeriesNumber = "US", 1
    dataset.OperatorsName = "Sonographer^Two"
    # An unpaired part: with a paired or unknown one Laterality would be required.
    dataset.BodyPartExamined = "UTERUS"
    dataset.Manufacturer, dataset.StationName = "qc-daemon test", "WRAP-US"


def _uid(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=["qc-daemon wrap", *map(str, parts)]))
