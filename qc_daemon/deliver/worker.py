"""Deliver jobs: claim, send as stored, settle.

Sending twice is harmless (same UID, same bytes) and losing is not, so a job is finished only after
the destination said it has the object.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from detector.codes import ErrorCode, QCError
from qc_daemon.deliver.folder import FolderCarrier
from qc_daemon.deliver.item import Carrier, Item
from qc_daemon.deliver.scu import StoreSCU
from qc_daemon.observe import log
from qc_daemon.records import jobs, reports
from qc_daemon.records.jobs import Job, RetryPolicy
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import DestinationSettings, Settings

_MAX_THREADS = 8
# After a failed connection the destination's other jobs fail at once instead of each waiting for
# the same timeout, which would keep healthy destinations waiting too.
_MIN_COOLDOWN, _MAX_COOLDOWN = 5.0, 60.0

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


class Outages:
    """Which destinations were just found unreachable; shared by the threads of a process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def check(self, name: str) -> None:
        """Raises QCError DELIVERY_UNREACHABLE while the destination is left alone."""
        if self._until.get(name, 0.0) > self._monotonic():
            raise QCError(
                ErrorCode.DELIVERY_UNREACHABLE, f"destination {name} was just found unreachable"
            )

    def record(self, name: str, took_seconds: float) -> None:
        cooldown = min(max(2 * took_seconds, _MIN_COOLDOWN), _MAX_COOLDOWN)
        self._until[name] = self._monotonic() + cooldown


class Deliverer:
    """One thread's worth of delivery: it keeps its own associations."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        owner: str,
        outages: Outages | None = None,
        clock: Clock = _now,
    ) -> None:
        self.store = store
        self.settings = settings
        self.owner = owner
        self.clock = clock
        self.outages = outages or Outages()
        self.log = log.get(role="deliver")
        self._destinations = {each.name: each for each in settings.destination}
        self._carriers: dict[str, Carrier] = {}
        # Jitter only spreads load; it guards nothing.
        self._rng = random.Random()

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop`; waits where there is nothing to do or the database is away."""
        while not stop.is_set():
            try:
                busy = self.run_once()
            except QCError as error:
                self.log.error("delivery stalled", code=error.code)
                busy = False
            if not busy:
                self.close()
                stop.wait(self.settings.jobs.poll_seconds)
        self.close()

    def run_once(self) -> bool:
        """Take one job and settle it; False if none is due. Raises QCError STORAGE."""
        limits = self.settings.jobs
        with self.store.begin() as session:
            job = jobs.claim(
                session,
                [JobKind.DELIVER],
                self.owner,
                self.clock(),
                limits.lease_seconds,
                limits.max_deaths,
            )
        if job is None:
            return False
        try:
            with self._lease_kept(job):
                self._deliver(job)
        except QCError as error:
            self._settle(job, error)
        else:
            self._settle(job, None)
        return True

    def close(self) -> None:
        for carrier in self._carriers.values():
            carrier.close()

    def _deliver(self, job: Job) -> None:
        carrier = self._carrier(job.destination)
        item = self._item(job)
        self.outages.check(job.destination)
        began = time.monotonic()
        try:
            carrier.send(item)
        except QCError as error:
            if error.code is ErrorCode.DELIVERY_UNREACHABLE:
                self.outages.record(job.destination, time.monotonic() - began)
            raise

    def _item(self, job: Job) -> Item:
        with self.store.read() as session:
            made = reports.deliverable(session, job)
        again = made.path is not None and job.revision > 1
        return Item(
            sop_class_uid=made.sop_class_uid,
            sop_instance_uid=made.sop_instance_uid,
            transfer_syntax_uid=made.transfer_syntax_uid,
            # Another content under the same UID must not take the first one's place in a folder.
            name=made.sop_instance_uid + (f"-r{job.revision}" if again else ""),
            path=None if made.path is None else self.settings.store.spool / Path(made.path),
            payload=made.payload,
        )

    def _carrier(self, name: str) -> Carrier:
        if name not in self._carriers:
            if name not in self._destinations:
                raise QCError(
                    ErrorCode.DELIVERY_REFUSED, f"destination {name} is not in the settings"
                )
            self._carriers[name] = carrier(self._destinations[name], self.settings.receive.ae_title)
        return self._carriers[name]

    def _settle(self, job: Job, error: QCError | None) -> None:
        """Write down how it went; a database that is away is waited for as long as the lease."""
        until = time.monotonic() + self.settings.jobs.lease_seconds
        while True:
            try:
                with self.store.begin() as session:
                    if error is None:
                        jobs.finish(session, job, self.clock())
                    else:
                        policy = RetryPolicy.of(self.settings.jobs)
                        jobs.fail(session, job, error, self.clock(), policy, self._rng)
                break
            except QCError:
                if time.monotonic() > until:
                    raise
                time.sleep(min(1.0, self.settings.jobs.poll_seconds))
        if error is None:
            self.log.info("delivered", job=job.id, destination=job.destination)
        else:
            self.log.warning(
                "not delivered", job=job.id, destination=job.destination, code=error.code
            )

    @contextlib.contextmanager
    def _lease_kept(self, job: Job) -> Iterator[None]:
        """Renew the lease while a long transfer lasts."""
        done = threading.Event()
        seconds = self.settings.jobs.lease_seconds

        def keep() -> None:
            while not done.wait(seconds / 3):
                # Without the database the lease runs out, and the job is done again elsewhere.
                with contextlib.suppress(QCError), self.store.begin() as session:
                    jobs.renew(session, job, self.clock(), seconds)

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()


def carrier(destination: DestinationSettings, calling_ae: str) -> Carrier:
    """The way to a destination, by its kind."""
    match destination.kind:
        case "dicom":
            return StoreSCU(destination, calling_ae)
        case "folder":
            return FolderCarrier(destination)


def run(store: Store, settings: Settings, owner: str, stop: threading.Event) -> None:
    """Deliver until `stop`, one destination's slowness not holding up another's objects."""
    outages = Outages()
    count = min(len(settings.destination) + 1, _MAX_THREADS)
    deliverers = [Deliverer(store, settings, owner, outages) for _ in range(count)]
    failed: list[BaseException] = []

    def work(deliverer: Deliverer) -> None:
        try:
            deliverer.run(stop)
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise

    threads = [threading.Thread(target=work, args=(each,)) for each in deliverers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
