"""The database schema: upgrade, downgrade, check, and backup of SQLite."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import URL, Connection, inspect, text

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.records.store import READ_ONLY, display_url, engine, parse, storage_errors
from qc_daemon.spool import private_files

# Any number that other users of the same PostgreSQL database are unlikely to lock.
_MIGRATION_LOCK = 0x71635F6462
# Alembic has the running migration in a global of its own: one at a time in a process.
_PROCESS_LOCK = threading.Lock()
# Suffixes of the files beside a SQLite database that is or was open: write-ahead log and its index.
_LOG_SUFFIXES = ("-wal", "-shm")
_SESSION_SECONDS = 3.0
# The bytes that each connection in WAL mode has locked shared while it is open (SQLite, "File
# Locking And Concurrency In SQLite Version 3", 3.0 and os.h: PENDING_BYTE + 2, 510 bytes).
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`, creating the SQLite file if there is none.

    One transaction, one process at a time: others wait and then have nothing to do. Raises
    QCError STORAGE.
    """
    parsed = parse(url)
    if _file(parsed) is not None:
        _make_private(parsed)
    with _migration(parsed) as config:
        command.upgrade(config, revision)


def build(connection: Connection, revision: str) -> None:
    """Make the tables of `revision` in an empty schema, within the connection's transaction."""
    with _PROCESS_LOCK, _scripts() as config:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Bring the database back to `revision` ("base": no tables). Data of dropped tables is lost."""
    with _migration(parse(url)) as config:
        command.downgrade(config, revision)


def check_downgrade(url: str, revision: str) -> None:
    """Raises UsageError unless the database can go back to `revision`: a number, -N steps, base."""
    current = revision_of(url)
    with _scripts() as config:
        scripts = ScriptDirectory.from_config(config)
        earlier = [each.revision for each in scripts.walk_revisions() if each.revision < current]
    steps = [f"-{count}" for count in range(1, len(earlier) + 2)]
    if revision not in (*earlier, "base", *steps):
        latest = f"{earlier[0]} or another earlier number, " if earlier else ""
        raise UsageError(
            f"the database is at {current} and cannot go back to {revision};"
            f" give {latest}-1 (one step) after --, or base (no tables)"
        )


def check(url: str) -> str | None:
    """None if the schema is this version's, else one line that says what is wrong and the fix."""
    parsed = parse(url)
    file = _file(parsed)
    if file is not None and not file.exists():
        return f"the database {display_url(parsed)} does not exist; run `qc-daemon db upgrade`"
    with storage_errors(parsed), _connect(parsed, read=True) as connection, _scripts() as config:
        scripts = ScriptDirectory.from_config(config)
        current = MigrationContext.configure(connection).get_current_heads()
        if current == tuple(scripts.get_heads()):
            return None
        if not current and not inspect(connection).has_table("alembic_version"):
            return (
                f"the database {display_url(parsed)} has no tables yet;"
                " run `qc-daemon db upgrade`, or serve makes them"
            )
        revisions = {script.revision for script in scripts.walk_revisions()}
    if set(current) <= revisions:
        return f"the database {display_url(parsed)} has an older schema; run `qc-daemon db upgrade`"
    return (
        f"the database {display_url(parsed)} has the schema of another version of qc-daemon"
        f" ({', '.join(current)}); install that version or restore a backup"
    )


def has_no_tables(url: str) -> bool:
    """Whether there are no tables yet, nor perhaps a SQLite file: `upgrade` creates both."""
    parsed = parse(url)
    file = _file(parsed)
    if file is not None and not file.exists():
        return True
    with storage_errors(parsed), _connect(parsed, read=True) as connection:
        return not inspect(connection).has_table("alembic_version")


def revision_of(url: str) -> str:
    """The revision the database is at, "base" without tables. Raises QCError STORAGE."""
    parsed = parse(url)
    with storage_errors(parsed), _connect(parsed, read=True) as connection:
        return MigrationContext.configure(connection).get_current_revision() or "base"


