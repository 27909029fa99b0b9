"""Storage commitment that we request of destinations (PS3.4 Annex J, as SCU).

A deliver job is *sent* once its destination has answered the C-STORE with success, and *done* once
the destination has committed to the object. Between the two:

    requested  the request and its items are in the database before its N-ACTION goes out
    accepted   the destination has answered the N-ACTION with success
    answered   an N-EVENT-REPORT says of an item that it is committed, or why not
    applied    the job is done, or sent again, or dead

Whoever receives a report only writes down what it says; the deliver role applies it. What is not
answered in time is requested again under a new Transaction UID, and the older requests stay valid.
Each step is repeatable: a process that dies between two of them leaves something that is requested,
answered or applied again.
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
    DeliveredRendition,
    Instance,
    JobKind,
    JobRow,
    JobState,
    OutgoingCommitment,
    OutgoingCommitmentItem,
    RenditionRow,
    ReportObjectRow,
    Revision,
)
from qc_daemon.records.upsert import execute_update

# A sent object waits this long for others, so that one request asks for all of them.
BATCH_DELAY = timedelta(seconds=2)
# One request has at most so many references. PACS take thousands; a smaller one is answered sooner.
MAX_REFERENCES = 300
# One transaction applies the reports on at most so many jobs.
_MAX_JOBS = 200
# One transaction deletes at most so many requests.
_MAX_PRUNED = 1000

FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object",
    0x0119: "object of another SOP class",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    0x0131: "transaction known already",
    0x0213: "out of resources",
}


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A request to send; it names each object once, though several contents may have gone there."""

    id: int
    transaction_uid: str
    destination: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """What a report has made of a job; `error` says why it is not done."""

    job_id: int
    destination: str
    state: JobState
    error: QCError | None


def destinations_due(session: Session, now: datetime) -> list[str]:
    """Destinations that hold sent objects whose commitment is to be requested now."""
    return [
        name
        for name in jobs.destinations_with(session, JobState.SENT)
        if any(
            session.execute(select(JobRow.id).where(*_is_sent_to(name), due).limit(1)).first()
            # Two queries: with OR neither index would be used.
            for due in (JobRow.not_before <= now, JobRow.updated_at > now + CLOCK_SKEW)
        )
    ]


