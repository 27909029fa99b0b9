"""Whether the database is sound: its pages and indexes, and what rows refer to.

SQLite: `quick_check` reads every page, `integrity_check` compares the indexes with their tables
too, which takes several times as long. PostgreSQL checks foreign keys as rows are written, but not
what a restore or a disk did to them: in full every row is read and every reference followed.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, inspect, text

from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.records import schema
from qc_daemon.records.store import display_url, parse, storage_errors
from qc_daemon.records.tables import Base

# A database of up to this size is checked in full without being asked: it takes a second or two.
_SMALL_BYTES = 256 << 20
# SQLite executes so many instructions between two readings of the clock.
_INSTRUCTIONS = 100_000
# At most so many faults of pages and indexes are listed.
_MAX_FAULTS = 3


@dataclass(frozen=True, slots=True)
class Integrity:
    """Result of a check: one line for each fault, how thorough, and whether it was finished.

    `is_full`: indexes and references were followed as well.
    """

    faults: tuple[str, ...]
    is_full: bool
    is_finished: bool = True

    @property
    def is_sound(self) -> bool:
        return not self.faults


def examine(url: str, *, full: bool = False, seconds: float | None = None) -> Integrity:
    """Check the database; a SQLite one for at most `seconds`. Raises QCError STORAGE.

    The service may go on meanwhile.
    """
    file = schema.file_of(url)
    if file is None:
        return _postgresql(url, full)
    if not file.exists():
        raise QCError(ErrorCode.STORAGE, f"the database {display_url(parse(url))} does not exist")
    return examine_file(file, full=full, seconds=seconds)


def examine_file(
    file: Path, *, full: bool = False, seconds: float | None = None, read_only: bool = False
) -> Integrity:
    """The same of a SQLite file, which need not be the service's. Raises QCError STORAGE.

    With `read_only` its write-ahead log is not brought into it.
    """
    full = full or _size(file) <= _SMALL_BYTES
    deadline = None if seconds is None else time.monotonic() + seconds
    address = f"file:{quote(str(file))}?mode={'ro' if read_only else 'rwc'}"
    try:
        with closing(sqlite3.connect(address, timeout=30.0, uri=True)) as connection:
            if deadline is not None:
                connection.set_progress_handler(
                    lambda: int(time.monotonic() > deadline), _INSTRUCTIONS
                )
            return Integrity(tuple(_faults(connection, full)), full)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return Integrity((), full, is_finished=False)
        raise QCError(ErrorCode.STORAGE, f"the database {file} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        # A database too broken to be checked is itself the result.
        return Integrity((str(error),), full)


def _size(file: Path) -> int:
    return sum(each.stat().st_size for each in schema.files_of(file))


def _faults(connection: sqlite3.Connection, full: bool) -> list[str]:
    check = "integrity_check" if full else "quick_check"
    faults = [
        row[0].strip().splitlines()[-1]
        for row in connection.execute(f"PRAGMA {check}({_MAX_FAULTS})")
        if row[0] != "ok"
    ]
    broken: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        broken[table, parent] = broken.get((table, parent), 0) + 1
    return faults + [_dangling(*names, count) for names, count in broken.items()]


def _dangling(table: str, parent: str, count: int) -> str:
    rows = count_of(count, f"row of {table} refers", f"rows of {table} refer")
    return f"{rows} to rows of {parent} that are not there"


def _postgresql(url: str, full: bool) -> Integrity:
    parsed = parse(url)
    engine = create_engine(parsed)
    try:
        with storage_errors(parsed), engine.connect() as connection:
            faults = [
                f"the index {name} is not usable: REINDEX it"
                for (name,) in connection.execute(text(_INVALID_INDEXES))
            ] + [
                f"the constraint {name} was never validated"
                for (name,) in connection.execute(text(_UNVALIDATED))
            ]
            if full:
                faults += _read_all(connection)
    finally:
        engine.dispose()
    return Integrity(tuple(faults), full)


_INVALID_INDEXES = (
    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = current_schema() AND NOT (i.indisvalid AND i.indisready)"
)
_UNVALIDATED = (
    "SELECT k.conname FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace"
    " WHERE n.nspname = current_schema() AND NOT k.convalidated"
)


def _read_all(connection: Connection) -> list[str]:
    """Read every value once, stored in its row or out of line, and follow every reference.

    Returns one line for each table whose references fail.
    """
    faults = []
    table_names = set(inspect(connection).get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name not in table_names:
            continue
        connection.execute(text(f'SELECT sum(length(t::text)) FROM "{table.name}" t')).all()
        for key in table.foreign_keys:
            parent = key.column.table.name
            count = connection.execute(
                text(
                    f'SELECT count(*) FROM "{table.name}" t WHERE t."{key.parent.name}" IS NOT NULL'
                    f' AND NOT EXISTS (SELECT 1 FROM "{parent}" p'
                    f' WHERE p."{key.column.name}" = t."{key.parent.name}")'
                )
            ).scalar_one()
            if count:
                faults.append(_dangling(table.name, parent, count))
    return faults
