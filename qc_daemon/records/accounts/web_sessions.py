"""Sessions of people: begun by a log-in, found by the hash of what the cookie holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from qc_daemon.records.accounts import accounts
from qc_daemon.records.accounts.accounts import Account
from qc_daemon.records.tables import AccountRow, LoginMethod, WebSessionRow
from qc_daemon.records.upsert import execute_update

MAX_AGENT_LETTERS = 200
# A row is written at most so often for being used: a page asks for several things at once.
_USED_STEP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class WebSession:
    """A session and its account."""

    id: int
    account: Account
    address: str
    agent: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime
    method: LoginMethod


def insert(
    session: Session,
    account_id: int,
    token_sha256: str,
    now: datetime,
    lifetime: timedelta,
    *,
    address: str,
    agent: str,
    method: LoginMethod,
) -> int:
    """A session that begins now; returns its id."""
    row = WebSessionRow(
        account_id=account_id,
        token_sha256=token_sha256,
        address=address,
        agent=agent[:MAX_AGENT_LETTERS],
        created_at=now,
        used_at=now,
        expires_at=now + lifetime,
        method=method,
    )
    session.add(row)
    session.flush()
    return row.id


def find(session: Session, token_sha256: str, now: datetime, idle: timedelta) -> WebSession | None:
    """The session that this hash belongs to, if it counts: begun and not over, used lately, its
    account enabled."""
    statement = _active(now, idle).where(WebSessionRow.token_sha256 == token_sha256)
    row = session.execute(statement).one_or_none()
    return None if row is None else _from_row(row)


def listing(
    session: Session, now: datetime, idle: timedelta, account_id: int | None = None
) -> list[WebSession]:
    """The sessions that count now, of this account or of all, the last used first."""
    statement = _active(now, idle).order_by(WebSessionRow.used_at.desc(), WebSessionRow.id)
    if account_id is not None:
        statement = statement.where(WebSessionRow.account_id == account_id)
    return [_from_row(row) for row in session.execute(statement)]


def is_use_due(web_session: WebSession, now: datetime) -> bool:
    """Whether `record_use` has something to write."""
    return abs(now - web_session.used_at) >= _USED_STEP


def record_use(session: Session, session_id: int, now: datetime) -> None:
    """The session was used now."""
    statement = update(WebSessionRow).where(WebSessionRow.id == session_id)
    execute_update(session, statement.values(used_at=now))


def end(
    session: Session,
    now: datetime,
    *,
    ids: Sequence[int] | None = None,
    account_id: int | None = None,
    but: int | None = None,
) -> int:
    """End sessions by their ids, or all of an account except `but`; returns how many."""
    statement = update(WebSessionRow).where(
        WebSessionRow.ended_at.is_(None), WebSessionRow.expires_at > now
    )
    if ids is not None:
        statement = statement.where(WebSessionRow.id.in_(ids))
    if account_id is not None:
        statement = statement.where(WebSessionRow.account_id == account_id)
    if but is not None:
        statement = statement.where(WebSessionRow.id != but)
    return execute_update(session, statement.values(ended_at=now))


def _active(now: datetime, idle: timedelta) -> Select[Any]:
    return (
        select(*WebSessionRow.__table__.c, *accounts.columns())
        .join(AccountRow, AccountRow.id == WebSessionRow.account_id)
        .where(
            WebSessionRow.ended_at.is_(None),
            WebSessionRow.expires_at > now,
            WebSessionRow.used_at > now - idle,
            AccountRow.disabled_at.is_(None),
        )
    )


def _from_row(row: Any) -> WebSession:
    return WebSession(
        id=row.id,
        account=accounts.from_row(row),
        address=row.address,
        agent=row.agent,
        created_at=row.created_at,
        used_at=row.used_at,
        expires_at=row.expires_at,
        method=LoginMethod(row.method),
    )
