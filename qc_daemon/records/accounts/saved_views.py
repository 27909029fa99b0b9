"""Filters of the worklist that accounts keep under a name."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import SavedViewRow
from qc_daemon.records.upsert import insert_or_update


def every(session: Session, account_id: int) -> Sequence[Any]:
    """The account's views (name, query) by name."""
    statement = select(SavedViewRow.name, SavedViewRow.query)
    of_account = statement.where(SavedViewRow.account_id == account_id)
    return session.execute(of_account.order_by(SavedViewRow.name)).all()


def put(session: Session, account_id: int, name: str, query: str, now: datetime) -> None:
    """Keep a view, in the place of one that has its name."""
    values = {"account_id": account_id, "name": name, "query": query, "created_at": now}
    insert_or_update(session, SavedViewRow, values, ("account_id", "name"))


def remove(session: Session, account_id: int, name: str) -> None:
    """Forget a view; nothing happens where there is none."""
    session.execute(
        delete(SavedViewRow).where(SavedViewRow.account_id == account_id, SavedViewRow.name == name)
    )
