"""Digests of audits: each once for a recipient, tried again until it is sent or given up.

Whoever sends one first moves its next try ahead (`claim`): two processes never send the same, and
what a process that died had claimed is due again after that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.records.tables import AuditRow, AuditState, DigestRow, DigestState
from qc_daemon.records.upsert import execute_update, insert_once

_CLAIM = timedelta(minutes=5)
_UNIQUE = ("channel", "recipient", "subject_id", "audit", "local_date")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who gets a digest, by which channel; `subject_id` is the person it is about, "" the lab."""

    channel: str
    recipient: str
    subject_id: str = ""


def create_for_newest(
    session: Session, audit: str, recipients: Sequence[Recipient], now: datetime
) -> int:
    """Add what is missing for the newest audit that is done; older ones are never caught up with.
    Returns how many are new."""
    newest = session.execute(
        select(AuditRow.local_date)
        .where(AuditRow.name == audit, AuditRow.state == AuditState.DONE)
        .order_by(AuditRow.local_date.desc())
        .limit(1)
    ).scalar_one_or_none()
    if newest is None:
        return 0
    count = 0
    for each in recipients:
        values = {
            "channel": each.channel,
            "recipient": each.recipient,
            "subject_id": each.subject_id,
            "audit": audit,
            "local_date": newest,
            "state": DigestState.READY,
            "attempts": 0,
            "next_at": now,
            "created_at": now,
        }
        count += insert_once(session, DigestRow, values, _UNIQUE) is not None
    return count


def claim(session: Session, now: datetime) -> DigestRow | None:
    """The digest that has been due the longest, claimed for some minutes; None if none is due."""
    due = session.scalars(
        select(DigestRow)
        .where(DigestRow.state == DigestState.READY, DigestRow.next_at <= now)
        .order_by(DigestRow.next_at, DigestRow.id)
        .limit(1)
    ).one_or_none()
    if due is None:
        return None
    until = now + _CLAIM
    claimed = execute_update(
        session,
        update(DigestRow)
        .where(
            DigestRow.id == due.id,
            DigestRow.state == DigestState.READY,
            DigestRow.next_at == due.next_at,
        )
        .values(next_at=until, attempts=DigestRow.attempts + 1),
    )
    if not claimed:
        return None
    session.refresh(due)
    session.expunge(due)
    return due


def mark_sent(session: Session, digest_id: int, now: datetime) -> None:
    """It has been taken by the server."""
    _set(
        session, digest_id, state=DigestState.SENT, sent_at=now, error_code=None, error_message=None
    )


def mark_failed(session: Session, digest_id: int, error: QCError, next_at: datetime | None) -> None:
    """It has not been taken; None: it is given up."""
    values: dict[str, object] = {"error_code": error.code, "error_message": error.message}
    if next_at is None:
        _set(session, digest_id, state=DigestState.DEAD, **values)
    else:
        _set(session, digest_id, next_at=next_at, **values)


def _set(session: Session, digest_id: int, **values: object) -> None:
    statement = update(DigestRow).where(
        DigestRow.id == digest_id, DigestRow.state == DigestState.READY
    )
    execute_update(session, statement.values(**values))


def retry(session: Session, ids: Collection[int], now: datetime) -> dict[int, str]:
    """Make dead ones ready again; returns the state that each of the ids had."""
    rows = session.scalars(select(DigestRow).where(DigestRow.id.in_(ids))).all()
    states = {row.id: row.state for row in rows}
    for row in rows:
        if row.state == DigestState.DEAD:
            row.state, row.next_at, row.attempts = DigestState.READY, now, 0
    return states


def listing(session: Session) -> list[DigestRow]:
    """All digests, the newest first."""
    return list(
        session.scalars(
            select(DigestRow).order_by(DigestRow.local_date.desc(), DigestRow.id.desc())
        )
    )
