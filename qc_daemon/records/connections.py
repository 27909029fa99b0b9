"""Connections to PostgreSQL, which has only so many for all of our processes and everyone else.

A process that kept what it needed at its busiest would starve others once it is idle. So an idle
connection is pooled for reuse only if the server had at least half of its connections free when it
was opened; any other is closed when it is released. A connection that the server has no room for is
waited for, as long as for SQLite's lock.
"""

import random
import time
from typing import Any

import psycopg
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry

# Of one process. Deliverers are up to 16 threads, each with a second one that renews its lease.
POOL_SIZE, MAX_OVERFLOW = 5, 60

_IS_POOLED = "qc_kept"
_MIN_WAIT, _MAX_WAIT = 0.05, 0.5
# libpq gives no SQLSTATE (53300) for a connection that was never made, only the server's words.
_FULL = ("too many clients", "too many connections", "connection slots are reserved")
# Of the whole server, and of our database where that has a limit of its own.
_HALF_FREE = """
SELECT 2 * (SELECT sum(numbackends) FROM pg_stat_database)
       <= current_setting('max_connections')::int
          - current_setting('superuser_reserved_connections')::int
       AND (datconnlimit < 0 OR 2 * numbackends <= datconnlimit)
FROM pg_database JOIN pg_stat_database USING (datname)
WHERE datname = current_database()
"""


def share_connections(engine: Engine, patience: float) -> None:
    """Limit what the engine pools, and let it wait `patience` seconds for a connection."""

    def connect(
        dialect: Dialect, _entry: ConnectionPoolEntry, args: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        return _wait_for_connection(dialect, args, options, patience)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", _decide_pooling)
    event.listen(engine, "checkin", _close_unless_pooled)


def _wait_for_connection(
    dialect: Dialect, args: list[Any], options: dict[str, Any], patience: float
) -> DBAPIConnection:
    until = time.monotonic() + patience
    while True:
        try:
            return dialect.connect(*args, **options)
        except psycopg.OperationalError as error:
            is_full = any(words in str(error) for words in _FULL)
            if not is_full or time.monotonic() > until:
                raise
            time.sleep(random.uniform(_MIN_WAIT, _MAX_WAIT))


def _decide_pooling(connection: Any, entry: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_HALF_FREE)
        (is_half_free,) = cursor.fetchone()
    connection.rollback()
    entry.info[_IS_POOLED] = is_half_free


def _close_unless_pooled(connection: Any, entry: ConnectionPoolEntry) -> None:
    if connection is not None and not entry.info.get(_IS_POOLED):
        entry.invalidate()