def has_revision(revision: str) -> bool:
    """Whether this version has the migrations up to the revision."""
    with _scripts() as config:
        scripts = ScriptDirectory.from_config(config)
        return any(script.revision == revision for script in scripts.walk_revisions())


def describe_revision(revision: str) -> str:
    """A revision's number with the title of its migration, for people."""
    if revision == "base":
        return "base (no tables)"
    with _scripts() as config:
        for script in ScriptDirectory.from_config(config).walk_revisions():
            if script.revision == revision:
                words = " ".join((script.doc or "").split()).rstrip(".")
                return f"{revision} ({words[:1].lower()}{words[1:]})" if words else revision
    return revision


def migrations_to_come(url: str) -> list[str]:
    """The revisions that `upgrade` would run, the first one first. Raises QCError STORAGE."""
    current = revision_of(url)
    with _scripts() as config:
        scripts = ScriptDirectory.from_config(config)
        coming = [each.revision for each in scripts.iterate_revisions("heads", current)]
    return list(reversed(coming))


def size_of(url: str) -> int:
    """Bytes of the database: of SQLite's files, or as PostgreSQL counts them. Raises QCError."""
    parsed = parse(url)
    file = _file(parsed)
    if file is not None:
        return sum(each.stat().st_size for each in files_of(file))
    with storage_errors(parsed), _connect(parsed, read=True) as connection:
        size = connection.execute(text("SELECT pg_database_size(current_database())"))
        return int(size.scalar_one())


def file_of(url: str) -> Path | None:
    """The SQLite database's file; None for PostgreSQL. Raises QCError STORAGE."""
    return _file(parse(url))


def files_of(file: Path) -> list[Path]:
    """A SQLite database's file and what lies beside it, those that are there."""
    every = (file, *(file.with_name(file.name + end) for end in _LOG_SUFFIXES))
    return [each for each in every if each.exists()]


def checkpoint(url: str) -> None:
    """Bring the write-ahead log into the database file, and remove it if nobody else has it open.

    After that the file alone is the database. Nothing to do for PostgreSQL. Raises QCError STORAGE.
    """
    file = _file(parse(url))
    if file is None or not file.exists():
        return
    try:
        with closing(sqlite3.connect(file, timeout=5.0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise QCError(
            ErrorCode.STORAGE, f"the database {file} is not checkpointed: {error}"
        ) from error


@contextmanager
def exclusive_access(file: Path) -> Iterator[None]:
    """Lock the SQLite database at `file` against every other process.

    Raises QCError STORAGE if one has it open: a service, a command, or another program. It locks
    by the kernel, not SQLite, which could neither open a broken file nor leave it untouched.
    """
    if not file.exists():
        yield
        return
    try:
        handle = file.open("r+b")
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE, f"the database {file} cannot be opened: {error.strerror}"
        ) from error
    with handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except OSError:
            raise QCError(
                ErrorCode.STORAGE,
                f"the database {file} is in use; stop the service and what else has it open",
            ) from None
        yield


def refuse_read_only(url: str) -> None:
    """Raises QCError STORAGE if the database cannot be written. Changes nothing."""
    parsed = parse(url)
    file = _file(parsed)
    if file is None:
        return
    try:
        with closing(sqlite3.connect(file, timeout=1.0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        # Somebody who writes just now proves that one can.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise QCError(
                ErrorCode.STORAGE, f"the database {display_url(parsed)} cannot be written: {error}"
            ) from error


def sessions(connection: Connection) -> int:
    """How many others are connected to the PostgreSQL database.

    The sessions of a process that has just ended are given a moment to end, too.
    """
    until = time.monotonic() + _SESSION_SECONDS
    while (others := _sessions(connection)) and time.monotonic() < until:
        time.sleep(0.1)
    return others


def _sessions(connection: Connection) -> int:
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    return int(
        connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid()"
                # Hidden from those who may not look into other roles' sessions.
                " AND coalesce(backend_type, 'client backend') = 'client backend'"
            )
        ).scalar_one()
    )


