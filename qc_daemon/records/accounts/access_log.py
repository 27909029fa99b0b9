"""Who did or saw what: rows that are only added."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import AccessAction, AccessRow, AccountRow, ApiTokenRow

MAX_SUBJECT_LETTERS = 200


@dataclass(frozen=True, slots=True)
class AccessFilter:
    """Which rows; None: any. `before` is the id that a page before ended with; `subjects` are ids
    of persons, whose reports were read."""

    account: str | None = None
    exam_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    subjects: Collection[str] | None = None


def append(
    session: Session,
    action: AccessAction,
    now: datetime,
    *,
    account_id: int | None,
    address: str,
    token_id: int | None = None,
    exam_id: int | None = None,
    finding_id: int | None = None,
    subject: str | None = None,
) -> None:
    """Add a row."""
    row = AccessRow(
        at=now,
        action=action,
        account_id=account_id,
        token_id=token_id,
        exam_id=exam_id,
        finding_id=finding_id,
        address=address,
        subject=None if subject is None else subject[:MAX_SUBJECT_LETTERS],
    )
    session.add(row)


def listing(session: Session, access_filter: AccessFilter, limit: int | None) -> Sequence[Any]:
    """Rows with the account's and the token's name, the last first."""
    statement = (
        select(
            *AccessRow.__table__.c,
            AccountRow.name.label("account"),
            ApiTokenRow.name.label("token"),
        )
        .join(AccountRow, AccountRow.id == AccessRow.account_id, isouter=True)
        .join(ApiTokenRow, ApiTokenRow.id == AccessRow.token_id, isouter=True)
        .order_by(AccessRow.id.desc())
        .limit(limit)
    )
    if access_filter.account is not None:
        statement = statement.where(AccountRow.name == access_filter.account)
    if access_filter.exam_id is not None:
        statement = statement.where(AccessRow.exam_id == access_filter.exam_id)
    if access_filter.since is not None:
        statement = statement.where(AccessRow.at >= access_filter.since)
    if access_filter.until is not None:
        statement = statement.where(AccessRow.at < access_filter.until)
    if access_filter.subjects is not None:
        statement = statement.where(AccessRow.subject.in_(access_filter.subjects))
    if access_filter.before is not None:
        statement = statement.where(AccessRow.id < access_filter.before)
    return session.execute(statement).all()
