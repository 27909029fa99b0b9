"""Since when known machines are silent, and which of them for longer than they ever are."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.observe import log
from qc_daemon.observe.silence import HISTORY, hour_of, silence
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.gauges import arrivals
from qc_daemon.records.received import peers
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

MAX_MACHINES = 200
"""More would make the metrics grow without bound."""
_CHECK_SECONDS = 60.0
# An object's moment is that of its arrival; its transaction may have been committed later.
_OVERLAP = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Machine:
    """When a known machine last sent an object, and whether its silence since is unusual."""

    last_object_at: datetime
    is_quiet: bool


class MachineWatch:
    """Watches the machines that may store by their AE titles, of settings and approvals.

    What was read stays in memory, so that each check reads only what came since the one before.
    """

    def __init__(self, settings: Settings, store: Store, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._zone = settings.schedule.local_zone
        self._hours: dict[str, set[datetime]] = {}
        self._last: dict[str, datetime] = {}
        self._read_until: datetime | None = None
        self._machines: dict[str, Machine] = {}

    def use_settings(self, settings: Settings) -> None:
        """Go on with the peers of other settings."""
        self._settings = settings

    def machines(self) -> Mapping[str, Machine]:
        """Each machine that sent something lately, by AE title, as of the last check."""
        return self._machines

    def run(self, stop: threading.Event) -> None:
        """Check now and then until `stop`, for no more than a hundredth of the time."""
        wait = 0.0
        while not stop.wait(wait):
            begun = time.monotonic()
            try:
                self.check()
            except (QCError, SQLAlchemyError) as error:
                log.get(role="supervisor").warning(
                    "machines not watched", error_type=type(error).__name__
                )
            wait = max(_CHECK_SECONDS, 100 * (time.monotonic() - begun))

    def check(self) -> None:
        """Read what has come and judge each machine; log where that changes. Raises QCError."""
        now = self._clock()
        self._read(now)
        before, self._machines = self._machines, self._judge(now)
        for ae_title, machine in self._machines.items():
            was_quiet = ae_title in before and before[ae_title].is_quiet
            if machine.is_quiet == was_quiet:
                continue
            seconds = round((now - machine.last_object_at).total_seconds())
            logger = log.get(role="supervisor")
            if machine.is_quiet:
                logger.warning("machine quiet", calling_ae=ae_title, seconds=seconds)
            else:
                logger.info("machine not quiet", calling_ae=ae_title, seconds=seconds)

    def _read(self, now: datetime) -> None:
        oldest = now - HISTORY
        since = oldest if self._read_until is None else self._read_until - _OVERLAP
        with self._store.read() as session:
            titles = {each.ae_title for each in self._settings.receive.peer}
            titles |= {each.ae_title for each in peers.approved_peers(session)}
            watched = sorted(titles)[:MAX_MACHINES]
            # A machine that was approved since is read from the beginning.
            new = [each for each in watched if each not in self._hours]
            old = [each for each in watched if each in self._hours]
            objects = [
                *arrivals(session, new, oldest, now),
                *arrivals(session, old, max(since, oldest), now),
            ]
        hours = {each: self._hours.get(each, set()) for each in watched}
        for ae_title, moment in objects:
            hours[ae_title].add(hour_of(moment.astimezone(self._zone)))
            self._last[ae_title] = max(moment, self._last.get(ae_title, moment))
        first_hour = hour_of(oldest.astimezone(self._zone))
        self._hours = {
            title: {hour for hour in each if hour >= first_hour} for title, each in hours.items()
        }
        self._read_until = now

    def _judge(self, now: datetime) -> dict[str, Machine]:
        local = now.astimezone(self._zone)
        machines = {}
        for ae_title, hours in self._hours.items():
            machine_silence = silence(hours, local)
            if machine_silence is not None:
                machines[ae_title] = Machine(self._last[ae_title], machine_silence.is_unusual)
        return machines
