"""Pictures of one person and device that audits of three dates show; all of their patient named."""

import json
from pathlib import Path
from typing import Any

from qc_daemon.dicom.acquisition import Operator
from qc_daemon.operations.audit_reports import ReportPeriod, Target, make_report
from qc_daemon.operations.identities import list_devices, list_persons
from qc_daemon.records.tables import AuditRow, AuditState
from tests.support.audit_json import audit_json
from tests.support.reviewed_exam import ReviewedExam

CANARIES = (
    "CANARYNAME",
    "CANARYFIRST",
    "Anna-4711",
    "Berta-4712",
    "19871231",
    "1987-12-31",
    "CANARYACC",
)
ANY = ReportPeriod()


class AuditedExam:
    """Four pictures by one person on one device, with audits of three dates that show them."""

    def __init__(self, folder: Path) -> None:
        self.reviewed = ReviewedExam(folder, 0)
        self.settings = self.reviewed.settings
        for number in range(1, 5):
            self.reviewed.receive(
                number,
                PatientName="CANARYNAME^CANARYFIRST",
                PatientBirthDate="19871231",
                AccessionNumber="CANARYACC",
            )
            self.reviewed.set_acquisition(
                number,
                operators=(Operator("Berg^Anna"),),
                serial_number="SN1",
                manufacturer="GE",
                model="Voluson E10",
            )
        (self.person,) = [row["id"] for row in list_persons(self.settings)]
        (self.device,) = [row["id"] for row in list_devices(self.settings)]
        for day in ("2026-06-26", "2026-06-27", "2026-06-28"):
            self.store_audit(day)

    def body(self, day: str) -> dict[str, Any]:
        text = json.dumps(audit_json({"p1": 120, **{f"q{i}": 40 + i for i in range(8)}}))
        text = text.replace('"p1"', f'"{self.person}"').replace('"d1"', f'"{self.device}"')
        body: dict[str, Any] = json.loads(text)
        body["date"] = day
        subject = next(s for s in body["subjects"] if s["id"] == self.person)
        subject["examples"] = {
            "good": [{"finding_id": 1, "view": "NT"}, {"finding_id": 3, "view": "NT"}],
            "instructive": [{"finding_id": 2, "view": "NT"}, {"finding_id": 4, "view": "NT"}],
        }
        return body

    def store_audit(self, day: str, state: AuditState = AuditState.DONE) -> None:
        now = self.reviewed.exam.now
        with self.reviewed.exam.store.begin() as session:
            session.add(
                AuditRow(
                    name="nightly",
                    local_date=day,
                    state=state,
                    content=json.dumps(self.body(day)).encode()
                    if state is AuditState.DONE
                    else None,
                    created_at=now,
                    updated_at=now,
                )
            )

    def report(self, format: str = "html", period: ReportPeriod = ANY, **target: str) -> bytes:
        return make_report(self.settings, Target.of(**target), period, format)
