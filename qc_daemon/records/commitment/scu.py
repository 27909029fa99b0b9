"""Pledges: storage commitment that we ask of destinations (PS3.4 Annex J, as SCU).

A deliver job is *sent* once its destination has answered the C-STORE with success, and *done* once
the destination has committed to the object. Between the two:

    asked      a pledge with its items is in the database before its N-ACTION goes out
    taken      the destination has answered the N-ACTION with success
    told       an N-EVENT-REPORT says of an item that it is committed, or why not
    settled    the job is done, or sent again, or dead

Whoever hears a report only writes down what it says; settling is the deliver role's. What is not
told in time is asked again in a new pledge, and the older ones stay valid. Each step is repeatable:
a process that dies between two of them leaves something that is asked, told or settled again.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.status import SOP_CLASS_NOT_SUPPORTED
from qc_daemon.dicom.storage_commitment import COMMITTED, Reference, Report
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import CLOCK_SKEW
from qc_daemon.records.queue.retry import RetryPolicy, next_try
from qc_daemon.records.tables import (
    GivenRendition,
    Instance,
    JobKind,
    JobRow,
    JobState,
    Pledge,
    PledgeItem,
    RenditionRow,
    ReportObjectRow,
    Revision,
)
from qc_daemon.records.upsert import changed

# How long a sent object waits for others to be asked about together with it.
GATHER = timedelta(seconds=2)
# References in one request. PACS take thousands; a smaller request is answered sooner.
MOST_REFERENCES = 300
# Jobs settled in one transaction.
_MOST_SETTLED = 200
_MOST_FORGOTTEN = 1000

REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object",
    0x0119: "object of another SOP class",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    0x0131: "transaction known already",
    0x0213: "out of resources",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to be sent; each object once, though several contents may have gone under it."""

    id: int
    transaction_uid: str
    destination: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A job that a report has settled; `error` says why it is not done."""

    job_id: int
    destination: str
    state: JobState
    error: QCError | None


def waiting(session: Session, now: datetime) -> list[str]:
    """Destinations with sent objects whose commitment is to be asked for now."""
    return [
        name
        for name in jobs.destinations_with(session, JobState.SENT)
        if any(
            session.execute(select(JobRow.id).where(*_sent_to(name), due).limit(1)).first()
            # Two questions: OR would keep either index from being used.
            for due in (JobRow.not_before <= now, JobRow.updated_at > now + CLOCK_SKEW)
        )
    ]


def ask(
    session: Session,
    destination: str,
    transaction_uid: str,
    now: datetime,
    patience: timedelta,
    policy: RetryPolicy,
    rng: random.Random,
    limit: int = MOST_REFERENCES,
) -> Ask | None:
    """A new pledge of what the destination was sent, or None if nothing is due; commit, then send.

    Its jobs are asked about again after `patience`, and each time that nobody told some time later.
    """
    jobs.reset_future_jobs(session, now)
    rows = session.scalars(
        select(JobRow)
        # With those that are due soon, so that fewer requests ask for more.
        .where(*_sent_to(destination), JobRow.not_before <= now + GATHER)
        .order_by(JobRow.not_before, JobRow.id)
        .limit(limit)
        .with_for_update(of=JobRow, skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    if not rows:
        return None
    pledge = Pledge(transaction_uid=transaction_uid, destination=destination, asked_at=now)
    session.add(pledge)
    session.flush()
    named = _references(session, rows)
    unanswered = _unanswered(session, [row.id for row in rows])
    for row in rows:
        session.add(
            PledgeItem(
                pledge_id=pledge.id, job_id=row.id, sop_instance_uid=named[row.id].sop_instance_uid
            )
        )
        if row.id in unanswered:
            due = next_try(row.alarms + 1, now + patience, policy, rng)
            error = QCError(
                ErrorCode.COMMITMENT_AWAITED,
                f"destination {destination} has not reported storage commitment in time",
            )
            jobs.postpone_request(session, row, error, now, due)
        else:
            jobs.schedule_request(session, row.id, now, now + patience)
    session.flush()
    return Ask(pledge.id, transaction_uid, destination, tuple(dict.fromkeys(named.values())))


def taken(session: Session, asked: Ask, now: datetime) -> None:
    """The destination has taken the request: its report is to come."""
    changed(session, update(Pledge).where(Pledge.id == asked.id).values(taken_at=now))


def put_off(
    session: Session,
    asked: Ask,
    error: QCError,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
) -> None:
    """The destination has not taken the request: ask again later. A report still counts."""
    for row in _sent(session, asked):
        due = next_try(row.alarms + 1, now, policy, rng)
        jobs.postpone_request(session, row, error, now, due)


def has_taken(session: Session, destination: str) -> bool:
    """Whether the destination has ever taken a request."""
    found = select(Pledge.id).where(Pledge.destination == destination, Pledge.taken_at.is_not(None))
    return session.execute(found.limit(1)).first() is not None


def tell(session: Session, report: Report, destinations: Collection[str]) -> bool:
    """Write down a report by one of the destinations.

    False if none of them was asked under its Transaction UID. Objects that were not asked about are
    passed over; one told as committed and as failed has failed.
    """
    pledge_id = session.scalar(
        select(Pledge.id)
        .where(
            Pledge.transaction_uid == report.transaction_uid, Pledge.destination.in_(destinations)
        )
        # The same report twice at once is written down in turn.
        .with_for_update(key_share=True)
    )
    if pledge_id is None:
        return False
    said = {each.sop_instance_uid: COMMITTED for each in report.committed}
    said |= {each.sop_instance_uid: reason for each, reason in report.failed}
    asked = session.scalars(
        select(PledgeItem.sop_instance_uid).where(PledgeItem.pledge_id == pledge_id)
    ).all()
    by_failure: dict[int, set[str]] = defaultdict(set)
    for each in asked:
        if each in said:
            by_failure[said[each]].add(each)
    for failure, instances in by_failure.items():
        changed(
            session,
            update(PledgeItem)
            .where(PledgeItem.pledge_id == pledge_id, PledgeItem.sop_instance_uid.in_(instances))
            .values(failure=failure),
        )
    return True


def is_told(session: Session, asked: Ask) -> bool:
    """Whether everything that was asked about is told, in whatever pledge, or settled."""
    open_ = select(PledgeItem.job_id).where(
        PledgeItem.pledge_id == asked.id, PledgeItem.failure.is_(None)
    )
    return session.execute(open_.limit(1)).first() is None


def any_told(session: Session) -> bool:
    """Whether there is anything to settle."""
    told = (
        select(PledgeItem.job_id)
        .join(JobRow, JobRow.id == PledgeItem.job_id)
        .where(JobRow.state == JobState.SENT, PledgeItem.failure.is_not(None))
    )
    return session.execute(told.limit(1)).first() is not None


def settle(
    session: Session,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
    lenient: Collection[str] = (),
) -> list[Settled]:
    """Draw the conclusions of what was told since: sent jobs are done, sent again or dead.

    `lenient` names the destinations where it is enough that an object is of a SOP class that they
    commit to none of.
    """
    told = exists().where(PledgeItem.job_id == JobRow.id, PledgeItem.failure.is_not(None))
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.state == JobState.SENT, told)
        .order_by(JobRow.id)
        .limit(_MOST_SETTLED)
        .with_for_update(of=JobRow, skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    said = session.execute(
        select(PledgeItem.job_id, PledgeItem.failure)
        .where(PledgeItem.job_id.in_([row.id for row in rows]), PledgeItem.failure.is_not(None))
        .order_by(PledgeItem.pledge_id)
    ).all()
    # The latest word counts.
    last = {row.job_id: row.failure for row in said}
    settled = []
    for row in rows:
        failure = last[row.id]
        assert failure is not None
        enough = failure == SOP_CLASS_NOT_SUPPORTED and row.destination in lenient
        if failure == COMMITTED or enough:
            jobs.mark_committed(session, row.id, now)
            settled.append(Settled(row.id, row.destination, JobState.DONE, None))
            continue
        error = QCError(
            ErrorCode.COMMITMENT_REFUSED,
            f"destination {row.destination} does not commit to the object: {_words(failure)}",
        )
        state = jobs.requeue_uncommitted(session, row, error, now, policy, rng)
        settled.append(Settled(row.id, row.destination, state, error))
    return settled


def waive(session: Session, destination: str, now: datetime) -> list[int]:
    """No commitment is to be had of the destination: what is sent is done; the jobs' ids."""
    ids = _ids_sent(session, destination)
    return [each for each in ids if jobs.mark_committed(session, each, now)]


