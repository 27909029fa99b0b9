"""Deliver jobs: claim, send as stored, settle.

Sending twice is harmless (same UID, same bytes) and losing is not, so a job is finished only after
the destination said it has the object; where that can commit to objects (PS3.4 J), only after it
has committed to this one.
"""

import random
import threading
import time
from dataclasses import dataclass

from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.circuit_breaker import CircuitBreaker, CommitmentRefusals
from qc_daemon.deliver.commitment_scp import (
    CommitmentReporter,
    CommitmentVerifier,
    CommitmentWorker,
)
from qc_daemon.deliver.commitment_scu import CommitmentRequester
from qc_daemon.deliver.fallback import SopClassFallback
from qc_daemon.deliver.pool import DestinationPool
from qc_daemon.deliver.transport import ClassRefusedError, Convert, OutgoingObject, Transport
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.commitment import scu
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease, LeaseLostError
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.revisions import Originals, in_spool
from qc_daemon.records.results import destinations, renditions
from qc_daemon.records.results.renditions import Render
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentSupport, JobKind
from qc_daemon.settings import Settings

_MAX_THREADS = 16
# This side's trouble, which says nothing of the destination.
_OURS = (
    ErrorCode.STORAGE,
    ErrorCode.SPOOL_MISSING,
    ErrorCode.SPOOL_DAMAGED,
    ErrorCode.NOT_AVAILABLE,
)
# What an object meets whatever it is.
_OF_THE_DESTINATION = (
    ErrorCode.DELIVERY_UNREACHABLE,
    ErrorCode.DELIVERY_RESOURCES,
    ErrorCode.DELIVERY_FORBIDDEN,
    ErrorCode.DELIVERY_FAILED,
)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a destination was given, and whether it is to be asked to commit to it."""

    rendition_id: int | None
    to_commit: bool


class _SendingError(QCError):
    """An error of the sending itself, not of what comes before, as fetching an original back."""


class Deliverer:
    """One thread's worth of delivery."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        owner: str,
        breaker: CircuitBreaker | None = None,
        clock: Clock = utc_now,
        originals: Originals | None = None,
        refusals: CommitmentRefusals | None = None,
        pool: DestinationPool | None = None,
        render: Render | None = None,
        convert: Convert | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.owner = owner
        self.clock = clock
        self.fallback = SopClassFallback(
            store,
            originals or in_spool(settings.store.spool),
            render,
            clock,
            by_exam=[each.name for each in settings.destination if each.layout == "study"],
        )
        self.breaker = breaker or CircuitBreaker()
        self.refusals = refusals or CommitmentRefusals()
        self.log = log.get(role="deliver")
        self.pool = pool or DestinationPool(
            settings.destination, settings.receive.ae_title, convert=convert
        )
        self._destinations = {each.name: each for each in settings.destination}
        # Jitter only spreads load; it guards nothing.
        self._rng = random.Random()
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop`; waits where there is nothing to do or the database is away."""
        self._stop = stop
        while not stop.is_set():
            try:
                busy = self.run_once()
            except QCError as error:
                self.log.error("delivery stalled", code=error.code)
                busy = False
            if not busy:
                self.pool.close_idle()
                paced = self.pool.seconds_to_wait()
                poll = self.settings.jobs.poll_seconds
                stop.wait(poll if paced is None else min(poll, paced))
        self.close()

    def run_once(self) -> bool:
        """Take one job and settle it; False if none is due. Raises QCError STORAGE."""
        job = self._claim()
        if job is None:
            return False
        lease = Lease(self.store, job, self.settings.jobs.lease_seconds, self.clock)
        try:
            with lease:
                try:
                    result: _Sent | QCError = self._deliver(job)
                except Exception as error:
                    # Whatever a library threw concerns this job only; the others must go on.
                    result = failure_of(error, "sending")
                # Kept alive until it is written down: a database that is away costs no second send.
                self._settle(lease, result)
        except LeaseLostError:
            self.log.warning("lease lost", job=job.id, destination=job.destination)
        finally:
            self.pool.release(job.destination)
        return True

    def close(self) -> None:
        """Let go of the connections that nothing is sent on."""
        self.pool.close_idle(at_once=True)

    def _claim(self) -> Job | None:
        """A due job for a destination that may be sent something now."""
        limits = self.settings.jobs
        with self.pool.claim_lock:
            with self.store.begin() as session:
                job = jobs.claim(
                    session,
                    [JobKind.DELIVER],
                    self.owner,
                    self.clock(),
                    limits.lease_seconds,
                    limits.max_deaths,
                    destinations=self._open_destinations(),
                )
            if job is not None:
                self.pool.acquire(job.destination)
        return job

    def _open_destinations(self) -> set[str]:
        """Destinations of the settings that may be sent something now.

        A job for another one stays: another daemon on the database may know it, or the settings
        will again. And a job that is not tried must not wait the longer for it.
        """
        return set(self._destinations) - {*self.pool.busy(), *self.breaker.blocked()}

    def _deliver(self, job: Job) -> _Sent:
        """Send the job's object in the first form that its destination takes. Raises QCError."""
        with self.pool.transport(job.destination) as transport:
            refusal: ClassRefusedError | None = None
            for candidate in self.fallback.candidates(job):
                self.breaker.check(job.destination)
                try:
                    to_commit = self._send(transport, job.destination, candidate.outgoing)
                except ClassRefusedError as error:
                    self.fallback.record_refusal(job, candidate)
                    refusal = error
                    continue
                self.fallback.record_success(job, candidate)
                return _Sent(candidate.rendition_id, to_commit)
        assert refusal is not None
        raise refusal

    def _send(self, transport: Transport, name: str, outgoing: OutgoingObject) -> bool:
        """True if the destination, which now has the object, is to be asked to commit to it."""
        began = time.monotonic()
        try:
            return transport.send(outgoing)
        except ClassRefusedError:
            raise
        except QCError as error:
            if error.code is ErrorCode.DELIVERY_UNREACHABLE:
                self.breaker.record_failure(name, time.monotonic() - began)
            raise _SendingError(error.code, error.message) from error

    def _settle(self, lease: Lease, result: _Sent | QCError) -> None:
        """Write down how it went; a database that is away is waited for.

        Raises LeaseLostError; QCError STORAGE if it is away while the service stops.
        """
        job = lease.job
        to_commit = lease.settle(lambda session: self._write(session, lease, result), self._stop)
        if isinstance(result, QCError):
            if result.code not in _OURS:
                counters.count_delivery(job.destination, done=False)
            self.log.warning(
                "not delivered",
                job=job.id,
                destination=job.destination,
                code=result.code,
                reason=result.message,
            )
        elif to_commit:
            self.log.info("sent", job=job.id, destination=job.destination)
        else:
            counters.count_delivery(job.destination, done=True)
            self.log.info("delivered", job=job.id, destination=job.destination)

    def _write(self, session: Session, lease: Lease, result: _Sent | QCError) -> bool:
        """True if the destination is to be asked to commit.

        Raises LeaseLostError: another worker has the job.
        """
        job, now = lease.job, self.clock()
        if isinstance(result, QCError):
            policy = RetryPolicy.of(self.settings.jobs)
            if jobs.fail(session, job, result, now, policy, self._rng) is None:
                raise LeaseLostError
            if result.code is ErrorCode.DELIVERY_REFUSED:
                destinations.reached(session, job.destination)
            elif isinstance(result, _SendingError) and result.code in _OF_THE_DESTINATION:
                destinations.failed(session, job.destination, result, now)
            return False
        if job.object_id is not None:
            renditions.record_rendition(session, job, result.rendition_id)
        destinations.reached(session, job.destination)
        if not self._is_to_commit(session, job, result):
            lease.finish(session)
            return False
        if not jobs.mark_sent(session, job, now, now + scu.BATCH_DELAY):
            raise LeaseLostError
        return True

    def _is_to_commit(self, session: Session, job: Job, result: _Sent) -> bool:
        """Whether to ask the destination to commit. One that has taken such requests and offers
        them no more has a fault: what it stored is not let pass for committed."""
        destination = self._destinations[job.destination]
        if destination.kind != "dicom" or destination.commitment != "auto":
            return result.to_commit
        if result.to_commit:
            support = CommitmentSupport.OFFERED
        elif scu.has_accepted(session, job.destination):
            support = CommitmentSupport.LOST
        else:
            support = CommitmentSupport.NOT_OFFERED
        destinations.record_commitment(session, job.destination, support, self.clock())
        if support is CommitmentSupport.OFFERED:
            return not self.refusals.is_unsupported(job.destination)
        return support is CommitmentSupport.LOST


def run(
    store: Store,
    settings: Settings,
    owner: str,
    stop: threading.Event,
    originals: Originals | None = None,
    render: Render | None = None,
    convert: Convert | None = None,
) -> None:
    """Deliver until `stop`, one destination's slowness not holding up another's objects.

    Storage commitment is asked for, and where others ask us judged and reported, beside it.
    """
    breaker, refusals = CircuitBreaker(), CommitmentRefusals()
    pool = DestinationPool(settings.destination, settings.receive.ae_title, convert=convert)
    # So many that a destination which takes all that it may leaves some for the others.
    places = sum(each.max_associations for each in settings.destination)
    count = min(max(places, 1), _MAX_THREADS)
    workers: list[Deliverer | CommitmentWorker] = [
        *(
            Deliverer(
                store,
                settings,
                owner,
                breaker,
                originals=originals,
                refusals=refusals,
                pool=pool,
                render=render,
            )
            for _ in range(count)
        ),
        CommitmentRequester(store, settings, owner, breaker=breaker, refusals=refusals),
        CommitmentVerifier(store, settings, owner),
        CommitmentReporter(store, settings, owner),
    ]
    failed: list[BaseException] = []

    def work(worker: Deliverer | CommitmentWorker) -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise

    threads = [threading.Thread(target=work, args=(each,)) for each in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
