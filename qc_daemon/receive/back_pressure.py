"""Back-pressure: when to ask senders to wait, so that they keep what we could not.

Two marks each on free disk space and on the age of the score queue. Beyond a soft one new
associations are turned away for now and open ones may finish; beyond a hard one every object is.
It clears by itself, a little later than it came, so that it does not flutter.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import PressureSettings

_DISK_SECONDS = 1.0
_QUEUE_SECONDS = 5.0
# A mark that was passed is left only this much beyond it.
_CLEAR = 1.1


class Level(IntEnum):
    """How hard we press."""

    CLEAR = 0
    SOFT = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes of the spool's disk, and how many seconds the oldest due score job has waited."""

    total_bytes: int
    free_bytes: int
    queue_seconds: float = 0.0


def level(settings: PressureSettings, reading: Reading, before: Level) -> Level:
    """The level of a reading, `before` being the last one's."""
    for wanted, percent, megabytes, minutes in (
        (
            Level.HARD,
            settings.hard_free_percent,
            settings.hard_free_megabytes,
            settings.hard_queue_minutes,
        ),
        (
            Level.SOFT,
            settings.soft_free_percent,
            settings.soft_free_megabytes,
            settings.soft_queue_minutes,
        ),
    ):
        slack = _CLEAR if before >= wanted else 1.0
        least = min(reading.total_bytes * percent / 100, megabytes * 2.0**20)
        if reading.free_bytes < least * slack:
            return wanted
        if minutes and reading.queue_seconds > minutes * 60 / slack:
            return wanted
    return Level.CLEAR


class Pressure:
    """The level of one process's spool and store, looked at on the way of its associations.

    Cheap enough for every object: a statvfs at most once a second, one query every few seconds,
    both in whichever thread comes by first while the others take the last answer. A disk or
    database that cannot be asked changes nothing: receipt finds out for itself.
    """

    def __init__(
        self,
        settings: PressureSettings,
        spool: Path,
        store: Store,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.spool = spool
        self.store = store
        self.clock = clock
        self.monotonic = monotonic
        self._level = Level.CLEAR
        self._queue_seconds = 0.0
        self._disk_due = self._queue_due = float("-inf")
        self._looking = threading.Lock()

    def level(self) -> Level:
        """How hard we press now. Never raises, never waits for another thread."""
        if self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return self._level

    def has_room(self) -> bool:
        """Whether the disk is not beyond its hard mark, asked anew each time: a statvfs.

        For objects in mid-receipt, which a second is long enough to fill a disk with.
        """
        try:
            disk = os.statvfs(self.spool)
        except OSError:
            return True
        reading = Reading(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
        return level(self.settings, reading, self._level) is not Level.HARD

    def _look(self) -> None:
        now = self.monotonic()
        # Under pressure every look counts: the first object that fits again may come.
        if now < self._disk_due and self._level is Level.CLEAR:
            return
        self._disk_due = now + _DISK_SECONDS
        if now >= self._queue_due:
            self._queue_due = now + _QUEUE_SECONDS
            self._queue_seconds = self._queue_age()
        try:
            disk = os.statvfs(self.spool)
        except OSError:
            return
        reading = Reading(
            disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize, self._queue_seconds
        )
        self._change(level(self.settings, reading, self._level), reading)

    def _change(self, found: Level, reading: Reading) -> None:
        if found is not self._level:
            say = log.get(role="receive")
            (say.error if found > self._level else say.info)(
                "pressure changed",
                state=found.name.lower(),
                bytes=reading.free_bytes,
                seconds=round(reading.queue_seconds),
            )
            self._level = found
        counters.set("pressure", found)

    def _queue_age(self) -> float:
        if not self.settings.soft_queue_minutes and not self.settings.hard_queue_minutes:
            return 0.0
        try:
            with self.store.read() as session:
                due = jobs.oldest_due(session).get(JobKind.SCORE)
        except (QCError, SQLAlchemyError):
            return self._queue_seconds
        return 0.0 if due is None else max(0.0, (self.clock() - due).total_seconds())
