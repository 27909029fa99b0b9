"""The tick of the nightly backup, and the process that makes it."""

import threading
from datetime import date, datetime, timedelta

from detector.errors import QCError
from qc_daemon.audit.due_dates import due_dates
from qc_daemon.backup import series
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.service.night_process import NightProcess, take_orders
from qc_daemon.settings import Settings

TICK_SECONDS = 60.0
MAX_ATTEMPTS = 3
"""Of one night, by one process; the first is at once, the others an hour after the one before."""
RETRY = timedelta(hours=1)


class NightlyBackups:
    """Once a minute asks whether tonight's backup is there, else has it made.

    What there is, is asked of the folder: several hosts that share it make one backup.
    """

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        self._settings, self._clock = settings, clock
        self._process = NightProcess("qc_daemon.service.nightly_backups", settings)
        self._night: date | None = None
        self._attempts: list[datetime] = []

    def run(self, stop: threading.Event, tick_seconds: float = TICK_SECONDS) -> None:
        """Tick until `stop`."""
        if self._settings.backup.folder is None:
            return
        try:
            self.tick()
            while not stop.wait(tick_seconds):
                self.tick()
        finally:
            self._process.end()

    def tick(self) -> None:
        """Set the metric, and start the process where a backup is due and none is at work."""
        folder = self._settings.backup.folder
        assert folder is not None
        if self._process.is_working:
            return
        try:
            good = series.newest_good(series.list_backups(folder))
        except QCError as error:
            self._try(error.message)
            return
        if good is not None:
            counters.set("backup_finished", good.begun.timestamp())
        if good is None or self._due(good.begun) < self._due(self._clock()):
            self._try(None)

    def _try(self, problem: str | None) -> None:
        """Another attempt, unless the last is not long ago or there were enough."""
        now = self._clock()
        night = self._due(now)
        if night != self._night:
            self._night, self._attempts = night, []
        if len(self._attempts) >= MAX_ATTEMPTS or (
            self._attempts and now - self._attempts[-1] < RETRY
        ):
            return
        self._attempts.append(now)
        if problem is not None:
            log.get(role="schedule").error("backup failed", reason=problem)
            return
        self._process.start()

    def _due(self, moment: datetime) -> date:
        """The local date whose backup was due last at that moment."""
        schedule = self._settings.schedule
        return due_dates(None, moment, self._settings.backup.at, schedule.local_zone)[0]


def main() -> None:
    """Make one backup; settings and the parent's id come on standard input."""
    from qc_daemon.operations.backups import make_backup

    settings = take_orders()
    logger = log.get(role="schedule")
    try:
        saved, removed = make_backup(settings)
    except QCError as error:
        logger.error("backup failed", code=error.code.value, reason=error.message)
    except Exception as error:
        kind, place = type(error).__name__, log.where(error)
        logger.error("backup failed", error_type=kind, error_at=place)
    else:
        verification = saved.verification
        assert verification is not None
        logger.info("backup made", path=saved.folder, count=verification.objects)
        if removed:
            logger.info("backups removed", count=len(removed))


if __name__ == "__main__":
    main()
