"""How far an exam has come: open or closed and why, what was reported, where that went."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Label, func, select
from sqlalchemy.orm import Session

from qc_daemon.records.queue.jobs import FAILED_STATES, PENDING
from qc_daemon.records.tables import (
    Exam,
    ExamHold,
    ExamState,
    JobKind,
    JobRow,
    ObjectKind,
    Rejection,
    ReportObjectRow,
    Revision,
    RevisionState,
)


class ExamStatus(StrEnum):
    """What became of an exam, in the words that people and programs read."""

    WAITING = "waiting"
    REPORT_DUE = "report due"
    REPORT_FAILED = "report failed"
    REPORTED = "reported"
    QUARANTINED = "in quarantine"
    NOTHING_TO_REPORT = "nothing to report"


def exam_status(exam: Any) -> ExamStatus:
    """The status of an exam by its state and the columns of `status_columns`.

    Waiting: it is open. Report due, failed: the job of its last report is to be done, was given up.
    Reported: there is a report. Else every object is in quarantine, or no object shows a picture.
    """
    if exam.state == ExamState.OPEN:
        return ExamStatus.WAITING
    if exam.report_job in PENDING:
        return ExamStatus.REPORT_DUE
    if exam.report_job in FAILED_STATES:
        return ExamStatus.REPORT_FAILED
    if exam.reported:
        return ExamStatus.REPORTED
    if exam.objects and exam.quarantined == exam.objects:
        return ExamStatus.QUARANTINED
    return ExamStatus.NOTHING_TO_REPORT


def status_columns() -> list[Label[Any]]:
    """Of each exam of a statement: how many `objects` it has; how many of them are `quarantined`,
    with no content that is not; how many images a person `rejected`; how many score jobs are not
    done (`scoring`); the state of the job of its last report (`report_job`, None without one); and
    the number of the latest report there is (`reported`, 0 without one)."""
    objects = _count_instances()
    readable = _count_instances(Revision.state != RevisionState.QUARANTINED)
    rejected = _count_instances(
        Revision.instance_id.in_(
            select(Rejection.instance_id).where(Rejection.retracted_at.is_(None))
        )
    )
    scoring = select(func.count(JobRow.id)).where(
        JobRow.exam_id == Exam.id, JobRow.kind == JobKind.SCORE, JobRow.state.in_(PENDING)
    )
    report_job = select(JobRow.state).where(
        JobRow.exam_id == Exam.id,
        JobRow.kind == JobKind.REPORT,
        JobRow.revision == Exam.report_revision,
    )
    reported = select(func.coalesce(func.max(ReportObjectRow.report_revision), 0)).where(
        ReportObjectRow.exam_id == Exam.id, ReportObjectRow.kind == ObjectKind.SR
    )
    return [
        objects.label("objects"),
        (objects - readable).label("quarantined"),
        rejected.label("rejected"),
        scoring.scalar_subquery().label("scoring"),
        report_job.scalar_subquery().label("report_job"),
        reported.scalar_subquery().label("reported"),
    ]


def _count_instances(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    return (
        select(func.count(Revision.instance_id.distinct()))
        .where(Revision.exam_id == Exam.id, *conditions)
        .scalar_subquery()
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
    """One exam. `closed_by` and `outcome` are None while it is open; `associations` counts those
    that may bring more objects; for `quarantined`, `rejected`, `scoring`, `report_job` and
    `reported` see `status_columns`. `sent` is ordered by report, kind, destination and state."""

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
    quarantined: int
    rejected: int
    scoring: int
    report_job: str | None
    reported: int
    associations: int
    sent: tuple[DeliveryCount, ...]


def of_study(session: Session, study_instance_uid: str) -> list[Progress]:
    """The exams of a study (one for each patient ID that came with it), oldest first."""
    return _progress(session, Exam.study_instance_uid == study_instance_uid)


def of_exam(session: Session, exam_id: int) -> Progress:
    """How far the exam is; raises LookupError if there is none of that id."""
    exams = _progress(session, Exam.id == exam_id)
    if not exams:
        raise LookupError(f"no exam {exam_id}")
    return exams[0]


def _progress(session: Session, condition: ColumnElement[bool]) -> list[Progress]:
    holds = select(func.count(ExamHold.token)).where(ExamHold.exam_id == Exam.id).scalar_subquery()
    rows = session.execute(
        select(*Exam.__table__.c, *status_columns(), holds.label("associations"))
        .where(condition)
        .order_by(Exam.id)
    ).all()
    return [
        Progress(
            exam_id=row.id,
            patient_id=row.patient_id,
            state=row.state,
            objects=row.objects,
            opened_at=row.opened_at,
            last_object_at=row.last_object_at,
            closed_at=row.closed_at,
            closed_by=row.closed_by,
            outcome=row.outcome,
            report_revision=row.report_revision,
            quarantined=row.quarantined,
            rejected=row.rejected,
            scoring=row.scoring,
            report_job=row.report_job,
            reported=row.reported,
            associations=row.associations,
            sent=tuple(_delivery_counts(session, row.id)),
        )
        for row in rows
    ]


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
