"""Pictures that are stored, scored and reviewed, with their pixels: what a lab teaches from."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from sqlalchemy import text

from model.finding import Finding
from qc_daemon.dicom.acquisition import Acquisition
from qc_daemon.operations.reviews import Answer, accept, override
from qc_daemon.records.acquisition.acquisitions import store as store_acquisition
from qc_daemon.report.source import SourceInstance
from qc_daemon.settings import ReviewSettings
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.scored_exam import ScoredExam

REGION = (20.0, 10.5, 150.0, 110.0)
PATIENTS = ("Anna-4711", "Berta-4712", "")


def picture(number: int, patient: str, **values: Any) -> Dataset:
    """A still with noise for tissue and a bright name in its corner, outside of `REGION`."""
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 200, (120, 160), dtype=np.uint8)
    pixels[:8, :60] = 255
    return ultrasound_header(
        SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{number}",
        StudyInstanceUID=f"1.2.826.0.1.3680043.10.1.2.{PATIENTS.index(patient)}",
        PatientID=patient,
        InstitutionName="St. Anna",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=pixels.tobytes(),
        **values,
    )


class ReviewedExam:
    """`count` pictures of three patients; findings 1, 2, … in order."""

    def __init__(self, folder: Path, count: int) -> None:
        self.exam = ScoredExam(folder, ["sr"])
        self.settings = self.exam.settings
        self.settings.review = ReviewSettings(first_share=0, share=0, risk_share=0)
        self.paths: dict[int, Path] = {}
        for number in range(1, count + 1):
            self.receive(number)

    def receive(self, number: int, **values: Any) -> None:
        header = picture(number, PATIENTS[number % 3], **values)
        quality = "standard" if number % 2 else "non-standard"
        finding: Finding = nuchal_finding(
            SourceInstance.of(header, ""),
            region_bbox=REGION,
            quality=quality,
            description=f"nuchal translucency, {number}",
        )
        self.paths[number] = self.exam.receive(header, finding)

    def set_acquisition(self, number: int, **values: Any) -> None:
        with self.exam.store.begin() as session:
            session.execute(text("DELETE FROM acquisition WHERE revision_id = :id"), {"id": number})
            acquisition = Acquisition(**{"institution": "St. Anna", **values})
            store_acquisition(session, number, acquisition, "VOLUSON1", self.exam.now)

    def accept(self, *findings: int) -> None:
        for finding in findings:
            accept(self.settings, finding, Answer("Dr Lee"))

    def override(self, finding: int, **answer: Any) -> None:
        override(self.settings, finding, Answer("Dr Lee", reason="criterion", **answer))
