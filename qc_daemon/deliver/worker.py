"""Deliver jobs: send as stored, and record the outcome.

Sending twice is harmless (same UID, same bytes) and losing is not, so a job is finished only after
the destination said it has the object; where that can commit to objects (PS3.4 J), only after it
has committed to this one.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind, Peer
from qc_daemon.deliver.circuit_breaker import (
    AbortedObjects,
    CircuitBreaker,
    CommitmentRefusals,
    UnstoredObjects,
)
from qc_daemon.deliver.commitment_scp import (
    CommitmentReporter,
    CommitmentVerifier,
    CommitmentWorker,
)
from qc_daemon.deliver.commitment_scu import CommitmentRequester
from qc_daemon.deliver.fallback import SopClassFallback
from qc_daemon.deliver.folder import folder_problem
from qc_daemon.deliver.pool import DestinationPool
from qc_daemon.deliver.transport import (
    ClassRefusedError,
    Convert,
    ObjectStatusError,
    OutgoingObject,
    Transport,
)
from qc_daemon.job_runner import ClaimJob, JobHandler, JobRunner
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.commitment import scu
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease, LeaseLostError
from qc_daemon.records.received import exams
from qc_daemon.records.received.revisions import Originals, in_spool
from qc_daemon.records.results import destinations, renditions
from qc_daemon.records.results.renditions import Render
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentSupport, JobKind
from qc_daemon.settings import DestinationSettings, Settings

_MAX_THREADS = 16
# At a stop what is being sent has so long to finish; what has not is sent again after the start.
_STOP_SECONDS = 5.0
# Failures of this side, which say nothing about the destination.
_OURS = (
    ErrorCode.STORAGE,
    ErrorCode.SPOOL_MISSING,
    ErrorCode.SPOOL_DAMAGED,
    ErrorCode.NOT_AVAILABLE,
)
# Failures that any object would meet: the destination's, not the object's.
_OF_THE_DESTINATION = (
    ErrorCode.DELIVERY_UNREACHABLE,
    ErrorCode.DELIVERY_RESOURCES,
    ErrorCode.DELIVERY_FORBIDDEN,
    ErrorCode.DELIVERY_FAILED,
)
# Failures of a destination that answers: another object may do.
# What an object's own status may say of the destination or of the object.
_OF_EITHER = (ErrorCode.DELIVERY_RESOURCES, ErrorCode.DELIVERY_FAILED)
_OF_THE_OBJECT = (ErrorCode.DELIVERY_REFUSED, ErrorCode.DELIVERY_ABORTED)


@dataclass(frozen=True, slots=True)
class _SendResult:
    """What a destination was sent, and whether its commitment is to be requested."""

    rendition_id: int | None
    to_commit: bool
    sop_class_uid: str


class _SendingError(QCError):
    """An error of the sending itself, not of what comes before, as fetching an original back.

    `is_of_object`: the destination may store others.
    """

    def __init__(self, code: ErrorCode, message: str, *, is_of_object: bool = False) -> None:
        super().__init__(code, message)
        self.is_of_object = is_of_object


class DeliverHandler(JobHandler):
    """Sends one object after another in one thread.

    The other threads share `pool`, `breaker`, `refusals`, `aborted` and `unstored`.
    """

    kind = JobKind.DELIVER
    activity = "sending"
    failed_event = "not delivered"

    def __init__(
        self,
        store: Store,
        settings: Settings,
        breaker: CircuitBreaker | None = None,
        clock: Clock = utc_now,
        originals: Originals | None = None,
        refusals: CommitmentRefusals | None = None,
        pool: DestinationPool | None = None,
        render: Render | None = None,
        convert: Convert | None = None,
        aborted: AbortedObjects | None = None,
        unstored: UnstoredObjects | None = None,
    ) -> None:
        self.settings = settings
        self.fallback = SopClassFallback(
            store,
            originals or in_spool(settings.store.spool),
            render,
            clock,
            by_exam=[each.name for each in settings.destination if each.layout == "study"],
        )
        self.breaker = breaker or CircuitBreaker()
        self.refusals = refusals or CommitmentRefusals()
        self.aborted = aborted or AbortedObjects()
        self.unstored = unstored or UnstoredObjects()
        self.log = log.get(role="deliver")
        self.pool = pool or DestinationPool(
            settings.destination, settings.receive.ae_title, convert=convert
        )
        self._destinations = {each.name: each for each in settings.destination}

    @contextlib.contextmanager
    def claim(self, claim_job: ClaimJob) -> Iterator[Job | None]:
        """A job for a destination that may be sent something now, and a connection to it."""
        with self.pool.claim_lock:
            job = claim_job(self._open_destinations())
            if job is not None:
                self.pool.acquire(job.destination)
        try:
            yield job
        finally:
            if job is not None:
                self.pool.release(job.destination)

    def run(self, lease: Lease) -> None:
        job = lease.job
        if self._is_superseded(lease):
            lease.settle(lambda session: self._supersede(session, lease))
            self.log.info("superseded", job=job.id, destination=job.destination)
            return
        result = self._deliver(job)
        # A database that is away costs no second send.
        to_commit = lease.settle(lambda session: self._write(session, lease, result))
        self._count_sent(lease, result)
        if to_commit:
            self.log.info("sent", job=job.id, destination=job.destination)
        else:
            counters.count_delivery(job.destination, done=True)
            self.log.info("delivered", job=job.id, destination=job.destination)

    def _count_sent(self, lease: Lease, result: _SendResult) -> None:
        """Tell the audit log of an object that a destination has."""
        if not recorder.is_used():
            return
        with lease.store.read() as session:
            study, patient_id = exams.identifiers(session, lease.job.exam_id)
        recorder.count_transfer(
            AuditKind.SENT,
            peer_of(self._destinations[lease.job.destination]),
            study,
            patient_id,
            result.sop_class_uid,
        )

    def record_failure(self, session: Session, lease: Lease, error: QCError) -> None:
        destination = lease.job.destination
        if error.code in _OF_THE_OBJECT:
            destinations.record_success(session, destination)
        elif isinstance(error, _SendingError) and error.code in _OF_THE_DESTINATION:
            if error.is_of_object and not destinations.is_failing(session, destination):
                return
            destinations.record_failure(session, destination, error, lease.clock())

    def count_failure(self, job: Job, error: QCError) -> None:
        if error.code not in _OURS:
            counters.count_delivery(job.destination, done=False)

    def on_idle(self) -> float | None:
        self.pool.close_idle()
        return self.pool.seconds_to_wait()

    def close(self) -> None:
        """Close the idle connections."""
        self.pool.close_idle(at_once=True)

    def _open_destinations(self) -> set[str]:
        """Destinations of the settings that an object may be sent to now.

        A job for another one stays: another daemon on the database may know it, or the settings
        will again. A job that is not tried must not wait longer for that.
        """
        return set(self._destinations) - {*self.pool.busy(), *self.breaker.blocked()}

    def _deliver(self, job: Job) -> _SendResult:
        """Send the job's object as the first candidate that is accepted. Raises QCError."""
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
                return _SendResult(
                    candidate.rendition_id, to_commit, candidate.outgoing.sop_class_uid
                )
        assert refusal is not None
        raise refusal

    def _send(self, transport: Transport, name: str, outgoing: OutgoingObject) -> bool:
        """Send the object; True if its commitment is to be requested. Raises QCError."""
        began = time.monotonic()
        try:
            to_commit = transport.send(outgoing)
        except ClassRefusedError:
            self.aborted.clear(name)
            raise
        except QCError as error:
            code, message, is_of_object = error.code, error.message, False
            if code is ErrorCode.DELIVERY_ABORTED:
                if self.aborted.record(name, outgoing.name):
                    # Each object would be given up in turn, for a fault that is not its own.
                    code = ErrorCode.DELIVERY_UNREACHABLE
                    message = f"destination {name} breaks off at every object, though it answers"
            elif code is ErrorCode.DELIVERY_REFUSED:
                self.aborted.clear(name)
            if code is ErrorCode.DELIVERY_UNREACHABLE:
                self.breaker.record_failure(name, time.monotonic() - began)
            elif isinstance(error, ObjectStatusError) and code in _OF_EITHER:
                is_of_object = not self.unstored.record(name, outgoing.name)
            raise _SendingError(code, message, is_of_object=is_of_object) from error
        self.aborted.clear(name)
        self.unstored.clear(name, outgoing.name)
        return to_commit

    def _replaces(self, job: Job) -> bool:
        """Whether the destination keeps one object for each SOP Instance UID, the last it was sent;
        a folder has each content in a file of its own. A FHIR server keeps one report of an
        exam."""
        kind = self._destinations[job.destination].kind
        return kind == "fhir" or (job.object_id is None and kind != "folder")

    def _is_superseded(self, lease: Lease) -> bool:
        """Whether the destination has a later content of the job's image, which it would replace.

        While this job is leased none is sent, so the answer holds.
        """
        if not self._replaces(lease.job):
            return False
        with lease.store.read() as session:
            return jobs.is_superseded(session, lease.job)

    def _supersede(self, session: Session, lease: Lease) -> None:
        if not jobs.supersede(session, lease.job, lease.clock()):
            raise LeaseLostError

    def _write(self, session: Session, lease: Lease, result: _SendResult) -> bool:
        """Record the delivery; True if commitment is to be requested.

        Raises LeaseLostError: another worker has the job.
        """
        job, now = lease.job, lease.clock()
        if job.object_id is not None:
            renditions.record_rendition(session, job, result.rendition_id)
        destinations.record_success(session, job.destination)
        if self._replaces(job):
            jobs.supersede_earlier(session, job, now)
        if not self._is_to_commit(session, lease, result):
            lease.finish(session)
            return False
        if not jobs.mark_sent(session, job, now, now + scu.BATCH_DELAY):
            raise LeaseLostError
        return True

    def _is_to_commit(self, session: Session, lease: Lease, result: _SendResult) -> bool:
        """Whether commitment is to be requested of the destination.

        One that accepted requests before and offers them no more has a fault: what it stored does
        not count as committed.
        """
        job = lease.job
        destination = self._destinations[job.destination]
        if destination.kind != "dicom" or destination.commitment != "auto":
            return result.to_commit
        if result.to_commit:
            support = CommitmentSupport.OFFERED
        elif scu.has_accepted(session, job.destination):
            support = CommitmentSupport.LOST
        else:
            support = CommitmentSupport.NOT_OFFERED
        destinations.record_commitment(session, job.destination, support, lease.clock())
        if support is CommitmentSupport.OFFERED:
            return not self.refusals.is_unsupported(job.destination)
        return support is CommitmentSupport.LOST


