"""Findings of another database or of a file, stored in bulk.

Their exams are closed and marked as imported: nothing of them is scored, reported or delivered, and
no file of theirs lies in the spool.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Table, func, insert, select
from sqlalchemy.orm import Session

from model.image_features import ImageFeatures
from model.site.names import site_key
from qc_daemon.records.results.image_features import values_of
from qc_daemon.records.results.opinions import rows_of
from qc_daemon.records.tables import (
    AcquisitionOperator,
    AcquisitionRow,
    Device,
    Exam,
    ExamState,
    Finding,
    ImageFeaturesRow,
    Instance,
    Measurement,
    OpinionRow,
    Person,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import table_of

# So many values are asked for at once: a statement has a limited number of parameters.
_PAGE = 5000
_MILLIMETRE = "mm"
_NO_FILE = "imported"
_SAME = (
    "device_id",
    "device_source",
    "software_versions",
    "transducer",
    "transducer_type",
    "department",
    "acquired_source",
    "patient_age_years",
    "patient_size_m",
    "patient_weight_kg",
    "gestational_age_days",
    "gestational_age_source",
    "study_description",
    "burned_in_annotation",
    "performing_physician",
)
"""Columns of `acquisition` that are keys of a finding's `acquisition`."""

FindingId = tuple[str, int, int, int, str]
"""SOP Instance UID, revision, frame, region and model id."""
ExamKey = tuple[str, str]
"""Study Instance UID and patient id."""


@dataclass(frozen=True, slots=True)
class ImportedFinding:
    """A finding as it is stored: `body` is the JSON object of `Finding.to_json`, `facts` its key
    `acquisition` (None: not known); `acquired` and `zone` are local time and its offset from UTC.
    """

    exam: ExamKey
    body: dict[str, Any]
    facts: dict[str, Any] | None
    acquired: str | None
    zone: str | None
    calling_ae: str
    received_at: datetime
    features: ImageFeatures | None = None

    @property
    def id(self) -> FindingId:
        """What names the finding in every database."""
        body = self.body
        return (
            body["sop_instance_uid"],
            body["revision"],
            body["frame"],
            body["region"]["index"],
            body["bundle"]["model_id"],
        )


class FindingImport:
    """Stores findings within one transaction; what is there already stays as it is."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now
        self._exams: dict[ExamKey, int] = {}
        self._instances: dict[str, int] = {}
        self._revisions: dict[tuple[str, int], int] = {}
        self._persons = set(session.scalars(select(Person.id)))
        self._devices = set(session.scalars(select(Device.id)))
        self._measured: set[int] = set()

    def add(self, findings: Sequence[ImportedFinding]) -> int:
        """Store those of the findings that are new; returns how many."""
        # What an earlier call stored is read again where it is needed: memory does not grow.
        self._exams, self._instances, self._revisions = {}, {}, {}
        self._measured = set()
        finding_ids = read_finding_ids(self._session, {each.id[0] for each in findings})
        new = list({each.id: each for each in findings if each.id not in finding_ids}.values())
        self._add_exams(new)
        self._add_instances(new)
        added = self._add_revisions(new)
        self._add_facts(added)
        if new:
            self._add_findings(new)
        return len(new)

    def _add_findings(self, findings: Sequence[ImportedFinding]) -> None:
        rows = [self._finding_row(each) for each in findings]
        if not any(each.features or each.body.get("opinions") for each in findings):
            self._session.execute(insert(table_of(Finding)), rows)
            return
        ids = _insert(self._session, table_of(Finding), rows)
        features = [
            values_of(id, each.features)
            for id, each in zip(ids, findings, strict=True)
            if each.features is not None
        ]
        opinions = [
            row for id, each in zip(ids, findings, strict=True) for row in rows_of(id, each.body)
        ]
        for table, values in ((ImageFeaturesRow, features), (OpinionRow, opinions)):
            if values:
                self._session.execute(insert(table_of(table)), values)

    def _add_exams(self, findings: Sequence[ImportedFinding]) -> None:
        missing = {each.exam: each for each in reversed(findings) if each.exam not in self._exams}
        if not missing:
            return
        stored = exam_ids(self._session, {study for study, _ in missing})
        self._exams |= stored
        for page in _pages(sorted(stored.values())):
            self._measured.update(
                self._session.scalars(
                    select(Measurement.exam_id).where(Measurement.exam_id.in_(page)).distinct()
                )
            )
        new = [each for key, each in missing.items() if key not in self._exams]
        rows = [
            {
                "study_instance_uid": each.exam[0],
                "patient_id": each.exam[1],
                "received_patient_id": each.exam[1],
                "state": ExamState.CLOSED,
                "bundle_id": each.body["bundle"]["model_id"],
                "opened_at": each.received_at,
                "last_object_at": each.received_at,
                "closed_at": each.received_at,
                "report_revision": 0,
                "imported_at": self._now,
            }
            for each in reversed(new)
        ]
        ids = _insert(self._session, table_of(Exam), rows)
        self._exams |= zip((each.exam for each in reversed(new)), ids, strict=True)

    def _add_instances(self, findings: Sequence[ImportedFinding]) -> None:
        uids = [each.id[0] for each in findings]
        missing = [uid for uid in dict.fromkeys(uids) if uid not in self._instances]
        for page in _pages(missing):
            rows = self._session.execute(
                select(Instance.sop_instance_uid, Instance.id).where(
                    Instance.sop_instance_uid.in_(page)
                )
            )
            self._instances |= {row.sop_instance_uid: row.id for row in rows}
        new = [uid for uid in missing if uid not in self._instances]
        ids = _insert(
            self._session,
            table_of(Instance),
            [{"sop_instance_uid": uid, "created_at": self._now} for uid in new],
        )
        self._instances |= zip(new, ids, strict=True)

    def _add_revisions(self, findings: Sequence[ImportedFinding]) -> list[ImportedFinding]:
        """Store the revisions that are missing; returns a finding of each of them."""
        first = {each.id[:2]: each for each in reversed(findings)}
        missing = {key: each for key, each in reversed(first.items()) if key not in self._revisions}
        for page in _pages(sorted({self._instances[uid] for uid, _ in missing})):
            rows = self._session.execute(
                select(Revision.id, Revision.number, Instance.sop_instance_uid)
                .join(Instance, Instance.id == Revision.instance_id)
                .where(Instance.id.in_(page))
            )
            self._revisions |= {(row.sop_instance_uid, row.number): row.id for row in rows}
        new = {key: each for key, each in missing.items() if key not in self._revisions}
        ids = _insert(
            self._session, table_of(Revision), [self._revision_row(each) for each in new.values()]
        )
        self._revisions |= zip(new, ids, strict=True)
        return list(new.values())

    def _revision_row(self, finding: ImportedFinding) -> dict[str, Any]:
        uid, number, *_ = finding.id
        return {
            "instance_id": self._instances[uid],
            "exam_id": self._exams[finding.exam],
            "number": number,
            "state": RevisionState.SCORED,
            "sha256": sha256(f"{_NO_FILE}/{uid}/{number}".encode()).hexdigest(),
            "size": 0,
            "path": _NO_FILE,
            "sop_class_uid": "",
            "series_instance_uid": finding.body["series_instance_uid"] or "",
            "transfer_syntax_uid": "",
            "calling_ae": finding.calling_ae,
            "received_at": finding.received_at,
            "dropped_at": self._now,
            "unavailable_at": self._now,
        }

    def _add_facts(self, findings: Sequence[ImportedFinding]) -> None:
        """Store the facts of these findings' revisions, with the persons and devices they name."""
        stated = [each for each in findings if each.facts is not None]
        self._add_identities(stated)
        facts = [self._facts_row(each) for each in stated]
        operators = [
            {"revision_id": self._revisions[each.id[:2]], "person_id": person}
            for each in stated
            for person in sorted(set((each.facts or {})["person_ids"]))
        ]
        measured = [row for each in stated for row in self._measurement_rows(each)]
        for table, rows in (
            (AcquisitionRow, facts),
            (AcquisitionOperator, operators),
            (Measurement, measured),
        ):
            if rows:
                self._session.execute(insert(table_of(table)), rows)

    def _add_identities(self, findings: Sequence[ImportedFinding]) -> None:
        persons, devices = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
        for each in findings:
            facts = each.facts or {}
            is_coded = "code" in (facts.get("person_source") or "")
            for id in facts["person_ids"]:
                if id not in self._persons:
                    code = {"code": id, "scheme": _NO_FILE} if is_coded else {}
                    persons[id] = self._identity(id) | {"code": None, "scheme": None} | code
            device = facts.get("device_id")
            if device is not None and device not in self._devices:
                made_by = {"manufacturer": facts.get("manufacturer")}
                devices[device] = self._identity(device) | made_by
        if persons:
            self._session.execute(insert(table_of(Person)), list(persons.values()))
        if devices:
            self._session.execute(insert(table_of(Device)), list(devices.values()))
        self._persons |= set(persons)
        self._devices |= set(devices)

    def _identity(self, id: str) -> dict[str, Any]:
        return {"id": id, "identity": f"{_NO_FILE}:{id}", "created_at": self._now}

    def _facts_row(self, finding: ImportedFinding) -> dict[str, Any]:
        facts = finding.facts or {}
        return {
            "revision_id": self._revisions[finding.id[:2]],
            "state": facts["state"],
            "institution": facts.get("site"),
            "site": site_key(facts.get("site")),
            "acquired": finding.acquired,
            "acquired_zone": finding.zone,
            "read_at": self._now,
            **{name: facts.get(name) for name in _SAME},
        }

    def _measurement_rows(self, finding: ImportedFinding) -> list[dict[str, Any]]:
        """What a machine's report measured, once an exam."""
        facts, exam_id = finding.facts or {}, self._exams[finding.exam]
        values = {"CRL": facts.get("crl_mm"), "NT": facts.get("nt_mm")}
        if exam_id in self._measured or not any(values.values()):
            return []
        self._measured.add(exam_id)
        row = {"revision_id": self._revisions[finding.id[:2]], "exam_id": exam_id}
        return [
            {**row, "fetus": None, "concept": concept, "value": value, "unit": _MILLIMETRE}
            for concept, value in values.items()
            if value is not None
        ]

    def _finding_row(self, finding: ImportedFinding) -> dict[str, Any]:
        body = finding.body
        return {
            "revision_id": self._revisions[finding.id[:2]],
            "frame": body["frame"],
            "region": body["region"]["index"],
            "model_id": body["bundle"]["model_id"],
            "view": body["view"]["code"],
            "view_probability": body["view"]["probability"],
            "quality": body["quality"]["label"],
            "probability": body["quality"]["probability"],
            "body": body,
            "created_at": finding.received_at,
        }


