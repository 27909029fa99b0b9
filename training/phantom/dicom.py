"""Phantoms as DICOM: Ultrasound Image and Ultrasound Multi-frame Image objects (PS3.3 A.6, A.7).

Every name and identifier is invented; UIDs follow from the seed (2.25 and UUIDv5, PS3.5 B.2).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from detector.anatomy import View
from detector.imaging.dicom_file import SIMULATOR
from training.phantom.simulate import VIEWS, Phantom, make, make_cine

_NAMESPACE = uuid.UUID("6f1c2a58-7a0e-5e0b-9d3c-2f5b8c1d4e90")
_IMPLEMENTATION = UID("2.25.221853911036154826479530386158114271397")
_CENTIMETRES = 3
_EXAM_SEEDS = 1 << 40
"""Exams take their pictures' seeds from here on, so that no data set shares them."""
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless)

START = datetime(2026, 1, 5, 9, 0)


@dataclass(frozen=True, slots=True)
class Patient:
    """An invented woman."""

    identifier: str
    name: str
    birth_date: date

    @classmethod
    def of(cls, seed: int) -> "Patient":
        """The patient that goes with a seed."""
        rng = np.random.default_rng([seed, 10])
        born = date(1986, 1, 1) + timedelta(days=int(rng.integers(0, 5000)))
        return cls(f"PHANTOM-{seed:06d}", f"PHANTOM^{_letters(seed)}", born)


def uid(seed: int, role: str) -> UID:
    """The UID of a role (`study`, `series/1`, ...) in the exam of a seed."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{seed}/{role}').int}")


def to_dataset(
    phantom: Phantom | Sequence[Phantom],
    *,
    patient: Patient,
    study_uid: str,
    series_uid: str,
    instance_number: int,
    operator: str,
    station: str,
    start: datetime,
    acquired: datetime | None = None,
    frame_time_ms: float = 40.0,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> Dataset:
    """A still of one phantom, or a cine of several of one size; file meta included.

    `start` is when the study began, `acquired` (default: the same) when this picture was taken.

    Raises:
        ValueError: no frames, frames of unlike size, or a transfer syntax other than implicit or
            explicit VR little endian and RLE.
    """
    still = isinstance(phantom, Phantom)
    frames: tuple[Phantom, ...] = (phantom,) if isinstance(phantom, Phantom) else tuple(phantom)
    if not frames or len({frame.pixels.shape for frame in frames}) != 1:
        raise ValueError("a cine needs frames, all of one size")
    if transfer_syntax not in _SYNTAXES:
        raise ValueError(f"transfer syntax {transfer_syntax} is not written")
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = UltrasoundImageStorage if still else UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = uid(frames[0].seed, f"{series_uid}/{instance_number}")
    _patient_and_study(dataset, patient, study_uid, start)
    _series(dataset, series_uid, operator, start)
    _equipment(dataset, station)
    _image(dataset, instance_number, acquired or start)
    _pixels(dataset, frames)
    _regions(dataset, frames[0])
    if not still:
        _cine(dataset, len(frames), frame_time_ms)
    _file_meta(dataset)
    if transfer_syntax == RLELossless:
        # GDCM's encoder aborts the process on some frame sizes.
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    return dataset


def exam(
    seed: int,
    *,
    views: Sequence[View] = VIEWS,
    operator: str = "SONOGRAPHER^ONE",
    station: str = "PHANTOM-US1",
    start: datetime = START,
    cine_frames: int = 24,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> list[Dataset]:
    """One woman's study: each view standard and non-standard, then a cine, of NT where asked."""
    objects = exam_with_truth(
        seed,
        views=views,
        operator=operator,
        station=station,
        start=start,
        cine_frames=cine_frames,
        transfer_syntax=transfer_syntax,
    )
    return [dataset for dataset, _ in objects]


