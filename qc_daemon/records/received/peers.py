"""Peers approved by command to store to us, and callers refused because they are unknown."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import CursorResult, Delete, delete, func, select, update
from sqlalchemy.orm import Session

from qc_daemon.records.tables import CallerRow, Peer
from qc_daemon.records.upsert import execute_update, insert_once, insert_or_update

# Callers stored in all, and of one address: a flood of invented titles from one machine drops only
# its own.
MAX_CALLERS = 1000
MAX_CALLERS_PER_ADDRESS = 16


@dataclass(frozen=True, slots=True)
class ApprovedPeer:
    """A sender approved by command; `address` is a network, `certificate` a SHA-256 or None."""

    ae_title: str
    address: str
    certificate: str | None
    approved_at: datetime


@dataclass(frozen=True, slots=True)
class RefusedCaller:
    """A caller that was refused, the last certificate it showed, and how often it came.

    `called_ae` is the AE title that it called us by the last time, `reason` why it was refused.
    """

    ae_title: str
    address: str
    certificate: str | None
    attempts: int
    first_seen_at: datetime
    last_seen_at: datetime
    called_ae: str | None = None
    reason: str | None = None


def approved_peers(session: Session) -> list[ApprovedPeer]:
    """The approved peers, by title and address."""
    rows = session.execute(
        select(Peer.ae_title, Peer.address, Peer.certificate, Peer.approved_at).order_by(
            Peer.ae_title, Peer.address
        )
    )
    return [ApprovedPeer(*row) for row in rows]


def approve(
    session: Session, ae_title: str, address: str, certificate: str | None, now: datetime
) -> None:
    """Approve a peer; one of the same title and address gets the new certificate."""
    values = {
        "ae_title": ae_title,
        "address": address,
        "certificate": certificate,
        "approved_at": now,
    }
    insert_or_update(session, Peer, values, ("ae_title", "address"))


def remove(session: Session, ae_title: str, address: str | None) -> int:
    """Withdraw the approval, of every address unless one is given; returns how many there were."""
    statement = delete(Peer).where(Peer.ae_title == ae_title)
    if address is not None:
        statement = statement.where(Peer.address == address)
    return _delete(session, statement)


def refused_callers(session: Session) -> list[RefusedCaller]:
    """The refused callers, latest first."""
    rows = session.execute(
        select(
            CallerRow.ae_title,
            CallerRow.address,
            CallerRow.certificate,
            CallerRow.attempts,
            CallerRow.first_seen_at,
            CallerRow.last_seen_at,
            CallerRow.called_ae,
            CallerRow.reason,
        ).order_by(CallerRow.last_seen_at.desc(), CallerRow.id.desc())
    )
    return [RefusedCaller(*row) for row in rows]


def record_refusals(session: Session, callers: Iterable[RefusedCaller]) -> None:
    """Add refused attempts to the list of callers, then drop the oldest beyond the limits.

    A certificate once shown stays: a later attempt without one must not make its approval weaker.
    """
    # In one order, so that two receivers that write at once never wait for each other.
    ordered = sorted(callers, key=lambda caller: (caller.ae_title, caller.address))
    for caller in ordered:
        if not _count_again(session, caller):
            values = {name: getattr(caller, name) for name in RefusedCaller.__slots__}
            if insert_once(session, CallerRow, values, ("ae_title", "address")) is None:
                _count_again(session, caller)
    for address in sorted({caller.address for caller in ordered}):
        of_address = select(CallerRow.id).where(CallerRow.address == address)
        newest = of_address.order_by(CallerRow.last_seen_at.desc(), CallerRow.id.desc())
        _delete(
            session,
            delete(CallerRow).where(
                CallerRow.address == address,
                CallerRow.id.not_in(newest.limit(MAX_CALLERS_PER_ADDRESS)),
            ),
        )
    newest = select(CallerRow.id).order_by(CallerRow.last_seen_at.desc(), CallerRow.id.desc())
    _delete(session, delete(CallerRow).where(CallerRow.id.not_in(newest.limit(MAX_CALLERS))))


def remove_caller(session: Session, ae_title: str, address: str) -> None:
    """Remove a caller from the list of refused ones."""
    _delete(
        session,
        delete(CallerRow).where(CallerRow.ae_title == ae_title, CallerRow.address == address),
    )


def _count_again(session: Session, caller: RefusedCaller) -> bool:
    """Count a caller that is on the list; False if it is not."""
    statement = (
        update(CallerRow)
        .where(CallerRow.ae_title == caller.ae_title, CallerRow.address == caller.address)
        .values(
            attempts=CallerRow.attempts + caller.attempts,
            certificate=func.coalesce(caller.certificate, CallerRow.certificate),
            last_seen_at=caller.last_seen_at,
            called_ae=caller.called_ae,
            reason=caller.reason,
        )
    )
    return execute_update(session, statement) == 1


def _delete(session: Session, statement: Delete) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount
