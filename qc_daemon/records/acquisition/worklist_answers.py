"""What the worklist said of exams, and the facts of images that it fills in: only those that the
header does not state."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from qc_daemon.dicom.acquisition import Operator
from qc_daemon.records.acquisition import identities
from qc_daemon.records.tables import (
    AcquisitionOperator,
    AcquisitionRow,
    AcquisitionState,
    Exam,
    Revision,
    WorklistAnswer,
    WorklistState,
)
from qc_daemon.records.upsert import insert_once, table_of

OPERATORS, AGE = "operators", "age"
"""What `AcquisitionRow.from_worklist` names, separated by spaces."""


@dataclass(frozen=True, slots=True)
class WorklistFacts:
    """What the worklist says of an exam."""

    accession_number: str | None = None
    operator: str | None = None
    patient_age_years: float | None = None


@dataclass(frozen=True, slots=True)
class LackingExam:
    """An exam that lacks something; `made_on` is its day, by header or receipt."""

    exam_id: int
    patient_id: str
    study_instance_uid: str
    calling_aes: frozenset[str]
    made_on: date


def lacking(session: Session, since: datetime, limit: int) -> list[LackingExam]:
    """Exams begun since then that lack something and were not asked about, oldest first."""
    rows = session.execute(
        select(Exam.id, Exam.patient_id, Exam.study_instance_uid, Exam.study_date, Exam.opened_at)
        .where(
            Exam.opened_at >= since,
            Exam.patient_id != "",
            Exam.imported_at.is_(None),
            ~exists().where(WorklistAnswer.exam_id == Exam.id),
            or_(Exam.accession_number == "", _has_image(_lacks_operator() | _lacks_age())),
        )
        .order_by(Exam.id)
        .limit(limit)
    ).all()
    return [
        LackingExam(
            row.id,
            row.patient_id,
            row.study_instance_uid,
            frozenset(
                session.scalars(
                    select(Revision.calling_ae).where(Revision.exam_id == row.id).distinct()
                )
            ),
            _day(row.study_date, row.opened_at),
        )
        for row in rows
    ]


def store(
    session: Session, exam_id: int, state: WorklistState, facts: WorklistFacts, now: datetime
) -> None:
    """Store what it said; the first answer stands."""
    values = {
        "exam_id": exam_id,
        "state": state,
        "accession_number": facts.accession_number,
        "operator": facts.operator,
        "patient_age_years": facts.patient_age_years,
        "asked_at": now,
    }
    insert_once(session, WorklistAnswer, values, ("exam_id",))


def fill(
    session: Session,
    exam_id: int,
    facts: WorklistFacts,
    operators: Sequence[Operator],
    now: datetime,
) -> None:
    """Give the exam and its images what they lack of these facts."""
    if facts.accession_number is not None:
        session.execute(
            update(table_of(Exam))
            .where(Exam.id == exam_id, Exam.accession_number == "")
            .values(accession_number=facts.accession_number)
        )
    images = table_of(AcquisitionRow)
    revisions = select(Revision.id).where(Revision.exam_id == exam_id)
    if operators:
        ids = list(
            session.scalars(
                select(AcquisitionRow.revision_id).where(
                    AcquisitionRow.revision_id.in_(revisions), _lacks_operator()
                )
            )
        )
        persons = identities.identify_persons(session, operators, now) if ids else []
        if ids:
            session.execute(
                insert(table_of(AcquisitionOperator)),
                [{"revision_id": id, "person_id": person} for id in ids for person in persons],
            )
            _note(session, ids, OPERATORS)
    if facts.patient_age_years is not None:
        ids = list(
            session.scalars(
                select(AcquisitionRow.revision_id).where(
                    AcquisitionRow.revision_id.in_(revisions), _lacks_age()
                )
            )
        )
        session.execute(
            update(images)
            .where(AcquisitionRow.revision_id.in_(ids))
            .values(patient_age_years=facts.patient_age_years)
        )
        _note(session, ids, AGE)


def with_later_images(
    session: Session, since: datetime, limit: int
) -> list[tuple[int, WorklistFacts]]:
    """Exams asked about since then some of whose images still lack what is known."""
    lacks = or_(
        and_(WorklistAnswer.operator.is_not(None), _has_image(_lacks_operator())),
        and_(WorklistAnswer.patient_age_years.is_not(None), _has_image(_lacks_age())),
    )
    rows = session.execute(
        select(WorklistAnswer)
        .join(Exam, Exam.id == WorklistAnswer.exam_id)
        .where(WorklistAnswer.asked_at >= since, WorklistAnswer.state == WorklistState.FOUND, lacks)
        .order_by(WorklistAnswer.exam_id)
        .limit(limit)
    ).scalars()
    return [
        (each.exam_id, WorklistFacts(None, each.operator, each.patient_age_years)) for each in rows
    ]


def accession_of(session: Session, exam_id: int) -> str | None:
    """The accession number that the worklist gave the exam."""
    return session.scalar(
        select(WorklistAnswer.accession_number).where(WorklistAnswer.exam_id == exam_id)
    )


def _note(session: Session, revision_ids: Sequence[int], what: str) -> None:
    old = func.coalesce(AcquisitionRow.from_worklist, "")
    session.execute(
        update(table_of(AcquisitionRow))
        .where(AcquisitionRow.revision_id.in_(revision_ids))
        .values(from_worklist=func.trim(old + f" {what}"))
    )


def _has_image(where: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(
        Revision.exam_id == Exam.id, AcquisitionRow.revision_id == Revision.id, where
    )


def _lacks_operator() -> ColumnElement[bool]:
    return and_(
        AcquisitionRow.state == AcquisitionState.READ,
        ~exists().where(AcquisitionOperator.revision_id == AcquisitionRow.revision_id),
    )


def _lacks_age() -> ColumnElement[bool]:
    return and_(
        AcquisitionRow.state == AcquisitionState.READ, AcquisitionRow.patient_age_years.is_(None)
    )


def _day(study_date: str | None, opened_at: datetime) -> date:
    try:
        return datetime.strptime(study_date or "", "%Y%m%d").date()
    except ValueError:
        return opened_at.date()
