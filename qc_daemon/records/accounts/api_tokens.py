"""Tokens of programs, found by their hash: each of an account, with verbs and an end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from qc_daemon.records.accounts import accounts
from qc_daemon.records.accounts.accounts import Account
from qc_daemon.records.tables import AccountRow, ApiTokenRow
from qc_daemon.records.upsert import execute_update

_USED_STEP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token and its account; `revoked_at` is None while it counts."""

    id: int
    account: Account
    name: str
    verbs: tuple[str, ...]
    created_at: datetime
    used_at: datetime | None
    expires_at: datetime
    revoked_at: datetime | None


def insert(
    session: Session,
    account_id: int,
    name: str,
    token_sha256: str,
    verbs: Sequence[str],
    now: datetime,
    expires_at: datetime,
) -> int:
    """A new token; returns its id. Raises IntegrityError for a name that the account uses."""
    row = ApiTokenRow(
        account_id=account_id,
        name=name,
        token_sha256=token_sha256,
        verbs=list(verbs),
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row.id


def find(session: Session, token_sha256: str, now: datetime) -> ApiToken | None:
    """The token of this hash, if it counts: not over, not revoked, its account enabled."""
    statement = _all().where(
        ApiTokenRow.token_sha256 == token_sha256,
        ApiTokenRow.revoked_at.is_(None),
        ApiTokenRow.expires_at > now,
        AccountRow.disabled_at.is_(None),
    )
    row = session.execute(statement).one_or_none()
    return None if row is None else _from_row(row)


def listing(session: Session, account_id: int | None = None) -> list[ApiToken]:
    """All tokens of an account, or of all accounts, by id."""
    statement = _all().order_by(ApiTokenRow.id)
    if account_id is not None:
        statement = statement.where(ApiTokenRow.account_id == account_id)
    return [_from_row(row) for row in session.execute(statement)]


def is_use_due(token: ApiToken, now: datetime) -> bool:
    """Whether `record_use` has something to write."""
    return token.used_at is None or abs(now - token.used_at) >= _USED_STEP


def record_use(session: Session, token_id: int, now: datetime) -> None:
    """The token was used now."""
    statement = update(ApiTokenRow).where(ApiTokenRow.id == token_id)
    execute_update(session, statement.values(used_at=now))


def revoke(session: Session, account_id: int, name: str, now: datetime) -> bool:
    """Make the account's token of this name count no more; False if there is none that does."""
    statement = update(ApiTokenRow).where(
        ApiTokenRow.account_id == account_id,
        ApiTokenRow.name == name,
        ApiTokenRow.revoked_at.is_(None),
    )
    return execute_update(session, statement.values(revoked_at=now)) > 0


def _all() -> Select[Any]:
    return select(*ApiTokenRow.__table__.c, *accounts.columns()).join(
        AccountRow, AccountRow.id == ApiTokenRow.account_id
    )


def _from_row(row: Any) -> ApiToken:
    return ApiToken(
        id=row.id,
        account=accounts.from_row(row),
        name=row.name,
        verbs=tuple(row.verbs),
        created_at=row.created_at,
        used_at=row.used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
