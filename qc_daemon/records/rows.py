"""Inserting and changing rows in ways that two writers at once cannot break."""

from typing import Any

from sqlalchemy import CursorResult, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from qc_daemon.records.tables import Base


def insert_once(
    session: Session, table: type[Base], values: dict[str, Any], unique: tuple[str, ...]
) -> int | None:
    """The new row's id, or None if a row with these `unique` columns is already there.

    PostgreSQL waits for another transaction that is inserting the same row, so afterwards the
    row is visible whoever made it.
    """
    made = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = made(table).values(**values).on_conflict_do_nothing(index_elements=unique)
    key = table.__mapper__.primary_key[0]
    inserted: int | None = session.execute(statement.returning(key)).scalar_one_or_none()
    return inserted


def insert_or_update(
    session: Session,
    table: type[Base],
    values: dict[str, Any],
    unique: tuple[str, ...],
) -> None:
    """Insert, or where a row with these `unique` columns is there give it the other values."""
    made = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(
        made(table)
        .values(**values)
        .on_conflict_do_update(
            index_elements=unique,
            set_={name: value for name, value in values.items() if name not in unique},
        )
    )


def changed(session: Session, statement: Update) -> int:
    """How many rows the update changed."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount
