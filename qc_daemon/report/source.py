"""A report's source instance: its normalised header and the hash of its content."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset

from detector.errors import ErrorCode, QCError
from detector.imaging.dicom_file import integer
from detector.imaging.regions import tissue_regions
from qc_daemon.records.patients.identities import PatientCorrection
from qc_daemon.report.normalise import UIDS, normalise

MULTI_FRAME_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame (retired)
        "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame
        "1.2.840.10008.5.1.4.1.1.6.2",  # Enhanced US Volume
        "1.2.840.10008.5.1.4.1.1.7.1",  # Multi-frame Single Bit Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
        "1.2.840.10008.5.1.4.1.1.77.1.1.1",  # Video Endoscopic
        "1.2.840.10008.5.1.4.1.1.77.1.2.1",  # Video Microscopic
        "1.2.840.10008.5.1.4.1.1.77.1.4.1",  # Video Photographic
    }
)
"""References to objects of these classes carry a frame number, whatever NumberOfFrames says."""


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """An object of the study, as references name it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class SourceInstance:
    """A normalised header, the SHA-256 of the received content, and whether values were lost.

    `spacing_mm`: by index of the ultrasound region, (x, y) mm per pixel where the header says it.
    """

    header: Dataset
    sha256: str
    has_lost_values: bool = False
    spacing_mm: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, received: Dataset, sha256: str) -> "SourceInstance":
        """The source with this received header (pixels not needed).

        Raises QCError REPORT_INVALID if a UID is missing that references must repeat.
        """
        header, lost = normalise(received)
        for keyword in UIDS:
            if keyword not in header:
                raise QCError(ErrorCode.REPORT_INVALID, _missing_uid(keyword))
        return cls(header, sha256, lost, _spacing(received))

    def correct_patient(self, correction: PatientCorrection | None) -> None:
        """Have the header say of the patient what was said instead of it; None: nothing."""
        if correction is None:
            return
        if correction.patient_id is not None:
            self.header.PatientID = correction.patient_id
        if correction.name is not None:
            self.header.PatientName = correction.name
        if correction.birth_date not in (None, str(self.header.get("PatientBirthDate") or "")):
            self.header.PatientBirthDate = correction.birth_date
            # They follow from another birth date.
            for keyword in ("PatientAge", "PatientBirthTime"):
                if keyword in self.header:
                    del self.header[keyword]
        if correction.issuer is not None:
            self.header.IssuerOfPatientID = correction.issuer

    @property
    def study_instance_uid(self) -> str:
        return str(self.header.StudyInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        return str(self.header.SeriesInstanceUID)

    @property
    def sop_class_uid(self) -> str:
        return str(self.header.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        return str(self.header.SOPInstanceUID)

    @property
    def reference(self) -> InstanceReference:
        return InstanceReference(
            self.study_instance_uid,
            self.series_instance_uid,
            self.sop_class_uid,
            self.sop_instance_uid,
        )

    @property
    def numbers(self) -> tuple[int, int]:
        """Series Number and Instance Number, for sorting; the largest integer stands for a missing
        one."""
        numbers = (self.header.get(name) for name in ("SeriesNumber", "InstanceNumber"))
        series, instance = (sys.maxsize if number is None else int(number) for number in numbers)
        return series, instance

    @property
    def station_name(self) -> str:
        return str(self.header.get("StationName", ""))

    @property
    def study_description(self) -> str:
        return str(self.header.get("StudyDescription", ""))

    @property
    def is_multi_frame(self) -> bool:
        return self.sop_class_uid in MULTI_FRAME_CLASSES

    def frame_numbers(self, frame: int) -> list[int] | None:
        """Referenced Frame Number of this frame; None for single-frame classes."""
        return [frame] if self.is_multi_frame else None


def _missing_uid(keyword: str) -> str:
    tag = tag_for_keyword(keyword) or 0
    return (
        f"a report needs the {dictionary_description(keyword)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        " of each picture, and this one has none: correct that at the machine and send it again"
    )


def _spacing(received: Dataset) -> Mapping[int, tuple[float, float]]:
    rows, columns = integer(received, "Rows"), integer(received, "Columns")
    if not rows or not columns:
        return {}
    return {
        region.index: region.spacing_mm
        for region in tissue_regions(received, rows, columns)
        if region.spacing_mm is not None
    }