def reject(session: Session, destination: str, error: QCError, now: datetime) -> list[int]:
    """The destination is none any more: what is sent ends with the reason; the jobs' ids."""
    ids = _ids_sent(session, destination)
    for each in ids:
        jobs.reject(session, each, error, now)
    return ids


def forget(session: Session, before: datetime) -> int:
    """Delete pledges asked before a moment that no sent job waits for, not too many; how many.

    The latest of a destination that it has taken stays: it says that the destination can commit.
    """
    waits = exists().where(
        PledgeItem.pledge_id == Pledge.id,
        JobRow.id == PledgeItem.job_id,
        JobRow.state == JobState.SENT,
    )
    latest = (
        select(func.max(Pledge.id)).where(Pledge.taken_at.is_not(None)).group_by(Pledge.destination)
    )
    ids = session.scalars(
        select(Pledge.id)
        .where(Pledge.asked_at < before, ~waits, Pledge.id.not_in(latest))
        .limit(_MOST_FORGOTTEN)
    ).all()
    session.execute(delete(PledgeItem).where(PledgeItem.pledge_id.in_(ids)))
    session.execute(delete(Pledge).where(Pledge.id.in_(ids)))
    return len(ids)


def _sent_to(destination: str) -> list[ColumnElement[bool]]:
    """Sent jobs of the destination, by the columns of the index that claims use."""
    return [
        JobRow.state == JobState.SENT,
        JobRow.kind == JobKind.DELIVER,
        JobRow.destination == destination,
    ]


