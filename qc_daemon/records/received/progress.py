"""How far an exam has come: open or closed and why, what was reported, where that went."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from qc_daemon.records.queue.jobs import PENDING
from qc_daemon.records.tables import (
    Exam,
    ExamHold,
    Instance,
    JobKind,
    JobRow,
    ReportObjectRow,
    Revision,
)


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """How many objects of one kind and report a destination has, by the state of their jobs.

    `kind` is "source" or a report object's kind; `report_revision` is 0 for originals.
    """

    kind: str
    report_revision: int
    destination: str
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class Progress:
    """One exam. `closed_by` and `outcome` are None while it is open; `scoring` counts objects
    still to be scored, `associations` those that may bring more. `sent` is ordered by report, kind,
    destination and state."""

    exam_id: int
    patient_id: str
    state: str
    objects: int
    opened_at: datetime
    last_object_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    outcome: str | None
    report_revision: int
    scoring: int
    associations: int
    sent: tuple[DeliveryCount, ...]


def of_study(session: Session, study_instance_uid: str) -> list[Progress]:
    """The exams of a study (one for each patient ID that came with it), oldest first."""
    return [
        _progress(session, exam)
        for exam in session.scalars(
            select(Exam).where(Exam.study_instance_uid == study_instance_uid).order_by(Exam.id)
        )
    ]


def of_exam(session: Session, exam_id: int) -> Progress:
    """How far the exam is; raises LookupError if there is none of that id."""
    exam = session.get(Exam, exam_id)
    if exam is None:
        raise LookupError(f"no exam {exam_id}")
    return _progress(session, exam)


def _progress(session: Session, exam: Exam) -> Progress:
    objects = (
        select(func.count(Instance.id.distinct()))
        .join(Revision, Revision.instance_id == Instance.id)
        .where(Revision.exam_id == exam.id)
    )
    scoring = select(func.count(JobRow.id)).where(
        JobRow.exam_id == exam.id, JobRow.kind == JobKind.SCORE, JobRow.state.in_(PENDING)
    )
    holds = select(func.count(ExamHold.token)).where(ExamHold.exam_id == exam.id)
    return Progress(
        exam_id=exam.id,
        patient_id=exam.patient_id,
        state=exam.state,
        objects=session.execute(objects).scalar_one(),
        opened_at=exam.opened_at,
        last_object_at=exam.last_object_at,
        closed_at=exam.closed_at,
        closed_by=exam.closed_by,
        outcome=exam.outcome,
        report_revision=exam.report_revision,
        scoring=session.execute(scoring).scalar_one(),
        associations=session.execute(holds).scalar_one(),
        sent=tuple(_delivery_counts(session, exam.id)),
    )


def _delivery_counts(session: Session, exam_id: int) -> list[DeliveryCount]:
    kind = func.coalesce(ReportObjectRow.kind, "source")
    number = func.coalesce(ReportObjectRow.report_revision, 0)
    rows = session.execute(
        select(kind, number, JobRow.destination, JobRow.state, func.count())
        .join(ReportObjectRow, ReportObjectRow.id == JobRow.object_id, isouter=True)
        .where(JobRow.exam_id == exam_id, JobRow.kind == JobKind.DELIVER)
        .group_by(kind, number, JobRow.destination, JobRow.state)
    )
    counts = [DeliveryCount(*row) for row in rows]
    return sorted(counts, key=lambda s: (s.report_revision, s.kind, s.destination, s.state))
