"""Images that a person rejected: at most once each, with the note that tells it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from qc_daemon.records import reports
from qc_daemon.records.reports import ReportObject
from qc_daemon.records.revisions import RevisionFacts, as_facts, select_facts
from qc_daemon.records.rows import insert_once
from qc_daemon.records.tables import Exam, Instance, Rejection, ReportObjectRow, Revision


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejection as it was confirmed; `reason` is a code value."""

    sop_instance_uid: str
    reason: str
    confirmed_by: str
    confirmed_at: datetime
    note_uid: str


_SELECT = (
    select(
        Instance.sop_instance_uid,
        Rejection.reason,
        Rejection.confirmed_by,
        Rejection.confirmed_at,
        ReportObjectRow.sop_instance_uid,
    )
    .select_from(Rejection)
    .join(Instance, Instance.id == Rejection.instance_id)
    .join(ReportObjectRow, ReportObjectRow.id == Rejection.object_id)
)


def newest(session: Session, sop_instance_uid: str) -> RevisionFacts | None:
    """The last content that came under this SOP Instance UID, readable or not."""
    row = session.execute(
        select_facts()
        .where(Instance.sop_instance_uid == sop_instance_uid)
        .order_by(Revision.number.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else as_facts(row)


def of_exam(session: Session, exam_id: int) -> frozenset[str]:
    """The SOP Instance UIDs of the exam's images that a person rejected."""
    return frozenset(
        session.scalars(
            select(Instance.sop_instance_uid)
            .join(Rejection, Rejection.instance_id == Instance.id)
            .join(ReportObjectRow, ReportObjectRow.id == Rejection.object_id)
            .where(ReportObjectRow.exam_id == exam_id)
        )
    )


def count(session: Session, exam_id: int) -> int:
    """How many notes the exam has."""
    return session.execute(
        select(func.count())
        .select_from(Rejection)
        .join(ReportObjectRow, ReportObjectRow.id == Rejection.object_id)
        .where(ReportObjectRow.exam_id == exam_id)
    ).scalar_one()


def of_instance(session: Session, sop_instance_uid: str) -> Rejected | None:
    """The rejection of this image, None if it is not rejected."""
    row = session.execute(
        _SELECT.where(Instance.sop_instance_uid == sop_instance_uid)
    ).one_or_none()
    return None if row is None else Rejected(*row)


def listing(session: Session) -> list[Rejected]:
    """All rejections, oldest first."""
    return [Rejected(*row) for row in session.execute(_SELECT.order_by(Rejection.id))]


def confirm(
    session: Session,
    facts: RevisionFacts,
    note: ReportObject,
    destinations: Sequence[str],
    *,
    reason: str,
    confirmed_by: str,
    now: datetime,
) -> bool:
    """Store the note with its deliver jobs, and who confirmed it.

    False, and the caller rolls back, if the image was rejected meanwhile.
    """
    report_revision = session.execute(
        select(Exam.report_revision).where(Exam.id == facts.exam_id)
    ).scalar_one()
    object_id = reports.keep(
        session,
        note,
        destinations,
        now,
        exam_id=facts.exam_id,
        report_revision=report_revision,
    )
    made = insert_once(
        session,
        Rejection,
        {
            "instance_id": facts.instance_id,
            "object_id": object_id,
            "reason": reason,
            "confirmed_by": confirmed_by,
            "confirmed_at": now,
        },
        ("instance_id",),
    )
    return made is not None
