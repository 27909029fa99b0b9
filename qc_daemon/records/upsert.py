"""Inserting and changing rows in ways that two writers at once cannot break."""

from functools import cache
from typing import Any, cast

from sqlalchemy import CursorResult, Executable, Table, Update, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from qc_daemon.records.tables import Base


def table_of(row: type[Base]) -> Table:
    """The table itself: statements on it skip what the ORM does for classes."""
    return cast(Table, row.__table__)


def insert_once(
    session: Session, table: type[Base], values: dict[str, Any], unique: tuple[str, ...]
) -> int | None:
    """The new row's id, or None if a row with these `unique` columns is already there.

    PostgreSQL waits for another transaction that is inserting the same row, so afterwards the
    row is visible whoever made it.
    """
    statement = _insert_once(_dialect(session), table, tuple(values), unique)
    inserted: int | None = session.execute(statement, values).scalar_one_or_none()
    return inserted


def insert_or_update(
    session: Session,
    table: type[Base],
    values: dict[str, Any],
    unique: tuple[str, ...],
) -> None:
    """Insert, or where a row with these `unique` columns is there give it the other values."""
    session.execute(_insert_or_update(_dialect(session), table, tuple(values), unique), values)


# Statements are built once, and on the tables rather than the classes: SQLAlchemy takes ten times
# as long to build one, and five times to see an ORM statement through, as to run it.


@cache
def _insert_once(
    dialect: str, table: type[Base], names: tuple[str, ...], unique: tuple[str, ...]
) -> Executable:
    key = table.__mapper__.primary_key[0]
    return (
        _insert(dialect, table, names).on_conflict_do_nothing(index_elements=unique).returning(key)
    )


@cache
def _insert_or_update(
    dialect: str, table: type[Base], names: tuple[str, ...], unique: tuple[str, ...]
) -> Executable:
    statement = _insert(dialect, table, names)
    return statement.on_conflict_do_update(
        index_elements=unique,
        set_={name: statement.excluded[name] for name in names if name not in unique},
    )


def _insert(
    dialect: str, table: type[Base], names: tuple[str, ...]
) -> postgresql.Insert | sqlite.Insert:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table_of(table)).values({name: bindparam(name) for name in names})


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def execute_update(session: Session, statement: Update) -> int:
    """Execute an update; returns how many rows it changed."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount
