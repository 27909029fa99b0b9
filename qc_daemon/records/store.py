"""The store: one database, opened per process, and its transactions."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.records.connections import (
    MAX_OVERFLOW,
    POOL_SIZE,
    share_connections,
)

BUSY_TIMEOUT_MS = 30_000
# Execution option of a connection that only reads.
READ_ONLY = "qc_read_only"
# Engines of a parent process, which must not be closed here.
_INHERITED: list[Engine] = []
_POOL = {"pool_size": POOL_SIZE, "max_overflow": MAX_OVERFLOW}


class Store:
    """Transactions on the database at `url` (`sqlite:///PATH` or `postgresql+psycopg://…`).

    Safe to pickle (spawn) and to carry across a fork: each process opens its own connections.
    A database that cannot be used raises QCError STORAGE with one line, without a password.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._parsed = parse(url)
        self._engine_of_process: tuple[int, Engine] | None = None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (type(self), (self.url,))

    def __repr__(self) -> str:
        return f"Store({display_url(self._parsed)})"

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._parsed.get_backend_name()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """One write transaction: committed at the end of the block, rolled back on any error.

        SQLite takes the write lock at once (BEGIN IMMEDIATE), so what the block reads stays true
        until it commits.
        """
        with (
            storage_errors(self._parsed),
            Session(self._engine(), expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection()
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only session on one consistent snapshot; it never waits for a writer."""
        options: dict[str, Any] = {READ_ONLY: True}
        if self._parsed.get_backend_name() == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        engine = self._engine().execution_options(**options)
        with storage_errors(self._parsed), Session(engine) as session:
            session.connection()
            yield session

    def close(self) -> None:
        """Close this process's connections; the store opens new ones when used again."""
        if self._engine_of_process is not None and self._engine_of_process[0] == os.getpid():
            self._engine_of_process[1].dispose()
            self._engine_of_process = None

    def _engine(self) -> Engine:
        if self._engine_of_process is None or self._engine_of_process[0] != os.getpid():
            if self._engine_of_process is not None:
                # After a fork the parent's connections are the parent's: never close them here.
                _INHERITED.append(self._engine_of_process[1])
            self._engine_of_process = (os.getpid(), engine(self._parsed))
        return self._engine_of_process[1]


def parse(url: str) -> URL:
    """The URL, if it is of SQLite or PostgreSQL. Raises QCError STORAGE for any other."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise QCError(
            ErrorCode.STORAGE,
            "store.url is not a database URL; use sqlite:///PATH or postgresql+psycopg://…",
        ) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if parsed.database in (None, "", ":memory:"):
            raise QCError(
                ErrorCode.STORAGE,
                "store.url names an in-memory database, which processes cannot share; name a file",
            )
        return parsed
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise QCError(
        ErrorCode.STORAGE,
        f"store.url: {parsed.drivername} is not supported;"
        " use sqlite:///PATH or postgresql+psycopg://…",
    )


def display_url(url: URL) -> str:
    """The URL without its password and query, fit for logs."""
    return url.set(query={}).render_as_string(hide_password=True)


def engine(url: URL) -> Engine:
    """A new engine: SQLite in WAL mode with full synchronisation, PostgreSQL as it comes."""
    if url.get_backend_name() == "postgresql":
        database_engine = create_engine(url, pool_pre_ping=True, **_POOL)
        share_connections(database_engine, BUSY_TIMEOUT_MS / 1000)
        return database_engine
    database_engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, **_POOL)
    event.listen(database_engine, "connect", _prepare_sqlite)
    event.listen(database_engine, "begin", _begin_sqlite)
    return database_engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Python's driver would begin transactions by itself, and later than we mean.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}").close()
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL").close()
    connection.execute("PRAGMA foreign_keys = ON").close()


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch a new database to WAL; the busy timeout does not cover two that switch at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if reads else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def storage_errors(url: URL) -> Iterator[None]:
    """Raise QCError STORAGE, with one line, for a database that cannot be opened or used.

    Broken constraints and bad values pass as they are: they are faults of a row, not of the store.
    """
    try:
        yield
    except (exc.IntegrityError, exc.DataError):
        raise
    except exc.TimeoutError as error:
        raise QCError(
            ErrorCode.STORAGE, f"the database {display_url(url)} has no free connection"
        ) from error
    except (exc.DatabaseError, exc.InterfaceError) as error:
        lines = str(error.orig).strip().splitlines() or ["unknown error"]
        raise QCError(
            ErrorCode.STORAGE, f"the database {display_url(url)} cannot be used: {lines[0]}"
        ) from error
