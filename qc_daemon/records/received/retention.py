"""Which originals may leave the spool, and which files in it the records refer to.

An original leaves only when it could be fetched back and nobody waits for it:

    every `source` destination holds it        its deliver job to each of them is done
    it can be fetched back                     a destination that gives objects back is among those
    it is scored                               state scored or header; a quarantined one stays
    all that its exam led to is delivered      exam closed; no report or deliver job but done ones
    no storage commitment waits for it         none of its SOP Instance UID waiting or to report
    its time has passed                        `keep_pixels_days` since the last of those deliveries

Without a `source` destination, or where a routing rule sent it to none, the original is the only
copy there is: it stays. Space never counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from qc_daemon.records.tables import (
    Commitment,
    CommitmentItem,
    CommitmentState,
    Exam,
    ExamState,
    Instance,
    JobKind,
    JobRow,
    JobState,
    ObjectKind,
    ReportObjectRow,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import execute_update


@dataclass(frozen=True, slots=True)
class Original:
    """A received file as its row has it; `path` is relative to the spool."""

    revision_id: int
    path: str
    size: int


def droppable(
    session: Session,
    now: datetime,
    keep: timedelta,
    source_destinations: Sequence[str],
    fetchable: Sequence[str] = (),
    *,
    limit: int,
) -> list[Original]:
    """Originals that may leave the spool now, oldest first.

    `source_destinations` are those that get every original; with `fetchable`, one of these must
    hold it too, since rules may have sent it elsewhere.
    """
    if not (source_destinations or fetchable):
        return []
    rows = session.execute(
        select(Revision.id, Revision.path, Revision.size)
        .where(*_drop_conditions(now, keep, source_destinations, fetchable))
        .order_by(Revision.id)
        .limit(limit)
    )
    return [Original(*row) for row in rows]


def drop(
    session: Session,
    revision_id: int,
    now: datetime,
    keep: timedelta,
    source_destinations: Sequence[str],
    fetchable: Sequence[str] = (),
) -> bool:
    """Mark the original as dropped if it still may leave; its file may go once this is committed.

    False if it may not any more, or if another row needs the same file.
    """
    session.execute(select(Revision.id).where(Revision.id == revision_id).with_for_update())
    if not (source_destinations or fetchable):
        return False
    may = session.scalar(
        select(Revision.id).where(
            Revision.id == revision_id, *_drop_conditions(now, keep, source_destinations, fetchable)
        )
    )
    if may is None:
        return False
    execute_update(
        session, update(Revision).where(Revision.id == revision_id).values(dropped_at=now)
    )
    return True


def _drop_conditions(
    now: datetime, keep: timedelta, source_destinations: Sequence[str], fetchable: Sequence[str]
) -> list[ColumnElement[bool]]:
    latest = now - keep
    job, own, twin = aliased(JobRow), aliased(JobRow), aliased(Revision)
    of_exam = job.exam_id == Revision.exam_id
    is_output = job.kind.in_((JobKind.REPORT, JobKind.DELIVER))
    is_delivered = [
        exists().where(
            own.revision_id == Revision.id,
            own.kind == JobKind.DELIVER,
            own.destination.in_(names),
            own.state == JobState.DONE,
        )
        for names in (*([name] for name in sorted(set(source_destinations))), fetchable)
        if names
    ]
    return [
        Revision.dropped_at.is_(None),
        # Received before delivered: an index narrows the rest down.
        Revision.received_at <= latest,
        Revision.state.in_((RevisionState.SCORED, RevisionState.HEADER)),
        *is_delivered,
        exists().where(Exam.id == Revision.exam_id, Exam.state == ExamState.CLOSED),
        ~exists().where(of_exam, is_output, job.state != JobState.DONE),
        ~exists().where(of_exam, is_output, job.updated_at > latest),
        # Its own scoring: a re-score asked for by hand needs the pixels.
        ~exists().where(
            job.revision_id == Revision.id, job.kind == JobKind.SCORE, job.state != JobState.DONE
        ),
        ~exists().where(
            Instance.id == Revision.instance_id,
            CommitmentItem.sop_instance_uid == Instance.sop_instance_uid,
            Commitment.id == CommitmentItem.commitment_id,
            Commitment.state.in_((CommitmentState.WAITING, CommitmentState.READY)),
        ),
        ~exists().where(
            twin.path == Revision.path, twin.id != Revision.id, twin.dropped_at.is_(None)
        ),
    ]


def drop_overlays(session: Session, now: datetime, keep: timedelta, *, limit: int) -> int:
    """Delete the bytes of overlays that every destination has had for `keep`; returns how many.

    Structured reports stay: they are small, and what an amendment starts from.
    """
    job, waiting = aliased(JobRow), aliased(JobRow)

    def of_overlay(job: type[JobRow]) -> ColumnElement[bool]:
        # There is an index on the exam.
        return and_(
            job.exam_id == ReportObjectRow.exam_id,
            job.kind == JobKind.DELIVER,
            job.object_id == ReportObjectRow.id,
        )

    due = (
        select(ReportObjectRow.id)
        .where(
            ReportObjectRow.kind == ObjectKind.OVERLAY,
            ReportObjectRow.payload.is_not(None),
            ReportObjectRow.created_at <= now - keep,
            exists().where(of_overlay(job)),
            ~exists().where(
                of_overlay(waiting),
                or_(waiting.state != JobState.DONE, waiting.updated_at > now - keep),
            ),
        )
        .order_by(ReportObjectRow.id)
        .limit(limit)
    )
    return execute_update(
        session,
        update(ReportObjectRow).where(ReportObjectRow.id.in_(due)).values(payload=None),
    )


def record_fetch(session: Session, revision_id: int, path: str, size: int) -> None:
    """The original is back in the spool, at `path`."""
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == revision_id)
        .values(path=path, size=size, dropped_at=None, unavailable_at=None),
    )


def record_unavailable(session: Session, revision_id: int, now: datetime) -> bool:
    """Record that no destination returned the original; whether it was us who dropped it."""
    execute_update(
        session, update(Revision).where(Revision.id == revision_id).values(unavailable_at=now)
    )
    dropped_at = session.scalar(select(Revision.dropped_at).where(Revision.id == revision_id))
    return dropped_at is not None


def was_dropped(session: Session, revision_id: int) -> bool:
    """Whether it was us who removed the original's file."""
    dropped_at = session.scalar(select(Revision.dropped_at).where(Revision.id == revision_id))
    return dropped_at is not None


def referenced_paths(session: Session, paths: Iterable[str]) -> dict[str, bool]:
    """Which of these files a row names; the value: whether a row needs it (has not dropped it)."""
    rows = session.execute(
        select(Revision.path, func.count(), func.count(Revision.dropped_at))
        .where(Revision.path.in_(list(paths)))
        .group_by(Revision.path)
    )
    return {path: dropped < count for path, count, dropped in rows}


def spooled_bytes(session: Session) -> int:
    """The bytes of all files that should be in the spool."""
    total = session.scalar(select(func.sum(Revision.size)).where(Revision.dropped_at.is_(None)))
    return int(total or 0)


def originals(session: Session, after: int, *, limit: int) -> list[Original]:
    """Rows whose file should be in the spool, by id, those beyond `after`."""
    rows = session.execute(
        select(Revision.id, Revision.path, Revision.size)
        .where(Revision.id > after, Revision.dropped_at.is_(None))
        .order_by(Revision.id)
        .limit(limit)
    )
    return [Original(*row) for row in rows]
