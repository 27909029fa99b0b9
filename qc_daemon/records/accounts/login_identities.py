"""Persons of OpenID providers: which account each is."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from qc_daemon.records.accounts import accounts
from qc_daemon.records.accounts.accounts import Account
from qc_daemon.records.tables import AccountRow, LoginIdentityRow


def find(session: Session, issuer: str, subject: str) -> Account | None:
    """The account of this person."""
    row = session.execute(
        select(*accounts.columns())
        .join(LoginIdentityRow, LoginIdentityRow.account_id == AccountRow.id)
        .where(LoginIdentityRow.issuer == issuer, LoginIdentityRow.subject == subject)
    ).one_or_none()
    return None if row is None else accounts.from_row(row)


def insert(session: Session, account_id: int, issuer: str, subject: str, now: datetime) -> None:
    """The person is this account. Raises IntegrityError if it is another one, or the account is
    another person of that provider."""
    session.add(
        LoginIdentityRow(account_id=account_id, issuer=issuer, subject=subject, created_at=now)
    )
    session.flush()


def remove(session: Session, account_id: int) -> list[str]:
    """The account is no provider's person any more; returns the subjects that it was."""
    removed = subjects(session, account_id)
    session.execute(delete(LoginIdentityRow).where(LoginIdentityRow.account_id == account_id))
    return removed


def subjects(session: Session, account_id: int) -> list[str]:
    """What providers call the account."""
    statement = select(LoginIdentityRow.subject).where(LoginIdentityRow.account_id == account_id)
    return list(session.execute(statement.order_by(LoginIdentityRow.id)).scalars())
