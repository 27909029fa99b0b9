"""Exports a PostgreSQL database as files in COPY's text format, and imports them.

It does not use pg_dump, which would have to be on this host in a version that fits the server's;
and the names of the spooled files come from the same snapshot.
"""

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Integer, create_engine, inspect, text

from detector.errors import ErrorCode, QCError
from qc_daemon.backup import contents
from qc_daemon.backup.manifest import TABLES, File, Manifest
from qc_daemon.records import schema
from qc_daemon.records.store import parse, storage_errors
from qc_daemon.records.tables import Base
from qc_daemon.spool import private_files

_VERSIONS = "alembic_version"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Export:
    """A file for each table, and the columns, row counts and file sizes of the snapshot."""

    files: dict[str, File]
    columns: dict[str, list[str]]
    counts: dict[str, int]
    schema_revision: str
    sizes: dict[str, int]


def export(url: str, folder: Path) -> Export:
    """Write each table of one snapshot to `folder`. Raises QCError STORAGE, OSError."""
    parsed = parse(url)
    private_files.make_folder(folder)
    engine = create_engine(parsed, isolation_level="REPEATABLE READ")
    try:
        with storage_errors(parsed), engine.connect() as connection:
            tables = _our_tables(connection)
            if _VERSIONS not in tables:
                raise QCError(ErrorCode.STORAGE, "the database has no tables yet; nothing to save")
            columns = {
                name: [each["name"] for each in inspect(connection).get_columns(name)]
                for name in tables
            }
            files = {
                name: _copy_out(connection, name, columns[name], folder / f"{name}.copy")
                for name in tables
            }
            return Export(
                files,
                columns,
                contents.counts(connection, tables),
                contents.revision(connection),
                contents.file_sizes(connection),
            )
    finally:
        engine.dispose()


def restore(
    url: str, folder: Path, manifest: Manifest, old_schema: str, now: datetime
) -> tuple[str | None, int]:
    """Replace the tables by the backup's in one transaction; returns the schema of the old ones,
    and how many log-ins of the backup were ended.

    The old tables move to `old_schema`; without old tables None is returned for it. Raises QCError
    STORAGE if others are connected, the role may not create a schema, or the files do not fit; then
    nothing has changed.
    """
    parsed = parse(url)
    engine = create_engine(parsed)
    try:
        with storage_errors(parsed), engine.begin() as connection:
            _refuse_others(connection, url)
            old_tables = _our_tables(connection)
            if old_tables:
                _make_schema(connection, old_schema)
            for name in old_tables:
                connection.execute(text(f'ALTER TABLE "{name}" SET SCHEMA "{old_schema}"'))
            schema.build(connection, manifest.schema_revision)
            _fill(connection, folder, manifest)
            sessions = contents.end_sessions(connection, now)
            # A client that has connected meanwhile waits for our locks; it has read the old tables.
            _refuse_others(connection, url)
    finally:
        engine.dispose()
    return old_schema if old_tables else None, sessions


def _make_schema(connection: Connection, name: str) -> None:
    is_permitted = connection.execute(
        text("SELECT has_database_privilege(current_database(), 'CREATE')")
    ).scalar_one()
    if not is_permitted:
        raise QCError(
            ErrorCode.STORAGE,
            "the database's role may not make a schema, in which the old tables would be kept;"
            " GRANT CREATE ON DATABASE to it, or restore into an empty database",
        )
    connection.execute(text(f'CREATE SCHEMA "{name}"'))


def _refuse_others(connection: Connection, url: str) -> None:
    if others := schema.sessions(connection):
        raise QCError(ErrorCode.STORAGE, schema.in_use(parse(url), others))


def _our_tables(connection: Connection) -> list[str]:
    """Names of our tables in the database, those that others refer to first."""
    existing = set(inspect(connection).get_table_names())
    ordered = [table.name for table in Base.metadata.sorted_tables]
    return [name for name in (_VERSIONS, *ordered) if name in existing]


def _fill(connection: Connection, folder: Path, manifest: Manifest) -> None:
    tables = _our_tables(connection)
    unknown = sorted(set(manifest.columns) - set(tables))
    if unknown:
        raise QCError(ErrorCode.STORAGE, f"the backup has a table {unknown[0]} that we do not know")
    for name in tables:
        if name not in manifest.columns or name == _VERSIONS:
            continue
        _copy_in(connection, name, manifest.columns[name], folder / TABLES / f"{name}.copy")
        _set_sequence(connection, name)
    counts = contents.counts(connection, sorted(manifest.counts))
    if counts != manifest.counts:
        wrong = next(name for name in counts if counts[name] != manifest.counts[name])
        raise QCError(
            ErrorCode.STORAGE, f"the backup's table {wrong} has other rows than were saved"
        )


def _set_sequence(connection: Connection, name: str) -> None:
    """Let the IDs of new rows follow the highest one of the backup, where they are numbers."""
    columns = {column["name"]: column["type"] for column in inspect(connection).get_columns(name)}
    if not isinstance(columns.get("id"), Integer):
        return
    connection.execute(
        text(
            f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM \"{name}\""
            " HAVING max(id) IS NOT NULL"
        )
    )


def _copy_out(connection: Connection, name: str, columns: list[str], path: Path) -> File:
    """Write a table to a file."""
    digest, size = hashlib.sha256(), 0
    statement = sql.SQL("COPY {} ({}) TO STDOUT").format(*_identifiers(name, columns))
    with (
        _driver(connection).cursor() as cursor,
        os.fdopen(private_files.create(path), "wb") as file,
        cursor.copy(statement) as copy,
    ):
        for block in copy:
            digest.update(block)
            size += file.write(block)
    return File(size, digest.hexdigest())


def _copy_in(connection: Connection, name: str, columns: list[str], path: Path) -> None:
    """Read a table from a file. Raises QCError STORAGE."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(*_identifiers(name, columns))
    try:
        with (
            _driver(connection).cursor() as cursor,
            path.open("rb") as file,
            cursor.copy(statement) as copy,
        ):
            while block := file.read(_BLOCK):
                copy.write(block)
    except psycopg.Error as error:
        # Its first line names table and column; the second would quote the row.
        why = str(error).strip().splitlines()[0]
        raise QCError(
            ErrorCode.STORAGE, f"the backup's table {name} is not taken: {why}"
        ) from error


def _identifiers(name: str, columns: list[str]) -> tuple[sql.Identifier, sql.Composed]:
    return sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, columns))


def _driver(connection: Connection) -> "psycopg.Connection[Any]":
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