def exam_with_truth(
    seed: int,
    *,
    views: Sequence[View] = VIEWS,
    operator: str = "SONOGRAPHER^ONE",
    station: str = "PHANTOM-US1",
    start: datetime = START,
    cine_frames: int = 24,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> list[tuple[Dataset, tuple[Phantom, ...]]]:
    """The objects of `exam`, each with the phantoms of its frames. `cine_frames` 0: no cine.

    The cine sweeps the NT view where that is among `views`, else the first of them.
    """
    takes: list[Phantom | list[Phantom]] = [
        make(_EXAM_SEEDS + seed * 10 + i, view, standard)
        for i, (view, standard) in enumerate((v, s) for v in views for s in (True, False))
    ]
    if cine_frames:
        swept = View.NT if View.NT in views else views[0]
        if swept is not View.OTHER:
            takes.append(make_cine(_EXAM_SEEDS + seed, swept, cine_frames))
    objects: list[tuple[Dataset, tuple[Phantom, ...]]] = []
    for number, take in enumerate(takes, 1):
        dataset = to_dataset(
            take,
            patient=Patient.of(seed),
            study_uid=uid(seed, "study"),
            series_uid=uid(seed, "series/1"),
            instance_number=number,
            operator=operator,
            station=station,
            start=start,
            acquired=start + timedelta(seconds=45 * number),
            transfer_syntax=transfer_syntax,
        )
        objects.append((dataset, (take,) if isinstance(take, Phantom) else tuple(take)))
    return objects


def _patient_and_study(dataset: Dataset, patient: Patient, study_uid: str, start: datetime) -> None:
    """PS3.3 C.7.1.1, C.7.2.1."""
    dataset.PatientName = patient.name
    dataset.PatientID = patient.identifier
    dataset.PatientBirthDate = f"{patient.birth_date:%Y%m%d}"
    dataset.PatientSex = "F"
    dataset.StudyInstanceUID = study_uid
    dataset.StudyDate = f"{start:%Y%m%d}"
    dataset.StudyTime = f"{start:%H%M%S}"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.AccessionNumber = f"A{patient.identifier[-6:]}"
    dataset.StudyDescription = "First-trimester scan (simulated)"


def _series(dataset: Dataset, series_uid: str, operator: str, start: datetime) -> None:
    """PS3.3 C.7.3.1."""
    dataset.Modality = "US"
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = 1
    dataset.SeriesDate = f"{start:%Y%m%d}"
    dataset.SeriesTime = f"{start:%H%M%S}"
    dataset.OperatorsName = operator
    # An unpaired part: with a paired or unknown one Laterality would be required.
    dataset.BodyPartExamined = "UTERUS"


def _equipment(dataset: Dataset, station: str) -> None:
    """PS3.3 C.7.5.1."""
    dataset.Manufacturer = SIMULATOR
    dataset.ManufacturerModelName = "Phantom simulator"
    dataset.InstitutionName = "PHANTOM CLINIC"
    dataset.StationName = station
    dataset.DeviceSerialNumber = f"SIM-{station}"
    dataset.SoftwareVersions = "1"


def _image(dataset: Dataset, instance_number: int, acquired: datetime) -> None:
    """PS3.3 C.7.6.1, C.8.5.6."""
    dataset.InstanceNumber = instance_number
    dataset.ContentDate = f"{acquired:%Y%m%d}"
    dataset.ContentTime = f"{acquired:%H%M%S}"
    dataset.AcquisitionDateTime = f"{acquired:%Y%m%d%H%M%S}"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ""
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    dataset.TransducerType = "CURVED LINEAR"


def _pixels(dataset: Dataset, frames: tuple[Phantom, ...]) -> None:
    """PS3.3 C.7.6.3."""
    rows, columns, samples = frames[0].pixels.shape
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = 8
    dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.UltrasoundColorDataPresent = int(frames[0].view is View.OTHER)
    raw = b"".join(frame.pixels.tobytes() for frame in frames)
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"


def _regions(dataset: Dataset, phantom: Phantom) -> None:
    """The tissue region with its scale, PS3.3 C.8.5.5; the location's maximum is inclusive."""
    x0, y0, x1, y1 = phantom.region
    region = Dataset()
    region.RegionSpatialFormat = 1
    region.RegionDataType = 1
    region.RegionFlags = 2
    region.RegionLocationMinX0 = int(x0)
    region.RegionLocationMinY0 = int(y0)
    region.RegionLocationMaxX1 = int(x1) - 1
    region.RegionLocationMaxY1 = int(y1) - 1
    region.PhysicalUnitsXDirection = _CENTIMETRES
    region.PhysicalUnitsYDirection = _CENTIMETRES
    region.PhysicalDeltaX = phantom.spacing_mm / 10
    region.PhysicalDeltaY = phantom.spacing_mm / 10
    dataset.SequenceOfUltrasoundRegions = DicomSequence([region])


def _cine(dataset: Dataset, frames: int, frame_time_ms: float) -> None:
    """PS3.3 C.7.6.5, C.7.6.6."""
    dataset.NumberOfFrames = frames
    dataset.FrameTime = f"{frame_time_ms:g}"
    dataset.FrameIncrementPointer = 0x00181063
    dataset.RecommendedDisplayFrameRate = max(1, round(1000 / frame_time_ms))


def _file_meta(dataset: Dataset) -> None:
    """PS3.10 7.1."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "QCPHANTOM1"
    dataset.file_meta = meta


def _letters(seed: int) -> str:
    """A given name of capital letters that differs from seed to seed."""
    letters = ""
    quotient = seed
    while not letters or quotient:
        quotient, digit = divmod(quotient, 26)
        letters = chr(ord("A") + digit) + letters
    return letters
