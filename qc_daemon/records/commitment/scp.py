"""Storage commitment requested of us (PS3.4 Annex J, as SCP): requests, decisions and reports.

Transitions of a request, all there are:

    from            to        when
    -               waiting   record_request
    waiting         ready     every object is decided
    ready           reported  the requester has taken the report
    ready           dead      attempts to report used up
    reported, dead  ready     the same request again; requeue (dead only)

Whoever decides or reports leases the row; the lease of one that has died ends by itself.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import uuid4

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from qc_daemon.dicom.status import CLASS_INSTANCE_CONFLICT, NO_SUCH_SOP_INSTANCE, PROCESSING_FAILURE
from qc_daemon.dicom.storage_commitment import COMMITTED, Reference, Report, Request
from qc_daemon.records.queue.jobs import PENDING
from qc_daemon.records.queue.retry import RetryPolicy, next_try
from qc_daemon.records.tables import (
    Commitment,
    CommitmentItem,
    CommitmentState,
    Instance,
    JobKind,
    JobRow,
    JobState,
    Revision,
)
from qc_daemon.records.upsert import execute_update, insert_once

# So long after a request its report goes over the request's own association only.
REPORT_DELAY_SECONDS = 15.0

# Leases and pauses are shorter; a later time was written by a clock that was set back since.
_MAX_AHEAD = timedelta(minutes=10)

_NO_LEASE: dict[str, Any] = {"owner": None, "lease_until": None}


@dataclass(frozen=True, slots=True)
class Claim:
    """A request leased to us; `token` proves the right to change it."""

    id: int
    token: str
    transaction_uid: str
    requested_by: str
    address: str
    association: str
    attempts: int
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """A file in the spool that a commitment would promise to keep; `path` is relative to it."""

    revision_id: int
    path: str
    sha256: str
    size: int


class DeliveryState(Enum):
    """Whether the destinations that an object goes to have it."""

    COMPLETE = "complete"
    PENDING = "pending"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class PendingItem:
    """An object that is not decided yet.

    `failure` is a Failure Reason that needs no check of the file; without one `files` are to be
    checked, and `delivery` says whether that check decides already.
    """

    position: int
    reference: Reference
    failure: int | None
    delivery: DeliveryState
    files: tuple[SpoolFile, ...]


def record_request(session: Session, request: Request, now: datetime) -> bool:
    """Record a request; False if it is there already: then a report already sent is sent again.

    Raises ValueError if the requester used the Transaction UID for other objects before.
    """
    commitment_id = insert_once(
        session,
        Commitment,
        {
            "transaction_uid": request.transaction_uid,
            "requested_by": request.requested_by,
            "address": request.address,
            "association": request.association,
            "not_before": now,
            "requested_at": now,
        },
        ("transaction_uid", "requested_by"),
    )
    if commitment_id is None:
        _repeat_request(session, request, now)
        return False
    session.add_all(
        CommitmentItem(
            commitment_id=commitment_id,
            position=position,
            sop_class_uid=each.sop_class_uid,
            sop_instance_uid=each.sop_instance_uid,
        )
        for position, each in enumerate(request.references)
    )
    session.flush()
    return True


def _repeat_request(session: Session, request: Request, now: datetime) -> None:
    row = session.execute(
        select(Commitment.id, Commitment.state)
        .where(
            Commitment.transaction_uid == request.transaction_uid,
            Commitment.requested_by == request.requested_by,
        )
        .with_for_update(key_share=True)
    ).one()
    if set(_references(session, row.id)) != set(request.references):
        raise ValueError("the Transaction UID stands for other objects already")
    values: dict[str, Any] = {
        "association": request.association,
        "address": request.address,
        "requested_at": now,
    }
    if row.state != CommitmentState.WAITING:
        values |= {"state": CommitmentState.READY, "attempts": 0, "not_before": _report_due(now)}
    _set(session, row.id, **values)


def end_association(session: Session, association: str, now: datetime) -> None:
    """Make due what is ready: no report can go over this association any more."""
    execute_update(
        session,
        update(Commitment)
        .where(Commitment.association == association, Commitment.state == CommitmentState.READY)
        .values(association="", not_before=now),
    )
    execute_update(
        session,
        update(Commitment).where(Commitment.association == association).values(association=""),
    )


def open_states(session: Session, association: str) -> set[CommitmentState]:
    """States of the requests whose report may still go over this association."""
    states = session.scalars(
        select(Commitment.state)
        .where(
            Commitment.association == association,
            Commitment.state.in_((CommitmentState.WAITING, CommitmentState.READY)),
        )
        .distinct()
    )
    return set(map(CommitmentState, states))


def claim(
    session: Session,
    state: CommitmentState,
    owner: str,
    now: datetime,
    lease_seconds: float,
    association: str | None = None,
) -> Claim | None:
    """Lease the longest due request in this state; with `association` one that came over it,
    due or not."""
    limit = now + _MAX_AHEAD
    is_due = Commitment.not_before <= now
    if state is CommitmentState.WAITING:
        is_due = or_(is_due, Commitment.not_before > limit)
    if association is not None:
        is_due = Commitment.association == association
    row = session.scalars(
        select(Commitment)
        .where(
            Commitment.state == state,
            is_due,
            or_(
                Commitment.lease_until.is_(None),
                Commitment.lease_until <= now,
                Commitment.lease_until > limit,
            ),
        )
        .order_by(Commitment.not_before, Commitment.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        return None
    token = f"{owner}/{uuid4().hex}"
    _set(session, row.id, owner=token, lease_until=now + timedelta(seconds=lease_seconds))
    return Claim(
        row.id,
        token,
        row.transaction_uid,
        row.requested_by,
        row.address,
        row.association,
        row.attempts,
        row.requested_at,
    )


def pending_items(
    session: Session,
    claimed: Claim,
    destinations: Collection[str],
    *,
    is_spool_permanent: bool,
    routed: Collection[str] = (),
) -> list[PendingItem]:
    """Return the request's objects that are not decided yet.

    An object may have come with several contents under its UID; we commit to all of them.
    `destinations` are those that want every original, and `routed` those that rules may send one
    to: of these it needs the ones that it was routed to. Without any, we commit only if the spool
    keeps originals for ever.
    """
    rows = session.execute(
        select(
            CommitmentItem.position,
            CommitmentItem.sop_class_uid,
            CommitmentItem.sop_instance_uid,
            Revision.id.label("revision_id"),
            Revision.sop_class_uid.label("received_class"),
            Revision.sha256,
            Revision.size,
            Revision.path,
            Revision.dropped_at,
        )
        .outerjoin(Instance, Instance.sop_instance_uid == CommitmentItem.sop_instance_uid)
        .outerjoin(Revision, Revision.instance_id == Instance.id)
        .where(CommitmentItem.commitment_id == claimed.id, CommitmentItem.failure.is_(None))
        .order_by(CommitmentItem.position, Revision.number)
    ).all()
    states = _delivery_jobs(session, claimed.id)
    by_position: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_position[row.position].append(row)
    return [
        _pending_item(contents, states, destinations, routed, is_spool_permanent)
        for contents in by_position.values()
    ]


def _delivery_jobs(session: Session, commitment_id: int) -> dict[int, dict[str, str]]:
    """State of the deliver job of each revision requested, by revision and destination."""
    rows = session.execute(
        select(Revision.id, JobRow.destination, JobRow.state)
        .join(Revision, Revision.id == JobRow.revision_id)
        .join(Instance, Instance.id == Revision.instance_id)
        .join(CommitmentItem, CommitmentItem.sop_instance_uid == Instance.sop_instance_uid)
        .where(
            CommitmentItem.commitment_id == commitment_id,
            CommitmentItem.failure.is_(None),
            JobRow.kind == JobKind.DELIVER,
        )
    )
    states: dict[int, dict[str, str]] = defaultdict(dict)
    for revision_id, destination, state in rows:
        states[revision_id][destination] = state
    return states


def _pending_item(
    contents: Sequence[Any],
    states: dict[int, dict[str, str]],
    destinations: Collection[str],
    routed: Collection[str],
    is_spool_permanent: bool,
) -> PendingItem:
    first = contents[0]
    reference = Reference(first.sop_class_uid, first.sop_instance_uid)
    if first.revision_id is None:
        return PendingItem(
            first.position, reference, NO_SUCH_SOP_INSTANCE, DeliveryState.IMPOSSIBLE, ()
        )
    if any(each.received_class != reference.sop_class_uid for each in contents):
        return PendingItem(
            first.position, reference, CLASS_INSTANCE_CONFLICT, DeliveryState.IMPOSSIBLE, ()
        )
    deliveries = {
        delivery_state(states.get(each.revision_id, {}), destinations, is_spool_permanent, routed)
        for each in contents
    }
    worst_first = (DeliveryState.IMPOSSIBLE, DeliveryState.PENDING, DeliveryState.COMPLETE)
    delivery = next(each for each in worst_first if each in deliveries)
    failure = PROCESSING_FAILURE if delivery is DeliveryState.IMPOSSIBLE else None
    # What retention has dropped is with every destination, and no longer here to be checked.
    files = tuple(
        SpoolFile(each.revision_id, each.path, each.sha256, each.size)
        for each in contents
        if each.dropped_at is None
    )
    return PendingItem(first.position, reference, failure, delivery, files)


def delivery_state(
    states: dict[str, str],
    destinations: Collection[str],
    is_spool_permanent: bool = False,
    routed: Collection[str] = (),
) -> DeliveryState:
    """Return whether every destination has a content, by the states of its deliver jobs.

    Those of `destinations` must have it, and of `routed` those that a deliver job was made for: a
    content's deliver jobs are inserted with its row and record where it was routed to. It becomes
    impossible if a job was given up, or never inserted because the destination was added later.
    Without destinations a content is complete if the spool keeps it for ever.
    """
    names = {*destinations, *(name for name in routed if name in states)}
    if not names:
        return DeliveryState.COMPLETE if is_spool_permanent else DeliveryState.IMPOSSIBLE
    needed = {states.get(name) for name in names}
    if needed <= {JobState.DONE}:
        return DeliveryState.COMPLETE
    return (
        DeliveryState.PENDING if needed <= {JobState.DONE, *PENDING} else DeliveryState.IMPOSSIBLE
    )


def is_in_spool(session: Session, file: SpoolFile) -> bool:
    """Whether the file should be in the spool: retention has not dropped it meanwhile."""
    return (
        session.scalar(select(Revision.dropped_at).where(Revision.id == file.revision_id)) is None
    )


def record_decisions(
    session: Session,
    claimed: Claim,
    failures: dict[int, int],
    now: datetime,
    lease_seconds: float,
) -> bool:
    """Record decisions by position (COMMITTED or a Failure Reason) and renew the lease.

    False if the lease is no longer ours: the caller rolls back.
    """
    if not _set_claimed(session, claimed, lease_until=now + timedelta(seconds=lease_seconds)):
        return False
    if failures:
        session.execute(
            update(CommitmentItem),
            [
                {"commitment_id": claimed.id, "position": position, "failure": failure}
                for position, failure in failures.items()
            ],
        )
    return True


def finish_if_decided(session: Session, claimed: Claim, next_check: datetime) -> bool:
    """Release a checked request; True if every object is decided, so that it is ready to report.

    Its report is due once its association has had its time, or at once where that has ended. What
    is not ready is due again at `next_check`.
    """
    undecided = session.scalar(
        select(func.count())
        .select_from(CommitmentItem)
        .where(CommitmentItem.commitment_id == claimed.id, CommitmentItem.failure.is_(None))
    )
    if undecided:
        _set_claimed(session, claimed, not_before=next_check, **_NO_LEASE)
        return False
    association = session.scalar(
        select(Commitment.association).where(Commitment.id == claimed.id).with_for_update()
    )
    return _set_claimed(
        session,
        claimed,
        state=CommitmentState.READY,
        not_before=_report_due(claimed.requested_at) if association else claimed.requested_at,
        **_NO_LEASE,
    )


def compose_report(session: Session, claimed: Claim) -> Report:
    """Return the report of a ready request."""
    rows = session.execute(
        select(
            CommitmentItem.sop_class_uid, CommitmentItem.sop_instance_uid, CommitmentItem.failure
        )
        .where(CommitmentItem.commitment_id == claimed.id)
        .order_by(CommitmentItem.position)
    ).all()
    return Report(
        claimed.transaction_uid,
        committed=tuple(Reference(*row[:2]) for row in rows if row.failure == COMMITTED),
        failed=tuple((Reference(*row[:2]), row.failure) for row in rows if row.failure),
    )


def mark_reported(session: Session, claimed: Claim, now: datetime) -> bool:
    """The requester has accepted the report; False if the lease is no longer ours."""
    return _set_claimed(
        session,
        claimed,
        state=CommitmentState.REPORTED,
        reported_at=now,
        error_message=None,
        **_NO_LEASE,
    )


def report_elsewhere(session: Session, claimed: Claim, now: datetime) -> bool:
    """The request's own association did not accept the report: due at once on another one."""
    return _set_claimed(session, claimed, association="", not_before=now, **_NO_LEASE)


