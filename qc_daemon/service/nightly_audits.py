"""The tick of the nightly audit, and the process that does it.

APScheduler is a tick in UTC and no more: which dates are due is asked of the clock and the database
each time (`operations.nightly`). The work is done by a process of its own, of the least priority:
an audit must not delay what a person waits for.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC

from detector.errors import QCError
from qc_daemon.observe import log
from qc_daemon.operations import nightly
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

TICK_SECONDS = 60.0
_PRIORITY = 10
_END_SECONDS = 10.0


class NightlyAudits:
    """Once a minute adds what is due, and has it done; one process of this daemon at a time."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._process: subprocess.Popen[bytes] | None = None

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
            self._end()

    def tick(self) -> None:
        """Add what is due, and start a process where an audit waits and none is at work."""
        try:
            for day in nightly.queue_due(self._settings, self._store):
                log.get(role="schedule").info("audit due", audit_date=day.isoformat())
            is_working = self._process is not None and self._process.poll() is None
            if not is_working and nightly.has_work(self._store):
                self._start()
        except QCError as error:
            log.get(role="schedule").error(
                "audits stalled", code=error.code.value, reason=error.message
            )
        except Exception as error:
            # The next tick asks again.
            kind, place = type(error).__name__, log.where(error)
            log.get(role="schedule").error("audits stalled", error_type=kind, error_at=place)

    def _start(self) -> None:
        orders = {"parent": os.getpid(), "settings": self._settings.model_dump(mode="json")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "qc_daemon.service.nightly_audits"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(orders).encode())

    def _end(self) -> None:
        """End the process: its audit is taken up again when its lease is over."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Do the audits that wait; settings and the parent's id come on standard input."""
    from qc_daemon.service.roles import exit_with_parent
    from qc_daemon.spool import private_files

    orders = json.load(sys.stdin)
    exit_with_parent(orders["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_PRIORITY)
    private_files.set_umask()
    log.configure()
    log.quiet_libraries()
    log.quiet_crashes()
    settings = Settings(**orders["settings"])
    log.configure_service(settings.observe.log_level)
    nightly.work(settings, Store(settings.store.url))


if __name__ == "__main__":
    main()
