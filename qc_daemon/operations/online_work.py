"""Online work goes first: what may wait, waits while images do."""

import time
from collections.abc import Callable

from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store

UNIT_SECONDS = 30.0
"""So long at most one unit of work waits: it goes on, however long the queue is."""
AUDIT_SECONDS = 600.0
"""So long at most the audit of a night waits in all, for it reads from one state of the database.
"""
_POLL_SECONDS = 0.5


class OnlineWork:
    """Waits between two units of work while a job to score, report or deliver is due and processes
    are at work; `most_seconds` in all (None: without end), `UNIT_SECONDS` a unit."""

    def __init__(
        self,
        store: Store,
        most_seconds: float | None = None,
        *,
        unit_seconds: float = UNIT_SECONDS,
        poll_seconds: float = _POLL_SECONDS,
        clock: Clock = utc_now,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._store, self._clock, self._sleep = store, clock, sleep or time.sleep
        self._most_seconds, self._unit_seconds = most_seconds, unit_seconds
        self._poll_seconds = poll_seconds
        self.waited_seconds = 0.0

    def wait(self) -> None:
        """Return when no job waits, or the bound is reached."""
        unit = 0.0
        while unit < self._unit_seconds and self._may_wait() and self._is_backlogged():
            self._sleep(self._poll_seconds)
            unit += self._poll_seconds
            self.waited_seconds += self._poll_seconds

    def _may_wait(self) -> bool:
        return self._most_seconds is None or self.waited_seconds < self._most_seconds

    def _is_backlogged(self) -> bool:
        with self._store.read() as session:
            return jobs.is_backlogged(session, self._clock())
