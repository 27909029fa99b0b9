"""Two patients whose exams are closed and reported."""

from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import text

from qc_daemon.spool.spool import relative_path
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import ScoredExam

ANNA, BERTA = "CANARY-4711", "CANARY-4712"
NAMES = {ANNA: "Canary^Anna", BERTA: "Canary^Berta"}
STUDIES = {ANNA: "1.2.840.113619.2.1.1", BERTA: "1.2.840.113619.2.1.2"}


class Clinic:
    """Two patients whose exams are closed and reported."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.exam = ScoredExam(folder, ["sr"])
        self.settings = self.exam.settings
        for patient in (ANNA, BERTA):
            self.receive(patient)
        self.report()

    def receive(self, patient: str, number: int = 1, **values: Any) -> None:
        headers = {
            "PatientID": patient,
            "PatientName": NAMES[patient],
            "PatientBirthDate": "19900531",
            "PatientAge": "036Y",
            "IssuerOfPatientID": "WARD",
            "StudyInstanceUID": STUDIES[patient],
            "SOPInstanceUID": f"{STUDIES[patient]}.{number}",
            **values,
        }
        path = self.exam.receive_image(ultrasound_header(**headers))
        # Where the receiver would have put it.
        place = relative_path(path.stem)
        (self.settings.store.spool / place).parent.mkdir(exist_ok=True)
        path.rename(self.settings.store.spool / place)
        with self.exam.store.begin() as session:
            session.execute(
                text("UPDATE revision SET path = :path WHERE sha256 = :sha256"),
                {"path": str(place), "sha256": path.stem},
            )

    def report(self) -> None:
        self.exam.close_again()
        while self.exam.report():
            pass

    def reports(self, patient: str) -> list[Dataset]:
        """The SRs that go to the PACS of the patient's study, oldest first."""
        sent = (each for each in self.exam.sent() if each.kind == "sr")
        datasets = [dcmread(BytesIO(each.payload or b"")) for each in sent]
        return [each for each in datasets if each.StudyInstanceUID == STUDIES[patient]]

    def rows(self, columns: str = "patient_id, patient_name") -> list[tuple[Any, ...]]:
        with self.exam.store.read() as session:
            rows = session.execute(text(f"SELECT {columns} FROM exam ORDER BY id"))
            return [tuple(row) for row in rows]

    def dump(self) -> list[list[tuple[Any, ...]]]:
        """All that a change writes to."""
        tables = ("exam", "patient_identity", "patient_change", "job")
        with self.exam.store.read() as session:
            return [
                [tuple(row) for row in session.execute(text(f"SELECT * FROM {table}"))]
                for table in tables
            ]