def refuse_in_use(url: str) -> None:
    """Raises QCError STORAGE if another process has the database open."""
    parsed = parse(url)
    file = _file(parsed)
    if file is not None:
        with exclusive_access(file):
            return
    with storage_errors(parsed), _connect(parsed, read=True) as connection:
        others = sessions(connection)
    if others:
        raise QCError(ErrorCode.STORAGE, in_use(parsed, others))


def in_use(url: URL, others: int) -> str:
    """The message about a PostgreSQL database that others are connected to."""
    return (
        f"the database {display_url(url)} is in use by {others} other sessions;"
        " stop the service on every host and close what else is connected"
    )


def backup(url: str, target: Path) -> None:
    """Copy the SQLite database to the file `target` while it is in use, whole and consistent.

    The copy is one file, its owner's only, and checked. Raises QCError STORAGE: `target` exists,
    cannot be written, is not sound, or the database is PostgreSQL's.
    """
    parsed = parse(url)
    file = _file(parsed)
    if file is None:
        raise QCError(
            ErrorCode.STORAGE,
            "a PostgreSQL database is copied with pg_dump, or saved with its spool:"
            " qc-daemon db backup FOLDER --with-spool",
        )
    if not file.exists():
        raise QCError(ErrorCode.STORAGE, f"the database {display_url(parsed)} does not exist")
    try:
        os.close(private_files.create(target))
    except FileExistsError:
        raise QCError(
            ErrorCode.STORAGE, f"{target} exists already; name another file for the backup"
        ) from None
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise QCError(ErrorCode.STORAGE, f"no backup written to {target}: {why}") from error
    try:
        _copy(file, target)
    except (OSError, sqlite3.Error) as error:
        target.unlink(missing_ok=True)
        raise QCError(ErrorCode.STORAGE, f"no backup written to {target}: {error}") from error


def _copy(file: Path, target: Path) -> None:
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        # Without a log beside it: a copy is one file.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        problems = [row[0] for row in copy.execute("PRAGMA quick_check(1)")]
    if problems != ["ok"]:
        raise sqlite3.DatabaseError(f"the database is damaged: {problems[0]}; see db check")
    with target.open("rb") as file_of_copy:
        os.fsync(file_of_copy.fileno())


@contextmanager
def _migration(url: URL) -> Iterator[Config]:
    with (
        _PROCESS_LOCK,
        storage_errors(url),
        _connect(url) as connection,
        # Begun before Alembic, or it would commit after each migration on SQLite.
        connection.begin(),
        _scripts() as config,
    ):
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        try:
            yield config
        except (CommandError, RevisionError) as error:
            raise QCError(
                ErrorCode.STORAGE, f"the database {display_url(url)} cannot be migrated: {error}"
            ) from error


@contextmanager
def _connect(url: URL, *, read: bool = False) -> Iterator[Connection]:
    database_engine = engine(url)
    try:
        with database_engine.execution_options(**{READ_ONLY: read}).connect() as connection:
            yield connection
    finally:
        database_engine.dispose()


@contextmanager
def _scripts() -> Iterator[Config]:
    """Alembic's settings, with the folder of the installed top-level package `migrations`."""
    with as_file(files("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        yield config


def _file(url: URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _make_private(url: URL) -> None:
    """Create folder and file, or remove others' permissions on an older version's files."""
    file = _file(url)
    assert file is not None
    try:
        private_files.make_folder(file.parent)
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE, f"the folder of {display_url(url)} cannot be made: {error.strerror}"
        ) from error
    with suppress(OSError):
        # SQLite has the better message for what we may not change or write.
        if not file.exists():
            os.close(private_files.create(file))
        for each in files_of(file):
            private_files.tighten(each)