def create_request(
    session: Session,
    destination: str,
    transaction_uid: str,
    now: datetime,
    patience: timedelta,
    policy: RetryPolicy,
    rng: random.Random,
    limit: int = MAX_REFERENCES,
) -> CommitmentRequest | None:
    """Record a request for what the destination was sent, or None if nothing is due; commit, then
    send it.

    Its jobs are requested again after `patience`; those that no report answered, some time later.
    """
    jobs.reset_future_jobs(session, now)
    rows = session.scalars(
        select(JobRow)
        # Those due soon go along, so that fewer requests ask for more.
        .where(*_is_sent_to(destination), JobRow.not_before <= now + BATCH_DELAY)
        .order_by(JobRow.not_before, JobRow.id)
        .limit(limit)
        .with_for_update(of=JobRow, skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    if not rows:
        return None
    commitment = OutgoingCommitment(
        transaction_uid=transaction_uid, destination=destination, asked_at=now
    )
    session.add(commitment)
    session.flush()
    references = _references(session, rows)
    unanswered = _unanswered_ids(session, [row.id for row in rows])
    for row in rows:
        session.add(
            OutgoingCommitmentItem(
                pledge_id=commitment.id,
                job_id=row.id,
                sop_instance_uid=references[row.id].sop_instance_uid,
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
    return CommitmentRequest(
        commitment.id, transaction_uid, destination, tuple(dict.fromkeys(references.values()))
    )


def mark_accepted(session: Session, request: CommitmentRequest, now: datetime) -> None:
    """The destination has accepted the request: its report is to come."""
    execute_update(
        session,
        update(OutgoingCommitment).where(OutgoingCommitment.id == request.id).values(taken_at=now),
    )


def postpone(
    session: Session,
    request: CommitmentRequest,
    error: QCError,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
) -> None:
    """The destination did not accept the request: send it again later. A report still counts."""
    for row in _lock_sent_jobs(session, request):
        due = next_try(row.alarms + 1, now, policy, rng)
        jobs.postpone_request(session, row, error, now, due)


def has_accepted(session: Session, destination: str) -> bool:
    """Whether the destination has ever accepted a request."""
    accepted = select(OutgoingCommitment.id).where(
        OutgoingCommitment.destination == destination, OutgoingCommitment.taken_at.is_not(None)
    )
    return session.execute(accepted.limit(1)).first() is not None


def record_report(session: Session, report: Report, destinations: Collection[str]) -> bool:
    """Record a report by one of the destinations; False if its Transaction UID is not ours to them.

    Objects that the request did not name are passed over; one reported as committed and as failed
    has failed.
    """
    commitment_id = session.scalar(
        select(OutgoingCommitment.id)
        .where(
            OutgoingCommitment.transaction_uid == report.transaction_uid,
            OutgoingCommitment.destination.in_(destinations),
        )
        # The same report twice at once is recorded in turn.
        .with_for_update(key_share=True)
    )
    if commitment_id is None:
        return False
    failures = {each.sop_instance_uid: COMMITTED for each in report.committed}
    failures |= {each.sop_instance_uid: reason for each, reason in report.failed}
    instances = session.scalars(
        select(OutgoingCommitmentItem.sop_instance_uid).where(
            OutgoingCommitmentItem.pledge_id == commitment_id
        )
    ).all()
    by_failure: dict[int, set[str]] = defaultdict(set)
    for uid in instances:
        if uid in failures:
            by_failure[failures[uid]].add(uid)
    for failure, uids in by_failure.items():
        execute_update(
            session,
            update(OutgoingCommitmentItem)
            .where(
                OutgoingCommitmentItem.pledge_id == commitment_id,
                OutgoingCommitmentItem.sop_instance_uid.in_(uids),
            )
            .values(failure=failure),
        )
    return True


def is_answered(session: Session, request: CommitmentRequest) -> bool:
    """Whether each object of the request is answered, or was sent again meanwhile."""
    open_ = select(OutgoingCommitmentItem.job_id).where(
        OutgoingCommitmentItem.pledge_id == request.id, OutgoingCommitmentItem.failure.is_(None)
    )
    return session.execute(open_.limit(1)).first() is None


def has_reports(session: Session) -> bool:
    """Whether there are reports to apply."""
    reports = (
        select(OutgoingCommitmentItem.job_id)
        .join(JobRow, JobRow.id == OutgoingCommitmentItem.job_id)
        .where(JobRow.state == JobState.SENT, OutgoingCommitmentItem.failure.is_not(None))
    )
    return session.execute(reports.limit(1)).first() is not None


def apply_reports(
    session: Session,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
    lenient: Collection[str] = (),
) -> list[ReportOutcome]:
    """Apply the reports recorded since: sent jobs become done, are sent again or end dead.

    `lenient` names the destinations where it is enough that an object is of a SOP class that they
    commit to none of.
    """
    has_report = exists().where(
        OutgoingCommitmentItem.job_id == JobRow.id, OutgoingCommitmentItem.failure.is_not(None)
    )
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.state == JobState.SENT, has_report)
        .order_by(JobRow.id)
        .limit(_MAX_JOBS)
        .with_for_update(of=JobRow, skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    answers = session.execute(
        select(OutgoingCommitmentItem.job_id, OutgoingCommitmentItem.failure)
        .where(
            OutgoingCommitmentItem.job_id.in_([row.id for row in rows]),
            OutgoingCommitmentItem.failure.is_not(None),
        )
        .order_by(OutgoingCommitmentItem.pledge_id)
    ).all()
    # The latest report counts.
    latest = {row.job_id: row.failure for row in answers}
    outcomes = []
    for row in rows:
        failure = latest[row.id]
        assert failure is not None
        is_enough = failure == SOP_CLASS_NOT_SUPPORTED and row.destination in lenient
        if failure == COMMITTED or is_enough:
            jobs.mark_committed(session, row.id, now)
            outcomes.append(ReportOutcome(row.id, row.destination, JobState.DONE, None))
            continue
        error = QCError(
            ErrorCode.COMMITMENT_REFUSED,
            f"destination {row.destination} does not commit to the object: {_describe(failure)}",
        )
        state = jobs.requeue_uncommitted(session, row, error, now, policy, rng)
        outcomes.append(ReportOutcome(row.id, row.destination, state, error))
    return outcomes


def accept_without(session: Session, destination: str, now: datetime) -> list[int]:
    """Accept what is sent without the destination's commitment: the jobs are done; their ids."""
    ids = _lock_sent_ids(session, destination)
    return [each for each in ids if jobs.mark_committed(session, each, now)]


def prune(session: Session, before: datetime) -> int:
    """Delete requests of before a moment that no sent job waits for; returns how many.

    The latest that a destination accepted stays: it says that the destination can commit.
    """
    is_awaited = exists().where(
        OutgoingCommitmentItem.pledge_id == OutgoingCommitment.id,
        JobRow.id == OutgoingCommitmentItem.job_id,
        JobRow.state == JobState.SENT,
    )
    latest = (
        select(func.max(OutgoingCommitment.id))
        .where(OutgoingCommitment.taken_at.is_not(None))
        .group_by(OutgoingCommitment.destination)
    )
    ids = session.scalars(
        select(OutgoingCommitment.id)
        .where(
            OutgoingCommitment.asked_at < before, ~is_awaited, OutgoingCommitment.id.not_in(latest)
        )
        .limit(_MAX_PRUNED)
    ).all()
    session.execute(delete(OutgoingCommitmentItem).where(OutgoingCommitmentItem.pledge_id.in_(ids)))
    session.execute(delete(OutgoingCommitment).where(OutgoingCommitment.id.in_(ids)))
    return len(ids)


def _is_sent_to(destination: str) -> list[ColumnElement[bool]]:
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
    ours = (
        select(
            JobRow.id,
            func.coalesce(RenditionRow.sop_class_uid, ReportObjectRow.sop_class_uid),
            func.coalesce(RenditionRow.sop_instance_uid, ReportObjectRow.sop_instance_uid),
        )
        .join(ReportObjectRow, ReportObjectRow.id == JobRow.object_id)
        .outerjoin(DeliveredRendition, DeliveredRendition.job_id == JobRow.id)
        .outerjoin(RenditionRow, RenditionRow.id == DeliveredRendition.rendition_id)
        .where(JobRow.id.in_(ids))
    )
    return {
        job_id: Reference(sop_class, sop_instance)
        for job_id, sop_class, sop_instance in session.execute(received.union_all(ours))
    }


def _unanswered_ids(session: Session, ids: Sequence[int]) -> set[int]:
    """Which of these jobs are in an accepted request that no report has answered for them."""
    unanswered = session.scalars(
        select(OutgoingCommitmentItem.job_id)
        .join(OutgoingCommitment, OutgoingCommitment.id == OutgoingCommitmentItem.pledge_id)
        .where(
            OutgoingCommitmentItem.job_id.in_(ids),
            OutgoingCommitment.taken_at.is_not(None),
            OutgoingCommitmentItem.failure.is_(None),
        )
    )
    return set(unanswered)


def _lock_sent_jobs(session: Session, request: CommitmentRequest) -> Sequence[JobRow]:
    return session.scalars(
        select(JobRow)
        .join(OutgoingCommitmentItem, OutgoingCommitmentItem.job_id == JobRow.id)
        .where(OutgoingCommitmentItem.pledge_id == request.id, JobRow.state == JobState.SENT)
        .order_by(JobRow.id)
        .with_for_update(of=JobRow, key_share=True)
        .execution_options(populate_existing=True)
    ).all()


def _lock_sent_ids(session: Session, destination: str) -> list[int]:
    ids = session.scalars(
        select(JobRow.id)
        .where(JobRow.state == JobState.SENT, JobRow.destination == destination)
        .order_by(JobRow.id)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return list(ids)


def _describe(failure: int) -> str:
    code = f"{failure:04X}"
    return f"{FAILURE_REASONS[failure]} ({code})" if failure in FAILURE_REASONS else code
