"""What is known of destinations: the SOP classes they do not take, and what waits for them."""

from collections import defaultdict
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from qc_daemon.records.jobs import GIVEN_UP
from qc_daemon.records.rows import insert_or_update
from qc_daemon.records.tables import JobKind, JobRow, JobState, RefusedClass


def refuse(session: Session, destination: str, sop_class_uid: str, now: datetime) -> None:
    """The destination has said that it does not take the class."""
    insert_or_update(
        session,
        RefusedClass,
        {"destination": destination, "sop_class_uid": sop_class_uid, "refused_at": now},
        ("destination", "sop_class_uid"),
    )


def take(session: Session, destination: str, sop_class_uid: str) -> None:
    """The destination has taken an object of the class."""
    session.execute(
        delete(RefusedClass).where(
            RefusedClass.destination == destination, RefusedClass.sop_class_uid == sop_class_uid
        )
    )


def refused(session: Session, destination: str) -> dict[str, datetime]:
    """The classes that the destination does not take, and when it last said so."""
    rows = session.execute(
        select(RefusedClass.sop_class_uid, RefusedClass.refused_at)
        .where(RefusedClass.destination == destination)
        .order_by(RefusedClass.sop_class_uid)
    )
    return {row.sop_class_uid: row.refused_at for row in rows}


def forget(session: Session, destination: str) -> int:
    """Ask the destination anew about every class; how many that are."""
    known = refused(session, destination)
    session.execute(delete(RefusedClass).where(RefusedClass.destination == destination))
    return len(known)


def given_up(session: Session, destination: str) -> list[int]:
    """The ids of deliver jobs that ended without the destination having the object."""
    found = session.scalars(
        select(JobRow.id)
        .where(
            JobRow.kind == JobKind.DELIVER,
            JobRow.destination == destination,
            JobRow.state.in_(GIVEN_UP),
        )
        .order_by(JobRow.id)
    )
    return list(found)


def deliveries(session: Session) -> dict[str, dict[JobState, int]]:
    """How many deliver jobs of each state there are, by destination."""
    rows = session.execute(
        select(JobRow.destination, JobRow.state, func.count())
        # All states, named, so that the index of claims answers.
        .where(JobRow.kind == JobKind.DELIVER, JobRow.state.in_(tuple(JobState)))
        .group_by(JobRow.destination, JobRow.state)
    )
    found: dict[str, dict[JobState, int]] = defaultdict(dict)
    for destination, state, count in rows:
        found[destination][JobState(state)] = count
    return found