def record_failed_report(
    session: Session,
    claimed: Claim,
    why: str,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
) -> CommitmentState | None:
    """Record that the report failed; the request's state now, None if the lease is not ours."""
    attempts = claimed.attempts + 1
    dead = attempts >= policy.max_attempts
    state = CommitmentState.DEAD if dead else CommitmentState.READY
    is_ours = _set_claimed(
        session,
        claimed,
        state=state,
        attempts=attempts,
        association="",
        not_before=next_try(attempts, now, policy, rng),
        error_message=why,
        **_NO_LEASE,
    )
    return state if is_ours else None


def requeue(session: Session, ids: Sequence[int], now: datetime) -> int:
    """Make dead requests ready to report again, with attempts reset; returns how many."""
    return execute_update(
        session,
        update(Commitment)
        .where(Commitment.id.in_(ids), Commitment.state == CommitmentState.DEAD)
        .values(state=CommitmentState.READY, attempts=0, not_before=now),
    )


def listing(session: Session, states: Sequence[CommitmentState]) -> list[Commitment]:
    """Requests in these states, oldest first."""
    return list(
        session.scalars(
            select(Commitment).where(Commitment.state.in_(states)).order_by(Commitment.id)
        )
    )


def _references(session: Session, commitment_id: int) -> list[Reference]:
    rows = session.execute(
        select(CommitmentItem.sop_class_uid, CommitmentItem.sop_instance_uid).where(
            CommitmentItem.commitment_id == commitment_id
        )
    )
    return [Reference(*row) for row in rows]


def _report_due(requested_at: datetime) -> datetime:
    return requested_at + timedelta(seconds=REPORT_DELAY_SECONDS)


def _set(session: Session, id: int, **values: Any) -> None:
    execute_update(session, update(Commitment).where(Commitment.id == id).values(**values))


def _set_claimed(session: Session, claimed: Claim, **values: Any) -> bool:
    """Change the request if it is still ours."""
    return (
        execute_update(
            session,
            update(Commitment)
            .where(Commitment.id == claimed.id, Commitment.owner == claimed.token)
            .values(**values),
        )
        == 1
    )
