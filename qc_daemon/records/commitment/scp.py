"""Storage commitment (PS3.4 Annex J): what was asked, how far it is, and who sends the report.

Transitions of a request, all there are:

    from            to        when
    -               waiting   request
    waiting         ready     every object is decided
    ready           reported  the requester has taken the report
    ready           dead      attempts to report used up
    reported, dead  ready     the same request again; requeue (dead only)

Whoever decides or reports holds the row by a lease; one that has died lets it run out.
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
from qc_daemon.records.upsert import changed, insert_once

# How long after a request its report is left to the association it came over.
WATCH_SECONDS = 15.0

# Leases and looks ahead are shorter; what lies further off was set by a clock since set back.
_LONGEST_AHEAD = timedelta(minutes=10)

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
class KeptFile:
    """Bytes in the spool that a commitment would be a promise about; `path` relative to it."""

    revision_id: int
    path: str
    sha256: str
    size: int


class Hold(Enum):
    """Whether the destinations that want an object have it."""

    ALL = "all"
    WAITING = "waiting"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Standing:
    """An object not decided yet. `failure` is a Failure Reason that needs no look at the disk;
    else `files` are to be checked, and `hold` says whether that already decides."""

    position: int
    reference: Reference
    failure: int | None
    hold: Hold
    files: tuple[KeptFile, ...]


def request(session: Session, asked: Request, now: datetime) -> bool:
    """Record a request; False if the same one is known: then a report already sent goes again.

    Raises ValueError if the requester used the Transaction UID for other objects before.
    """
    made = insert_once(
        session,
        Commitment,
        {
            "transaction_uid": asked.transaction_uid,
            "requested_by": asked.requested_by,
            "address": asked.address,
            "association": asked.association,
            "not_before": now,
            "requested_at": now,
        },
        ("transaction_uid", "requested_by"),
    )
    if made is None:
        _again(session, asked, now)
        return False
    session.add_all(
        CommitmentItem(
            commitment_id=made,
            position=position,
            sop_class_uid=each.sop_class_uid,
            sop_instance_uid=each.sop_instance_uid,
        )
        for position, each in enumerate(asked.references)
    )
    session.flush()
    return True


def _again(session: Session, asked: Request, now: datetime) -> None:
    known = session.execute(
        select(Commitment.id, Commitment.state)
        .where(
            Commitment.transaction_uid == asked.transaction_uid,
            Commitment.requested_by == asked.requested_by,
        )
        .with_for_update(key_share=True)
    ).one()
    if set(_references(session, known.id)) != set(asked.references):
        raise ValueError("the Transaction UID stands for other objects already")
    values: dict[str, Any] = {
        "association": asked.association,
        "address": asked.address,
        "requested_at": now,
    }
    if known.state != CommitmentState.WAITING:
        values |= {"state": CommitmentState.READY, "attempts": 0, "not_before": _watched(now)}
    _set(session, known.id, **values)


def association_ended(session: Session, association: str, now: datetime) -> None:
    """No report can go over this association any more: what is ready is due at once."""
    changed(
        session,
        update(Commitment)
        .where(Commitment.association == association, Commitment.state == CommitmentState.READY)
        .values(association="", not_before=now),
    )
    changed(
        session,
        update(Commitment).where(Commitment.association == association).values(association=""),
    )


def under_way(session: Session, association: str) -> set[CommitmentState]:
    """States of the requests whose report may still go over this association."""
    found = session.scalars(
        select(Commitment.state)
        .where(
            Commitment.association == association,
            Commitment.state.in_((CommitmentState.WAITING, CommitmentState.READY)),
        )
        .distinct()
    )
    return set(map(CommitmentState, found))


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
    far = now + _LONGEST_AHEAD
    chosen = Commitment.not_before <= now
    if state is CommitmentState.WAITING:
        chosen = or_(chosen, Commitment.not_before > far)
    if association is not None:
        chosen = Commitment.association == association
    row = session.scalars(
        select(Commitment)
        .where(
            Commitment.state == state,
            chosen,
            or_(
                Commitment.lease_until.is_(None),
                Commitment.lease_until <= now,
                Commitment.lease_until > far,
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


def standings(
    session: Session,
    claimed: Claim,
    destinations: Collection[str],
    *,
    kept_for_ever: bool,
    routed: Collection[str] = (),
) -> list[Standing]:
    """The request's objects that are not decided yet.

    An object may have come with several contents under its UID; we commit to all of them.
    `destinations` are those that want every original, and `routed` those that rules may send one
    to: of these it needs the ones that it was routed to. Without any, only a spool that keeps
    originals for ever can be committed to.
    """
    rows = session.execute(
        select(
            CommitmentItem.position,
            CommitmentItem.sop_class_uid,
            CommitmentItem.sop_instance_uid,
            Revision.id.label("revision_id"),
            Revision.sop_class_uid.label("kept_class"),
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
    delivered = _deliveries(session, claimed.id)
    by_position: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_position[row.position].append(row)
    return [
        _standing(contents, delivered, destinations, routed, kept_for_ever)
        for contents in by_position.values()
    ]


def _deliveries(session: Session, commitment_id: int) -> dict[int, dict[str, str]]:
    """State of the deliver job of each revision asked about, by revision and destination."""
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
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for revision_id, destination, state in rows:
        found[revision_id][destination] = state
    return found


def _standing(
    contents: Sequence[Any],
    delivered: dict[int, dict[str, str]],
    destinations: Collection[str],
    routed: Collection[str],
    kept_for_ever: bool,
) -> Standing:
    first = contents[0]
    reference = Reference(first.sop_class_uid, first.sop_instance_uid)
    if first.revision_id is None:
        return Standing(first.position, reference, NO_SUCH_SOP_INSTANCE, Hold.NEVER, ())
    if any(each.kept_class != reference.sop_class_uid for each in contents):
        return Standing(first.position, reference, CLASS_INSTANCE_CONFLICT, Hold.NEVER, ())
    holds = {
        held_by_all(delivered.get(each.revision_id, {}), destinations, kept_for_ever, routed)
        for each in contents
    }
    hold = next(each for each in (Hold.NEVER, Hold.WAITING, Hold.ALL) if each in holds)
    failure = PROCESSING_FAILURE if hold is Hold.NEVER else None
    # What retention has dropped is with every destination, and no longer here to be checked.
    files = tuple(
        KeptFile(each.revision_id, each.path, each.sha256, each.size)
        for each in contents
        if each.dropped_at is None
    )
    return Standing(first.position, reference, failure, hold, files)


def held_by_all(
    states: dict[str, str],
    destinations: Collection[str],
    kept_for_ever: bool = False,
    routed: Collection[str] = (),
) -> Hold:
    """Whether every destination holds a content, by the states of its deliver jobs.

    Those of `destinations` must, and of `routed` those that a job was made for: a content's deliver
    jobs are made with its row and record where it was routed to. A job given up, or never made
    because the destination was added later, leaves no hope.
    """
    names = {*destinations, *(name for name in routed if name in states)}
    if not names:
        return Hold.ALL if kept_for_ever else Hold.NEVER
    wanted = {states.get(name) for name in names}
    if wanted <= {JobState.DONE}:
        return Hold.ALL
    return Hold.WAITING if wanted <= {JobState.DONE, *PENDING} else Hold.NEVER


def still_kept(session: Session, file: KeptFile) -> bool:
    """Whether the file should be there: retention has not dropped it meanwhile."""
    return (
        session.scalar(select(Revision.dropped_at).where(Revision.id == file.revision_id)) is None
    )


def decide(
    session: Session,
    claimed: Claim,
    failures: dict[int, int],
    now: datetime,
    lease_seconds: float,
) -> bool:
    """Write down decisions by position (COMMITTED or a Failure Reason) and renew the lease.

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


