"""One loop for every kind of job: claim, run, keep the lease, settle.

A stage writes a `JobHandler` for its kind of job, and a role gives one or more of them to a
`JobRunner`:

    class ScoreHandler(JobHandler):
        kind = JobKind.SCORE
        activity = "scoring"
        failed_event = "score failed"

        def run(self, lease: Lease) -> None:
            findings = score(lease.job)
            with lease.store.begin() as session:
                store(session, findings)
                lease.finish(session)

    JobRunner(store, [ScoreHandler()], owner, settings.jobs, role="work", stop=stop).run()

The rest is the runner's:

    claim          the job that has been due the longest, with a lease
    run            the lease is renewed in a thread of its own until the handler returns
    failure        whatever the handler raised: tried again after a back-off, dead or quarantined
    lease lost     another worker has the job: nothing is written, and nothing counted
    nothing due    wait for `poll_seconds`
    database away  wait to claim; a failure waits to be written down
    stop           the current job is done to its end
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import ClassVar, Protocol

import structlog
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease, LeaseLostError
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import JobSettings


class ClaimJob(Protocol):
    """Claims the job of the handler's kind that has been due the longest; None if none is due.

    Deliver jobs for these `destinations` only, None: for any. Raises QCError STORAGE.
    """

    def __call__(self, destinations: Collection[str] | None = None) -> Job | None: ...


class JobHandler:
    """What one kind of job needs done. Only `run` must be written; the other methods are chances
    to add to what the runner does."""

    kind: ClassVar[JobKind]
    activity: ClassVar[str]  # Completes "ZeroDivisionError while ..." for an unexpected error.
    failed_event: ClassVar[str]  # The log event of a failure.

    def run(self, lease: Lease) -> None:
        """Do `lease.job`, and end it in the transaction that stores its result (`lease.finish`).

        Long work calls `lease.check` between its parts. A result that must not be made twice, as
        an object sent, is stored by `lease.settle`, which waits for a database that is away.
        Raises LeaseLostError, and anything else for a job that failed.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def claim(self, claim_job: ClaimJob) -> Iterator[Job | None]:
        """Claim a job; what it needs is reserved before, and released when it has ended."""
        yield claim_job()

    def failure_of(self, error: Exception) -> QCError:
        """The reason to write down for an error that `run` raised."""
        return failure_of(error, self.activity)

    def record_failure(self, session: Session, lease: Lease, error: QCError) -> None:
        """Store what else follows from a failure, in the transaction that writes it down."""

    def count_failure(self, job: Job, error: QCError) -> None:
        """Count a failure that has been written down, for the metrics."""

    def on_idle(self) -> float | None:
        """Release what is not used while no job is due.

        Returns the seconds until one may be due, None: no sooner than the next poll.
        """
        return None

    def close(self) -> None:
        """Release what is left at the end."""


class JobRunner:
    """Runs the jobs of its handlers, one at a time."""

    def __init__(
        self,
        store: Store,
        handlers: Sequence[JobHandler],
        owner: str,
        settings: JobSettings,
        *,
        role: str,
        clock: Clock = utc_now,
        stop: threading.Event | None = None,
        stalled_event: str = "stalled",
    ) -> None:
        self.store = store
        self.handlers = handlers
        self.owner = owner
        self.settings = settings
        self.log = log.get(role=role)
        self.clock = clock
        self.stop = stop or threading.Event()
        self.stalled_event = stalled_event
        # Jitter only spreads load; it guards nothing.
        self._rng = random.Random()

    def run(self) -> None:
        """Run jobs until `stop`. Raises QCError DEVICE_UNAVAILABLE."""
        try:
            run_loop(self.run_once, self.stop, self.log, self._idle, self.stalled_event)
        finally:
            self.close()

    def run_once(self) -> bool:
        """Run one job of each handler, in their order, until `stop`; False if none was due.

        Raises QCError: STORAGE, and DEVICE_UNAVAILABLE after which the process has to end.
        """
        was_due = [self._run_job(handler) for handler in self.handlers if not self.stop.is_set()]
        return any(was_due)

    def close(self) -> None:
        """Release what the handlers hold."""
        for handler in self.handlers:
            handler.close()

    def _idle(self) -> float:
        waits = [handler.on_idle() for handler in self.handlers]
        return min([self.settings.poll_seconds, *(wait for wait in waits if wait is not None)])

    def _run_job(self, handler: JobHandler) -> bool:
        def claim_job(destinations: Collection[str] | None = None) -> Job | None:
            with self.store.begin() as session:
                return jobs.claim(
                    session,
                    [handler.kind],
                    self.owner,
                    self.clock(),
                    self.settings.lease_seconds,
                    self.settings.max_deaths,
                    destinations=destinations,
                )

        with handler.claim(claim_job) as job:
            if job is None:
                return False
            seconds = self.settings.lease_seconds
            # Whatever is logged meanwhile says which job, exam and image it is about.
            with (
                structlog.contextvars.bound_contextvars(**_correlation(job)),
                Lease(self.store, job, seconds, self.clock, self.stop) as lease,
            ):
                self._run_handler(handler, lease)
        return True

    def _run_handler(self, handler: JobHandler, lease: Lease) -> None:
        begun = time.monotonic()
        try:
            handler.run(lease)
            counters.count_duration(lease.job.kind, time.monotonic() - begun)
        except LeaseLostError:
            self.log.warning("lease lost")
        except Exception as error:
            # Whatever a model, a header or a library raised concerns this job only.
            failure = handler.failure_of(error)
            self._fail(handler, lease, failure)
            if failure.code is ErrorCode.DEVICE_UNAVAILABLE:
                raise failure from error

    def _fail(self, handler: JobHandler, lease: Lease, error: QCError) -> None:
        """Write the failure down; a database that is away is waited for."""
        job = lease.job
        policy = RetryPolicy.of(self.settings)

        def write(session: Session) -> str:
            state = lease.fail(session, error, policy, self._rng)
            handler.record_failure(session, lease, error)
            return state

        try:
            state = lease.settle(write)
        except LeaseLostError:
            self.log.warning("lease lost")
            return
        counters.count_job_failure(job.kind)
        handler.count_failure(job, error)
        self.log.warning(
            handler.failed_event,
            code=error.code.value,
            reason=error.message,
            state=state,
        )


def run_loop(
    step: Callable[[], bool],
    stop: threading.Event,
    logger: log.Logger,
    idle_seconds: Callable[[], float],
    stalled_event: str = "stalled",
) -> None:
    """Call `step` until `stop`; wait where it had nothing to do or the database is away.

    `step` returns whether it did something; after nothing, `idle_seconds` says how long to wait.
    Raises QCError DEVICE_UNAVAILABLE: only another process can use the device again.
    """
    while not stop.is_set():
        try:
            is_busy = step()
        except QCError as error:
            if error.code is ErrorCode.DEVICE_UNAVAILABLE:
                raise
            logger.error(stalled_event, code=error.code.value, reason=error.message)
            is_busy = False
        if not is_busy:
            stop.wait(idle_seconds())


def _correlation(job: Job) -> dict[str, int | str]:
    """What every log line of a job says: which job, exam and image or destination it is about."""
    names: dict[str, int | str] = {"job": job.id, "kind": job.kind.value, "exam": job.exam_id}
    subject, _, number = job.subject.partition(":")
    if subject == "instance":
        names["instance"] = int(number)
    return names | {"destination": job.destination} if job.destination else names