def peer_of(destination: DestinationSettings) -> Peer:
    """A destination as the other side of a transfer."""
    if destination.kind in ("dicomweb", "fhir"):
        return Peer(destination.url or "", destination.url)
    if destination.kind == "folder":
        return Peer(f"file://{destination.folder}")
    return Peer(destination.ae_title, destination.host)


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

    Storage commitment is requested beside it, and what others request of us verified and reported.
    Threads that still wait for a destination some seconds after `stop` are left behind: the process
    has to end without them. Their leases are released by the supervisor.
    """
    _warn_of_missing_folders(settings)
    breaker, refusals = CircuitBreaker(), CommitmentRefusals()
    aborted, unstored = AbortedObjects(), UnstoredObjects()
    pool = DestinationPool(settings.destination, settings.receive.ae_title, convert=convert)
    # So many threads that a destination which uses all its connections leaves some for the others.
    connections = sum(each.max_associations for each in settings.destination)
    count = min(max(connections, 1), _MAX_THREADS)

    def deliverer() -> JobRunner:
        handler = DeliverHandler(
            store,
            settings,
            breaker,
            originals=originals,
            refusals=refusals,
            pool=pool,
            render=render,
            aborted=aborted,
            unstored=unstored,
        )
        return JobRunner(
            store,
            [handler],
            owner,
            settings.jobs,
            role="deliver",
            stop=stop,
            stalled_event="delivery stalled",
        )

    workers: list[CommitmentWorker] = [
        CommitmentRequester(store, settings, owner, breaker=breaker, refusals=refusals),
        CommitmentVerifier(store, settings, owner),
        CommitmentReporter(store, settings, owner),
    ]
    loops = [deliverer().run for _ in range(count)]
    loops += [functools.partial(worker.run, stop) for worker in workers]
    failed: list[BaseException] = []

    def work(loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in loops]
    for thread in threads:
        thread.start()
    stop.wait()
    until = time.monotonic() + _STOP_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if failed:
        raise failed[0]
    unfinished = sum(thread.is_alive() for thread in threads)
    if unfinished:
        log.get(role="deliver").warning(
            "sending not finished", count=unfinished, reason="the next start sends it again"
        )


def _warn_of_missing_folders(settings: Settings) -> None:
    """Log at the start which destinations' folders are not there; objects for them wait."""
    for each in settings.destination:
        if each.kind != "folder" or each.folder is None:
            continue
        problem = folder_problem(each.folder)
        if problem is not None:
            log.get(role="deliver").warning(
                "destination folder missing", destination=each.name, reason=problem
            )
