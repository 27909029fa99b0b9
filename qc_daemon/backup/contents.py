"""Rows and files of a database, by queries that work for every version of its tables."""

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, text, update

from detector.errors import ErrorCode, QCError
from qc_daemon.records.tables import WebSessionRow


def own_version() -> str:
    """This program's version."""
    try:
        return version("qc-daemon")
    except PackageNotFoundError:
        return "unknown"


def of_copy(file: Path) -> tuple[str, dict[str, int], dict[str, int]]:
    """Schema revision, row counts by table and file sizes by path of a copied SQLite database.

    Raises QCError STORAGE if it is no database of ours.
    """
    engine = create_engine(f"sqlite:///{file}")
    try:
        with engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            if "alembic_version" not in tables:
                raise QCError(ErrorCode.STORAGE, f"{file} is no database of qc-daemon")
            return revision(connection), counts(connection, tables), file_sizes(connection)
    finally:
        engine.dispose()


def revision(connection: Connection) -> str:
    """The schema's revision; "base" without tables."""
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(version) if version else "base"


def counts(connection: Connection, tables: list[str]) -> dict[str, int]:
    """The number of rows of each table."""
    return {
        name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one()
        for name in sorted(tables)
    }


def file_sizes(connection: Connection) -> dict[str, int]:
    """Sizes in bytes of the files that must be in the spool, by path; older tables work too."""
    columns = {each["name"] for each in inspect(connection).get_columns("revision")}
    where = " WHERE dropped_at IS NULL" if "dropped_at" in columns else ""
    rows = connection.execute(text(f"SELECT path, size FROM revision{where} ORDER BY id"))
    return {str(row.path): int(row.size) for row in rows}


def end_sessions(connection: Connection, now: datetime) -> int:
    """End the log-ins that count, so that one which ended after a backup does not begin again;
    returns how many. Older tables have none."""
    if not inspect(connection).has_table(WebSessionRow.__tablename__):
        return 0
    statement = update(WebSessionRow).where(
        WebSessionRow.ended_at.is_(None), WebSessionRow.expires_at > now
    )
    return connection.execute(statement.values(ended_at=now)).rowcount