def read_finding_ids(session: Session, uids: Collection[str]) -> set[FindingId]:
    """The finding_ids findings of these SOP Instance UIDs."""
    finding_ids = set[FindingId]()
    for page in _pages(sorted(uids)):
        rows = session.execute(
            select(
                Instance.sop_instance_uid,
                Revision.number,
                Finding.frame,
                Finding.region,
                Finding.model_id,
            )
            .join(Revision, Revision.instance_id == Instance.id)
            .join(Finding, Finding.revision_id == Revision.id)
            .where(Instance.sop_instance_uid.in_(page))
        )
        finding_ids.update((row[0], row[1], row[2], row[3], row[4]) for row in rows)
    return finding_ids


def exam_ids(session: Session, studies: Collection[str]) -> dict[ExamKey, int]:
    """The imported exams of these studies."""
    ids = dict[ExamKey, int]()
    for page in _pages(sorted(studies)):
        rows = session.execute(
            select(Exam.id, Exam.study_instance_uid, Exam.received_patient_id).where(
                Exam.study_instance_uid.in_(page), Exam.imported_at.is_not(None)
            )
        )
        ids |= {(row.study_instance_uid, row.received_patient_id): row.id for row in rows}
    return ids


def received_uids(
    session: Session, studies: Collection[str], instances: Collection[str]
) -> set[str]:
    """Those of these study and SOP Instance UIDs whose objects were received here."""
    received = set[str]()
    for page in _pages(sorted(studies)):
        received.update(
            session.scalars(
                select(Exam.study_instance_uid).where(
                    Exam.study_instance_uid.in_(page), Exam.imported_at.is_(None)
                )
            )
        )
    for page in _pages(sorted(instances)):
        received.update(
            session.scalars(
                select(Instance.sop_instance_uid)
                .join(Revision, Revision.instance_id == Instance.id)
                .join(Exam, Exam.id == Revision.exam_id)
                .where(Instance.sop_instance_uid.in_(page), Exam.imported_at.is_(None))
            )
        )
    return received


def _insert(session: Session, table: Table, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert the rows; their ids, in their order."""
    if not rows:
        return []
    if session.get_bind().dialect.name == "sqlite":
        # There the transaction is alone, and rows that are asked for their ids go in one by one.
        first = (session.scalar(select(func.max(table.c.id))) or 0) + 1
        session.execute(
            insert(table), [{**row, "id": first + place} for place, row in enumerate(rows)]
        )
        return list(range(first, first + len(rows)))
    statement = insert(table).returning(table.c.id, sort_by_parameter_order=True)
    return list(session.scalars(statement, list(rows)))


def _pages(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + _PAGE] for start in range(0, len(values), _PAGE)]
