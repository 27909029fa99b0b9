"""Exams that something came for lately, with a mark of each that changes whenever it does.

A number that only grows would miss a row whose transaction ends after one with a larger number, so
that marks are compared, of few exams: those open and the last opened, both found by an index.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from qc_daemon.records.received.progress import status_columns
from qc_daemon.records.tables import (
    AcquisitionOperator,
    Exam,
    ExamState,
    Finding,
    ReviewEvent,
    Revision,
    RevisionState,
)

MAX_EXAMS = 60
"""So many exams are looked at, of those that are open and of those opened last."""


@dataclass(frozen=True, slots=True)
class RecentExam:
    """An exam as it is now; `row` has its columns and `status_columns`, `mark` differs from that of
    another moment if anything did that a page shows of it."""

    exam_id: int
    row: Any
    mark: tuple[Any, ...]


def recent_exams(session: Session, since: datetime) -> list[RecentExam]:
    """Exams whose last object came since then, the latest first, at most MAX_EXAMS."""
    is_open = select(Exam.id).where(Exam.state == ExamState.OPEN)
    latest = select(Exam.id)
    ids = {
        exam_id
        for statement in (is_open, latest)
        for exam_id in session.scalars(statement.order_by(Exam.id.desc()).limit(MAX_EXAMS))
    }
    rows = session.execute(
        select(*Exam.__table__.c, *status_columns(), *_mark_columns())
        .where(Exam.id.in_(ids), Exam.last_object_at >= since, Exam.imported_at.is_(None))
        .order_by(Exam.last_object_at.desc(), Exam.id.desc())
        .limit(MAX_EXAMS)
    )
    return [RecentExam(row.id, row, tuple(row)) for row in rows]


def _mark_columns() -> list[Any]:
    """What the columns of an exam do not tell: contents, findings, reviews, patients of its
    study."""
    of_exam = Revision.exam_id == Exam.id
    finding_revision = func.coalesce(Revision.source_revision_id, Revision.id)
    findings = (
        select(func.count(Finding.id))
        .join(Revision, Finding.revision_id == finding_revision)
        .where(of_exam)
    )
    reviews = (
        select(func.count(ReviewEvent.id))
        .join(Finding, Finding.id == ReviewEvent.finding_id)
        .join(Revision, Finding.revision_id == finding_revision)
        .where(of_exam)
    )
    of_study = aliased(Exam)
    patients = select(func.count(of_study.id)).where(
        of_study.study_instance_uid == Exam.study_instance_uid
    )
    return [
        select(func.count(Revision.id)).where(of_exam).scalar_subquery().label("contents"),
        select(func.count(Revision.dismissed_at))
        .where(of_exam)
        .scalar_subquery()
        .label("dismissed"),
        findings.scalar_subquery().label("findings"),
        reviews.scalar_subquery().label("reviews"),
        patients.scalar_subquery().label("patients"),
    ]


@dataclass(frozen=True, slots=True)
class ExamContents:
    """What came for an exam: the AE titles that stored it, the reason code of each object that is
    in quarantine, and who made each image."""

    machines: tuple[str, ...]
    quarantined: tuple[str, ...]
    persons: dict[int, frozenset[str]]


def exam_contents(session: Session, exam_id: int) -> ExamContents:
    """What came for this exam."""
    contents = session.execute(
        select(
            Revision.id,
            Revision.instance_id,
            Revision.state,
            Revision.calling_ae,
            Revision.reason_code,
            Revision.dismissed_at,
        )
        .where(Revision.exam_id == exam_id)
        .order_by(Revision.id)
    ).all()
    newest = {row.instance_id: row for row in contents}
    readable = {row.instance_id for row in contents if row.state != RevisionState.QUARANTINED}
    return ExamContents(
        machines=tuple(sorted({row.calling_ae for row in contents})),
        quarantined=tuple(
            row.reason_code or ""
            for instance_id, row in newest.items()
            if instance_id not in readable and row.dismissed_at is None
        ),
        persons=_persons(session, [row.id for row in contents]),
    )


def _persons(session: Session, revision_ids: Collection[int]) -> dict[int, frozenset[str]]:
    persons: dict[int, frozenset[str]] = {}
    rows = session.execute(
        select(AcquisitionOperator.revision_id, AcquisitionOperator.person_id).where(
            AcquisitionOperator.revision_id.in_(revision_ids)
        )
    )
    for revision_id, person_id in rows:
        persons[revision_id] = persons.get(revision_id, frozenset()) | {person_id}
    return persons
