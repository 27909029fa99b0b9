"""State of destinations: SOP classes they refuse, jobs that wait for them, since when they fail,
and whether they commit to what they store."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue.jobs import FAILED_STATES
from qc_daemon.records.queue.order import TO_DO
from qc_daemon.records.tables import (
    CommitmentSupport,
    DestinationState,
    JobKind,
    JobRow,
    JobState,
    RefusedClass,
)
from qc_daemon.records.upsert import insert_or_update


@dataclass(frozen=True, slots=True)
class Condition:
    """As the columns of `DestinationState`."""

    failing_since: datetime | None = None
    failed_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    commitment: str | None = None
    commitment_since: datetime | None = None
    commitment_message: str | None = None


def record_refusal(session: Session, destination: str, sop_class_uid: str, now: datetime) -> None:
    """Record that the destination refused objects of the class."""
    insert_or_update(
        session,
        RefusedClass,
        {"destination": destination, "sop_class_uid": sop_class_uid, "refused_at": now},
        ("destination", "sop_class_uid"),
    )


def record_acceptance(session: Session, destination: str, sop_class_uid: str) -> None:
    """Record that the destination accepted an object of the class."""
    session.execute(
        delete(RefusedClass).where(
            RefusedClass.destination == destination, RefusedClass.sop_class_uid == sop_class_uid
        )
    )


def refused_classes(session: Session, destination: str) -> dict[str, datetime]:
    """The classes that the destination refuses, and when it last did."""
    rows = session.execute(
        select(RefusedClass.sop_class_uid, RefusedClass.refused_at)
        .where(RefusedClass.destination == destination)
        .order_by(RefusedClass.sop_class_uid)
    )
    return {row.sop_class_uid: row.refused_at for row in rows}


def reset_refused_classes(session: Session, destination: str) -> int:
    """Offer every class to the destination again; returns how many it had refused."""
    classes = refused_classes(session, destination)
    session.execute(delete(RefusedClass).where(RefusedClass.destination == destination))
    return len(classes)


def failed_jobs(session: Session, destination: str) -> list[int]:
    """The ids of deliver jobs that ended without the destination having the object."""
    ids = session.scalars(
        select(JobRow.id)
        .where(
            JobRow.kind == JobKind.DELIVER,
            JobRow.destination == destination,
            JobRow.state.in_(FAILED_STATES),
        )
        .order_by(JobRow.id)
    )
    return list(ids)


def has_jobs(session: Session, destination: str) -> bool:
    """Whether any deliver job, of whatever state, names the destination."""
    named = select(JobRow.id).where(
        JobRow.kind == JobKind.DELIVER,
        # All states, named, so that the index of claims answers.
        JobRow.state.in_(tuple(JobState)),
        JobRow.destination == destination,
    )
    return session.execute(named.limit(1)).first() is not None


def count_deliveries(session: Session) -> dict[str, dict[JobState, int]]:
    """How many deliver jobs of each state there are, by destination."""
    rows = session.execute(
        select(JobRow.destination, JobRow.state, func.count())
        # All states, named, so that the index of claims answers.
        .where(JobRow.kind == JobKind.DELIVER, JobRow.state.in_(tuple(JobState)))
        .group_by(JobRow.destination, JobRow.state)
    )
    counts: dict[str, dict[JobState, int]] = defaultdict(dict)
    for destination, state, count in rows:
        counts[destination][JobState(state)] = count
    return counts


def count_aborted(session: Session) -> dict[str, int]:
    """How many of the objects that wait their destination aborted on, by destination."""
    rows = session.execute(
        select(JobRow.destination, func.count())
        .where(
            JobRow.kind == JobKind.DELIVER,
            JobRow.state.in_(TO_DO),
            JobRow.error_code == ErrorCode.DELIVERY_ABORTED,
        )
        .group_by(JobRow.destination)
    )
    return {row[0]: row[1] for row in rows}


def record_failure(session: Session, destination: str, error: QCError, now: datetime) -> None:
    """Record that the destination could not be reached, was full, or did not admit us."""
    row = session.get(DestinationState, destination, populate_existing=True)
    since = now if row is None or row.failing_since is None else row.failing_since
    _save(
        session,
        destination,
        failing_since=since,
        failed_at=now,
        error_code=error.code,
        error_message=error.message,
    )


def is_failing(session: Session, destination: str) -> bool:
    """Whether the destination failed and has not answered since."""
    return condition(session, destination).failing_since is not None


def record_success(session: Session, destination: str) -> None:
    """Record that the destination answered. Writes nothing where it did before."""
    session.execute(
        update(DestinationState)
        .where(
            DestinationState.destination == destination,
            DestinationState.failing_since.is_not(None),
        )
        .values(failing_since=None)
    )


def record_commitment(
    session: Session,
    destination: str,
    support: CommitmentSupport,
    now: datetime,
    message: str | None = None,
) -> None:
    """Record what the destination did about storage commitment; writes only what is new.

    A presentation context alone does not say whether requests are accepted.
    """
    row = session.get(DestinationState, destination, populate_existing=True)
    before = None if row is None else row.commitment
    answers = (CommitmentSupport.TAKEN, CommitmentSupport.REFUSED, CommitmentSupport.LOST)
    if before == support or (support is CommitmentSupport.OFFERED and before in answers):
        return
    _save(
        session,
        destination,
        commitment=support,
        commitment_since=now,
        commitment_message=message,
    )


def condition(session: Session, destination: str) -> Condition:
    """The destination's last condition; all fields None where nothing is recorded."""
    row = session.get(DestinationState, destination, populate_existing=True)
    if row is None:
        return Condition()
    return Condition(**{name: getattr(row, name) for name in Condition.__slots__})


def _save(session: Session, destination: str, **values: Any) -> None:
    insert_or_update(
        session, DestinationState, {"destination": destination, **values}, ("destination",)
    )
