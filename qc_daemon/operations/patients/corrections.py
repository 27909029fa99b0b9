"""Merges patients and corrects who they are, as a person orders it.

What was received stays as it is. Exams are found by the new identity, and their reports are made
anew with it: a new SR that names the former one as its predecessor, for the same destinations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from detector.console import UsageError
from qc_daemon.audit_trail.event import Actor, AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.dicom.person_name import clean_name
from qc_daemon.operations.shared import open_store, parse_person
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.patients import changes
from qc_daemon.records.patients.changes import ChangeEffect, Demographics, ExamEffect
from qc_daemon.records.tables import ExamState, PatientAction
from qc_daemon.settings import Settings

_MAX_ID = 64  # Letters of an LO (PS3.5 6.2).

Change = Callable[[Session, str, datetime], ChangeEffect]


@dataclass(frozen=True, slots=True)
class CorrectionResult:
    """What was done, or would be; `number` is None where nothing was to be changed."""

    effect: ChangeEffect
    is_preview: bool

    @property
    def lines(self) -> list[str]:
        """It as text."""
        if self.effect.number is None:
            return ["nothing to change: it is so already"]
        head = (
            "What would change" if self.is_preview else f"Change {self.effect.number} of patients"
        )
        companions = [
            f"Patient ID {each} came with this one and stays: split it too if it is to go"
            for each in self.effect.companions
        ]
        return [head, *(_line(each) for each in self.effect.exams), *companions]

    @property
    def document(self) -> dict[str, Any]:
        """It as a JSON object."""
        return {
            "number": None if self.is_preview else self.effect.number,
            "is_changed": self.effect.number is not None,
            "is_preview": self.is_preview,
            "companions": list(self.effect.companions),
            "exams": [
                {
                    "exam": each.exam_id,
                    "study_instance_uid": each.study_instance_uid,
                    "patient_id_before": each.patient_ids[0],
                    "patient_id": each.patient_ids[1],
                    "report": _report(each),
                    "destinations": list(each.destinations) if each.is_amended else [],
                }
                for each in self.effect.exams
            ],
        }


def merge(
    settings: Settings,
    patient_id: str,
    into_id: str,
    by: str,
    issuer: str | None = None,
    *,
    is_new_id_allowed: bool = False,
    is_preview: bool = False,
    clock: Clock = utc_now,
) -> CorrectionResult:
    """Make the patient with one ID part of another one; `is_new_id_allowed` as in `changes.merge`.
    Raises QCError, UsageError."""
    source, target = parse_id(patient_id, "--from"), parse_id(into_id, "--into")
    demographics = Demographics(issuer=None if issuer is None else parse_id(issuer, "--issuer"))
    return _change(
        settings,
        lambda session, who, now: changes.merge(
            session, source, target, who, now, demographics, is_new_id_allowed=is_new_id_allowed
        ),
        (PatientAction.MERGED, source, target),
        by,
        clock,
        is_preview,
    )


def split(
    settings: Settings,
    patient_id: str,
    by: str,
    *,
    is_preview: bool = False,
    clock: Clock = utc_now,
) -> CorrectionResult:
    """Undo a merge: images with this ID in their headers. Raises QCError, UsageError."""
    source = parse_id(patient_id, "ID")
    return _change(
        settings,
        lambda session, who, now: changes.split(session, source, who, now),
        (PatientAction.SPLIT, source, None),
        by,
        clock,
        is_preview,
    )


def correct(
    settings: Settings,
    patient_id: str,
    by: str,
    *,
    name: str | None = None,
    birth_date: str | None = None,
    new_id: str | None = None,
    issuer: str | None = None,
    is_as_received: bool = False,
    is_preview: bool = False,
    clock: Clock = utc_now,
) -> CorrectionResult:
    """Say otherwise than the headers who a patient is; `is_as_received`: as they say, again.

    Raises QCError, UsageError.
    """
    source = parse_id(patient_id, "ID")
    demographics = Demographics(
        None if name is None else parse_name(name),
        None if birth_date is None else parse_birth_date(birth_date),
        None if issuer is None else parse_id(issuer, "--issuer"),
    )
    target = None if new_id is None else parse_id(new_id, "--new-id")
    if is_as_received == bool(demographics.values or target):
        raise UsageError(
            "give what is to be corrected (--name, --birth-date, --new-id, --issuer),"
            " or --as-received alone"
        )

    def change(session: Session, who: str, now: datetime) -> ChangeEffect:
        if is_as_received:
            return changes.reset(session, source, who, now)
        return changes.correct(session, source, who, now, demographics, target)

    action = PatientAction.AS_RECEIVED if is_as_received else PatientAction.CORRECTED
    return _change(settings, change, (action, source, target), by, clock, is_preview)


def record_change(
    settings: Settings,
    action: PatientAction,
    patient_id: str,
    into_id: str | None,
    number: int,
    clock: Clock,
    actor: Actor | None = None,
) -> None:
    """Write the change to the audit log: IDs, no name."""
    record(
        settings,
        AuditKind.PATIENT_CHANGED,
        patient_id=patient_id,
        objects={"change": number, "into": into_id},
        detail={"what": str(action)},
        actor=actor,
        clock=clock,
    )


def parse_id(value: str, option: str) -> str:
    """A Patient ID or its issuer as LO (PS3.5 6.2). Raises UsageError, without the value."""
    text = value.strip()
    if not text or len(text) > _MAX_ID or not text.isprintable() or "\\" in text:
        raise UsageError(f"{option}: give 1 to {_MAX_ID} letters on one line, without a backslash")
    return text


def parse_name(value: str) -> str:
    """A patient's name as PN (PS3.5 6.2). Raises UsageError, without the value."""
    name = clean_name(value) if value.isprintable() and "\\" not in value else None
    if name is None:
        raise UsageError(
            "--name: give Family^Given, 64 letters at most on one line, without a backslash"
        )
    return name


