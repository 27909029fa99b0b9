"""Back-pressure: senders are asked to wait while the disk is full or the score queue is long.

There are two marks each for free disk space and for the age of the score queue. Beyond a soft mark
new associations are rejected as transient, and open ones may finish; beyond a hard one every object
is refused. A mark is left a little later than it is passed, so that the level does not flutter.
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

# Seconds between two readings of the disk.
_DISK_SECONDS = 1.0
# Seconds between two queries of the queue's age.
_QUEUE_SECONDS = 5.0
# Hysteresis: a mark that was passed is left when the reading is better than it by this factor.
_CLEARANCE = 1.1


class Level(IntEnum):
    """How much is refused: nothing, new associations, or every object."""

    CLEAR = 0
    SOFT = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes of the spool's disk, and the seconds that the oldest due score job has waited."""

    total_bytes: int
    free_bytes: int
    queue_seconds: float = 0.0


def level(settings: PressureSettings, reading: Reading, before: Level) -> Level:
    """The level of a reading; `before` is the level until now."""
    for candidate, percent, megabytes, minutes in (
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
        slack = _CLEARANCE if before >= candidate else 1.0
        least = min(reading.total_bytes * percent / 100, megabytes * 2.0**20)
        if reading.free_bytes < least * slack:
            return candidate
        if minutes and reading.queue_seconds > minutes * 60 / slack:
            return candidate
    return Level.CLEAR


class BackPressure:
    """The level of one process's spool and store.

    Cheap enough to ask for every object: one statvfs a second and one query every few seconds at
    most, in whichever thread asks first, while the others get the last answer. A disk or database
    that cannot be read changes nothing: storing the object then fails by itself.
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
        self._update_lock = threading.Lock()

    def level(self) -> Level:
        """The level now. Never raises, never waits for another thread."""
        if self._update_lock.acquire(blocking=False):
            try:
                self._update()
            finally:
                self._update_lock.release()
        return self._level

    def has_room(self) -> bool:
        """Whether the disk is within its hard mark, read anew each time by one statvfs.

        It is for objects in mid-receipt: a second is long enough to fill a disk.
        """
        try:
            disk = os.statvfs(self.spool)
        except OSError:
            return True
        reading = Reading(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)
        return level(self.settings, reading, self._level) is not Level.HARD

    def _update(self) -> None:
        now = self.monotonic()
        # Under pressure the disk is read each time: the first object that fits again may come.
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

    def _change(self, new_level: Level, reading: Reading) -> None:
        if new_level is not self._level:
            logger = log.get(role="receive")
            (logger.error if new_level > self._level else logger.info)(
                "pressure changed",
                state=new_level.name.lower(),
                bytes=reading.free_bytes,
                seconds=round(reading.queue_seconds),
            )
            self._level = new_level
        counters.set("pressure", new_level)

    def _queue_age(self) -> float:
        if not self.settings.soft_queue_minutes and not self.settings.hard_queue_minutes:
            return 0.0
        try:
            with self.store.read() as session:
                due = jobs.oldest_due(session).get(JobKind.SCORE)
        except (QCError, SQLAlchemyError):
            return self._queue_seconds
        return 0.0 if due is None else max(0.0, (self.clock() - due).total_seconds())