def _references(session: Session, rows: Sequence[JobRow]) -> dict[int, Reference]:
    """What each deliver job has sent: a received object, one of ours or its rendition."""
    ids = [row.id for row in rows]
    received = select(JobRow.id, Revision.sop_class_uid, Instance.sop_instance_uid).where(
        JobRow.id.in_(ids),
        Revision.id == JobRow.revision_id,
        Instance.id == Revision.instance_id,
    )
    made = (
        select(
            JobRow.id,
            func.coalesce(RenditionRow.sop_class_uid, ReportObjectRow.sop_class_uid),
            func.coalesce(RenditionRow.sop_instance_uid, ReportObjectRow.sop_instance_uid),
        )
        .join(ReportObjectRow, ReportObjectRow.id == JobRow.object_id)
        .outerjoin(GivenRendition, GivenRendition.job_id == JobRow.id)
        .outerjoin(RenditionRow, RenditionRow.id == GivenRendition.rendition_id)
        .where(JobRow.id.in_(ids))
    )
    return {
        job_id: Reference(sop_class, sop_instance)
        for job_id, sop_class, sop_instance in session.execute(received.union_all(made))
    }


def _unanswered(session: Session, ids: Sequence[int]) -> set[int]:
    """Which of these jobs are in a pledge that was taken and that did not tell of them."""
    found = session.scalars(
        select(PledgeItem.job_id)
        .join(Pledge, Pledge.id == PledgeItem.pledge_id)
        .where(
            PledgeItem.job_id.in_(ids), Pledge.taken_at.is_not(None), PledgeItem.failure.is_(None)
        )
    )
    return set(found)


def _sent(session: Session, asked: Ask) -> Sequence[JobRow]:
    return session.scalars(
        select(JobRow)
        .join(PledgeItem, PledgeItem.job_id == JobRow.id)
        .where(PledgeItem.pledge_id == asked.id, JobRow.state == JobState.SENT)
        .order_by(JobRow.id)
        .with_for_update(of=JobRow, key_share=True)
        .execution_options(populate_existing=True)
    ).all()


def _ids_sent(session: Session, destination: str) -> list[int]:
    found = session.scalars(
        select(JobRow.id)
        .where(JobRow.state == JobState.SENT, JobRow.destination == destination)
        .order_by(JobRow.id)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return list(found)


def _words(failure: int) -> str:
    number = f"{failure:04X}"
    return f"{REASONS[failure]} ({number})" if failure in REASONS else number
