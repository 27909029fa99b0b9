"""The tick of the nightly audit, and the process that does it.

APScheduler is a tick in UTC and no more: which dates are due is asked of the clock and the database
each time (`operations.nightly`). The work is done by a process of its own, of the least priority:
an audit must not delay what a person waits for.
"""

import threading
from datetime import UTC

from detector.errors import QCError
from qc_daemon.observe import log
from qc_daemon.operations import nightly
from qc_daemon.records.store import Store
from qc_daemon.service.night_process import NightProcess, take_orders
from qc_daemon.settings import Settings

TICK_SECONDS = 60.0


class NightlyAudits:
    """Once a minute adds what is due, and has it done; one process of this daemon at a time."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._process = NightProcess("qc_daemon.service.nightly_audits", settings)

    def run(self, stop: threading.Event, tick_seconds: float = TICK_SECONDS) -> None:
        """Tick until `stop`."""
        if self._settings.schedule.audit_time is None:
            return
        from apscheduler.schedulers.background import BackgroundScheduler
        from apscheduler.triggers.interval import IntervalTrigger

        scheduler = BackgroundScheduler(timezone=UTC)
        # Late ticks count, and several late ones are one; a tick that lasts hides the next.
        scheduler.add_job(
            self.tick,
            IntervalTrigger(seconds=tick_seconds, timezone=UTC),
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )
        self.tick()
        scheduler.start()
        try:
            stop.wait()
        finally:
            scheduler.shutdown(wait=True)
            self._process.end()

    def tick(self) -> None:
        """Add what is due, and start a process where an audit waits and none is at work."""
        try:
            for day in nightly.queue_due(self._settings, self._store):
                log.get(role="schedule").info("audit due", audit_date=day.isoformat())
            if not self._process.is_working and nightly.has_work(self._store):
                self._process.start()
        except QCError as error:
            log.get(role="schedule").error(
                "audits stalled", code=error.code.value, reason=error.message
            )
        except Exception as error:
            # The next tick asks again.
            kind, place = type(error).__name__, log.where(error)
            log.get(role="schedule").error("audits stalled", error_type=kind, error_at=place)


def main() -> None:
    """Do the audits that wait; settings and the parent's id come on standard input."""
    settings = take_orders()
    nightly.work(settings, Store(settings.store.url))


if __name__ == "__main__":
    main()
