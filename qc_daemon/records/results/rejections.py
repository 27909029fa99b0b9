"""Images that a person rejected, with the note that says so, and retracted rejections.

A rejection stands until it is retracted; then the image may be rejected again. Nothing is removed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.revisions import RevisionFacts, as_facts, select_facts
from qc_daemon.records.results import reports
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.tables import (
    Exam,
    Instance,
    JobKind,
    JobRow,
    Rejection,
    ReportObjectRow,
    Revision,
)
from qc_daemon.records.upsert import execute_update, insert_once


@dataclass(frozen=True, slots=True)
class Retraction:
    """Why, by whom and when a rejection was taken back.

    `reason` is a key of `RETRACTIONS` in `qc_daemon/operations/rejections.py`.
    """

    reason: str
    retracted_by: str
    retracted_at: datetime
    note_uid: str


@dataclass(frozen=True, slots=True)
class RejectionRecord:
    """A rejection as it was confirmed; `reason` is a code value."""

    sop_instance_uid: str
    reason: str
    confirmed_by: str
    confirmed_at: datetime
    note_uid: str
    retraction: Retraction | None = None


@dataclass(frozen=True, slots=True)
class OpenRejection:
    """A rejection that is not retracted: its note's bytes, where that was to go, and the exam."""

    rejection_id: int
    exam_id: int
    note: bytes
    destinations: tuple[str, ...]
    rejected: RejectionRecord


_NOTE, _RETRACTION = aliased(ReportObjectRow), aliased(ReportObjectRow)


def _select() -> Select[*tuple[object, ...]]:
    return (
        select(
            Instance.sop_instance_uid,
            Rejection.reason,
            Rejection.confirmed_by,
            Rejection.confirmed_at,
            _NOTE.sop_instance_uid.label("note_uid"),
            Rejection.retraction_reason,
            Rejection.retracted_by,
            Rejection.retracted_at,
            _RETRACTION.sop_instance_uid.label("retraction_uid"),
        )
        .select_from(Rejection)
        .join(Instance, Instance.id == Rejection.instance_id)
        .join(_NOTE, _NOTE.id == Rejection.object_id)
        .join(_RETRACTION, _RETRACTION.id == Rejection.retraction_object_id, isouter=True)
    )


