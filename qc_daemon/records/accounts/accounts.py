"""Accounts: who may log in, with what role, and whose images are theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from qc_daemon.records.tables import AccountRow
from qc_daemon.records.upsert import execute_update


@dataclass(frozen=True, slots=True)
class Account:
    """An account without its password; `is_enabled`: it may log in."""

    id: int
    name: str
    full_name: str
    role: str
    person_id: str | None
    language: str | None
    created_at: datetime
    disabled_at: datetime | None

    @property
    def is_enabled(self) -> bool:
        return self.disabled_at is None


def columns() -> list[Any]:
    """The columns of `Account`, in order."""
    return [getattr(AccountRow, name).label(f"account_{name}") for name in Account.__slots__]


def from_row(row: Any) -> Account:
    """The account of a row with `columns`."""
    return Account(*(getattr(row, f"account_{name}") for name in Account.__slots__))


def insert(
    session: Session,
    name: str,
    full_name: str,
    role: str,
    password_hash: str,
    now: datetime,
    *,
    person_id: str | None = None,
    language: str | None = None,
) -> int:
    """A new account; returns its id. Raises IntegrityError for a name that there is."""
    row = AccountRow(
        name=name,
        full_name=full_name,
        role=role,
        person_id=person_id,
        language=language,
        password_hash=password_hash,
        password_at=now,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row.id


def listing(session: Session) -> list[Account]:
    """All accounts, by name."""
    rows = session.execute(select(*columns()).order_by(AccountRow.name))
    return [from_row(row) for row in rows]


def by_name(session: Session, name: str) -> Account | None:
    """The account that logs in by this name."""
    row = session.execute(select(*columns()).where(AccountRow.name == name)).one_or_none()
    return None if row is None else from_row(row)


def by_full_name(session: Session, full_name: str) -> Account | None:
    """The account of this reader."""
    statement = select(*columns()).where(AccountRow.full_name == full_name)
    row = session.execute(statement).one_or_none()
    return None if row is None else from_row(row)


def password_hash(session: Session, account_id: int) -> str:
    """The stored hash of its password."""
    statement = select(AccountRow.password_hash).where(AccountRow.id == account_id)
    return session.execute(statement).scalar_one()


def set_password(session: Session, account_id: int, hash: str, now: datetime) -> None:
    """Give it another password."""
    _change(session, account_id, {"password_hash": hash, "password_at": now})


def set_enabled(session: Session, account_id: int, now: datetime, *, enabled: bool) -> None:
    """Let it log in, or not any more."""
    _change(session, account_id, {"disabled_at": None if enabled else now})


def set_role(session: Session, account_id: int, role: str) -> None:
    """Give it another role."""
    _change(session, account_id, {"role": role})


def set_person(session: Session, account_id: int, person_id: str | None) -> None:
    """Say whose images are its own."""
    _change(session, account_id, {"person_id": person_id})


def names(session: Session, ids: Sequence[int]) -> dict[int, str]:
    """The names of accounts, by id."""
    rows = session.execute(select(AccountRow.id, AccountRow.name).where(AccountRow.id.in_(ids)))
    return {row.id: row.name for row in rows}


def _change(session: Session, account_id: int, values: dict[str, Any]) -> None:
    execute_update(session, update(AccountRow).where(AccountRow.id == account_id).values(**values))