def settle(session: Session, claimed: Claim, look_again: datetime) -> bool:
    """Let go of a request that was looked at; True if it is ready: every object is decided.

    Its report is due when its association has had its time, or at once where that is over. What is
    not ready is looked at again at `look_again`.
    """
    undecided = session.scalar(
        select(func.count())
        .select_from(CommitmentItem)
        .where(CommitmentItem.commitment_id == claimed.id, CommitmentItem.failure.is_(None))
    )
    if undecided:
        _set_claimed(session, claimed, not_before=look_again, **_NO_LEASE)
        return False
    association = session.scalar(
        select(Commitment.association).where(Commitment.id == claimed.id).with_for_update()
    )
    return _set_claimed(
        session,
        claimed,
        state=CommitmentState.READY,
        not_before=_watched(claimed.requested_at) if association else claimed.requested_at,
        **_NO_LEASE,
    )


def report(session: Session, claimed: Claim) -> Report:
    """What there is to tell of a ready request."""
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


def reported(session: Session, claimed: Claim, now: datetime) -> bool:
    """The requester has taken the report; False if the lease is no longer ours."""
    return _set_claimed(
        session,
        claimed,
        state=CommitmentState.REPORTED,
        reported_at=now,
        error_message=None,
        **_NO_LEASE,
    )


def report_elsewhere(session: Session, claimed: Claim, now: datetime) -> bool:
    """The request's own association did not take the report: due at once on another one."""
    return _set_claimed(session, claimed, association="", not_before=now, **_NO_LEASE)


def not_reported(
    session: Session,
    claimed: Claim,
    why: str,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
) -> CommitmentState | None:
    """One attempt more has failed; what becomes of the request, None if no longer ours."""
    attempts = claimed.attempts + 1
    dead = attempts >= policy.max_attempts
    state = CommitmentState.DEAD if dead else CommitmentState.READY
    ours = _set_claimed(
        session,
        claimed,
        state=state,
        attempts=attempts,
        association="",
        not_before=next_try(attempts, now, policy, rng),
        error_message=why,
        **_NO_LEASE,
    )
    return state if ours else None


def requeue(session: Session, ids: Sequence[int], now: datetime) -> int:
    """Report dead requests again, attempts counted anew; how many that was."""
    return changed(
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


def _watched(requested_at: datetime) -> datetime:
    return requested_at + timedelta(seconds=WATCH_SECONDS)


def _set(session: Session, id: int, **values: Any) -> None:
    changed(session, update(Commitment).where(Commitment.id == id).values(**values))


def _set_claimed(session: Session, claimed: Claim, **values: Any) -> bool:
    """Change the request if it is still ours."""
    return (
        changed(
            session,
            update(Commitment)
            .where(Commitment.id == claimed.id, Commitment.owner == claimed.token)
            .values(**values),
        )
        == 1
    )