def newest_revision(session: Session, sop_instance_uid: str) -> RevisionFacts | None:
    """The last content that came under this SOP Instance UID, readable or not."""
    row = session.execute(
        select_facts()
        .where(Instance.sop_instance_uid == sop_instance_uid)
        .order_by(Revision.number.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else as_facts(row)


def of_exam(session: Session, exam_id: int) -> frozenset[str]:
    """The SOP Instance UIDs of the exam's images that stand rejected by a person."""
    return frozenset(
        session.scalars(
            select(Instance.sop_instance_uid)
            .join(Rejection, Rejection.instance_id == Instance.id)
            .join(ReportObjectRow, ReportObjectRow.id == Rejection.object_id)
            .where(ReportObjectRow.exam_id == exam_id, Rejection.retracted_at.is_(None))
        )
    )


def standing(session: Session, uids: Collection[str] | None = None) -> frozenset[str]:
    """The SOP Instance UIDs of all images that stand rejected by a person, or of those of `uids`
    that do."""
    statement = (
        select(Instance.sop_instance_uid)
        .join(Rejection, Rejection.instance_id == Instance.id)
        .where(Rejection.retracted_at.is_(None))
    )
    if uids is not None:
        statement = statement.where(Instance.sop_instance_uid.in_(uids))
    return frozenset(session.scalars(statement))


def count_notes(session: Session, exam_id: int) -> int:
    """How many notes the exam has, of rejections and of retractions."""
    return session.execute(
        select(func.count())
        .select_from(ReportObjectRow)
        .join(
            Rejection,
            or_(
                Rejection.object_id == ReportObjectRow.id,
                Rejection.retraction_object_id == ReportObjectRow.id,
            ),
        )
        .where(ReportObjectRow.exam_id == exam_id)
    ).scalar_one()


def count_rejections(session: Session, instance_id: int) -> int:
    """How often the image was rejected, whatever came of it."""
    return session.execute(
        select(func.count()).select_from(Rejection).where(Rejection.instance_id == instance_id)
    ).scalar_one()


def of_instance(session: Session, sop_instance_uid: str) -> RejectionRecord | None:
    """The rejection of this image that stands, None if there is none."""
    row = session.execute(
        _select().where(
            Instance.sop_instance_uid == sop_instance_uid, Rejection.retracted_at.is_(None)
        )
    ).one_or_none()
    return None if row is None else _record(row)


def open_rejection(session: Session, sop_instance_uid: str) -> OpenRejection | None:
    """What there is to retract of this image, None if nothing."""
    row = session.execute(
        _select()
        .add_columns(Rejection.id.label("rejection_id"), _NOTE.exam_id, _NOTE.id, _NOTE.payload)
        .where(Instance.sop_instance_uid == sop_instance_uid, Rejection.retracted_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    destinations = session.scalars(
        select(JobRow.destination).where(JobRow.object_id == row.id).order_by(JobRow.id)
    )
    return OpenRejection(
        row.rejection_id, row.exam_id, row.payload or b"", tuple(destinations), _record(row)
    )


def listing(session: Session) -> list[RejectionRecord]:
    """All rejections, oldest first."""
    return [_record(row) for row in session.execute(_select().order_by(Rejection.id))]


def page(session: Session, window: Window = ALL) -> tuple[list[RejectionRecord], int]:
    """Rejections confirmed within the window, oldest first, and how many those are in all."""
    statement = window.where(_select(), Rejection.confirmed_at)
    rows = session.execute(statement.order_by(Rejection.id).limit(window.limit)).all()
    count = window.where(select(func.count()).select_from(Rejection), Rejection.confirmed_at)
    return [_record(row) for row in rows], session.execute(count).scalar_one()


def confirm(
    session: Session,
    facts: RevisionFacts,
    note: ReportObject,
    destinations: Sequence[str],
    *,
    reason: str,
    confirmed_by: str,
    now: datetime,
    number: int = 1,
) -> bool:
    """Store the note with its deliver jobs, and who confirmed it; the image's rejection `number`.

    False, and the caller rolls back, if the image was rejected meanwhile.
    """
    object_id = _store_note(session, facts.exam_id, facts.instance_id, note, destinations, now)
    rejection_id = insert_once(
        session,
        Rejection,
        {
            "instance_id": facts.instance_id,
            "number": number,
            "object_id": object_id,
            "reason": reason,
            "confirmed_by": confirmed_by,
            "confirmed_at": now,
        },
        ("instance_id", "number"),
    )
    return rejection_id is not None


def retract(
    session: Session,
    rejection: OpenRejection,
    note: ReportObject,
    destinations: Sequence[str],
    *,
    reason: str,
    retracted_by: str,
    now: datetime,
) -> bool:
    """Store the retraction's note with its deliver jobs, and who took the rejection back.

    False, and the caller rolls back, if it was retracted meanwhile.
    """
    instance_id = session.execute(
        select(Rejection.instance_id).where(Rejection.id == rejection.rejection_id)
    ).scalar_one()
    object_id = _store_note(session, rejection.exam_id, instance_id, note, destinations, now)
    statement = update(Rejection).where(
        Rejection.id == rejection.rejection_id, Rejection.retracted_at.is_(None)
    )
    values = {
        "retraction_object_id": object_id,
        "retraction_reason": reason,
        "retracted_by": retracted_by,
        "retracted_at": now,
    }
    return execute_update(session, statement.values(**values)) == 1


def _store_note(
    session: Session,
    exam_id: int,
    instance_id: int,
    note: ReportObject,
    destinations: Sequence[str],
    now: datetime,
) -> int:
    """Store a note and queue it behind the image's earlier ones: none may overtake another."""
    report_revision = session.execute(
        select(Exam.report_revision).where(Exam.id == exam_id)
    ).scalar_one()
    object_id = reports.store_object(
        session, note, (), now, exam_id=exam_id, report_revision=report_revision
    )
    first = session.execute(
        select(func.min(Rejection.object_id)).where(Rejection.instance_id == instance_id)
    ).scalar_one()
    subject = f"object:{object_id if first is None else first}"
    last = session.execute(
        select(func.max(JobRow.revision)).where(
            JobRow.kind == JobKind.DELIVER, JobRow.subject == subject
        )
    ).scalar_one()
    for destination in destinations:
        jobs.insert(
            session,
            JobKind.DELIVER,
            subject,
            report_revision if last is None else max(report_revision, last + 1),
            destination=destination,
            exam_id=exam_id,
            object_id=object_id,
            now=now,
        )
    return object_id


def _record(row: object) -> RejectionRecord:
    values = row._mapping  # type: ignore[attr-defined]
    retraction = None
    if values["retracted_at"] is not None:
        retraction = Retraction(
            values["retraction_reason"],
            values["retracted_by"],
            values["retracted_at"],
            values["retraction_uid"],
        )
    return RejectionRecord(
        values["sop_instance_uid"],
        values["reason"],
        values["confirmed_by"],
        values["confirmed_at"],
        values["note_uid"],
        retraction,
    )