def parse_birth_date(value: str) -> str:
    """A day as DA, of YYYY-MM-DD or YYYYMMDD. Raises UsageError, without the value."""
    for form in ("%Y-%m-%d", "%Y%m%d"):
        try:
            day = datetime.strptime(value.strip(), form)
        except ValueError:
            continue
        return f"{day.year:04}{day.month:02}{day.day:02}"
    raise UsageError("--birth-date: give a day, as 1990-05-31")


class _Preview(Exception):  # noqa: N818  (it carries a result; nothing went wrong)
    """Ends a transaction that is to leave nothing."""


def _change(
    settings: Settings,
    change: Change,
    what: tuple[PatientAction, str, str | None],
    by: str,
    clock: Clock,
    is_preview: bool,
) -> CorrectionResult:
    who = parse_person(by, "--by") if by or not is_preview else ""
    store = open_store(settings)
    effect = ChangeEffect(None)
    try:
        with store.begin() as session:
            effect = change(session, who, clock())
            if is_preview:
                raise _Preview
    except _Preview:
        return CorrectionResult(effect, True)
    if effect.number is not None:
        record_change(settings, *what, effect.number, clock)
    return CorrectionResult(effect, False)


def _report(exam: ExamEffect) -> str:
    if exam.is_amended:
        return "amended"
    if exam.state is ExamState.OPEN:
        return "in its next report"
    return "unchanged" if exam.is_reported else "none"


def _line(exam: ExamEffect) -> str:
    before, after = exam.patient_ids
    whose = f"Patient ID {after}" if before == after else f"Patient ID {before}, now {after}"
    report = f"report: {_report(exam)}"
    if exam.is_amended and exam.destinations:
        report += f", goes to {', '.join(exam.destinations)}"
    return f"  exam {exam.exam_id}: study {exam.study_instance_uid}; {whose}; {report}"
