"""The lease of a claimed job: kept alive while the job is done, and its result written down."""

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobState

T = TypeVar("T")

# Renewals during one lease: two may fail before it ends.
_RENEWALS = 3
# How long a write waits for a database that is away before it tries again.
_RETRY_SECONDS = 1.0


class LeaseLostError(Exception):
    """Another worker has the job; what was done here is dropped."""


class Lease:
    """Keeps the lease of a claimed job from its claim to its end, whatever the work is.

    As a context manager it renews the lease in a thread of its own every third of `seconds`. While
    the database is away nothing is renewed, but nobody else can claim the job either.

        with Lease(store, job, seconds, clock) as lease:
            for frame in frames:
                lease.check()
                ...
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        seconds: float,
        clock: Clock = utc_now,
        stop: threading.Event | None = None,
    ) -> None:
        self.store = store
        self.job = job
        self.seconds = seconds
        self.clock = clock
        self.stop = stop or threading.Event()
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raises LeaseLostError once a renewal has said that the job is no longer ours."""
        if self._lost.is_set():
            raise LeaseLostError

    def renew(self, session: Session) -> None:
        """Renew it in the caller's transaction. Raises LeaseLostError, so that this rolls back."""
        if not jobs.renew(session, self.job, self.clock(), self.seconds):
            raise LeaseLostError

    def finish(self, session: Session) -> None:
        """Job done, in the transaction that stores its result. Raises LeaseLostError."""
        if not jobs.finish(session, self.job, self.clock()):
            raise LeaseLostError

    def fail(
        self, session: Session, error: QCError, policy: RetryPolicy, rng: random.Random
    ) -> JobState:
        """Job failed, in the caller's transaction; the state it has now. Raises LeaseLostError."""
        state = jobs.fail(session, self.job, error, self.clock(), policy, rng)
        if state is None:
            raise LeaseLostError
        return state

    def settle(self, write: Callable[[Session], T]) -> T:
        """Run `write` in a transaction of its own; a database that is away is waited for.

        Raises QCError STORAGE if it is still away when `stop` is set.
        """
        while True:
            try:
                with self.store.begin() as session:
                    return write(session)
            except QCError:
                if self.stop.wait(_RETRY_SECONDS):
                    raise

    def _renew_on(self) -> None:
        wait = self.seconds / _RENEWALS
        due = time.monotonic() + wait
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + wait
            try:
                with self.store.begin() as session:
                    self.renew(session)
            except LeaseLostError:
                self._lost.set()
                return
            except (QCError, SQLAlchemyError):
                # A moment without the database must not cost a third of the lease.
                due = time.monotonic() + min(wait, _RETRY_SECONDS)
