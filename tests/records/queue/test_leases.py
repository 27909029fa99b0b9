"""A lease kept alive while its job is done, by a clock that the tests set."""

import errno
import threading
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError, InterfaceError, PendingRollbackError
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease, LeaseLostError
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState
from tests.support.waiting import eventually

# Renewed every tenth of a second of real time.
SECONDS = 0.3


def claimed(records) -> Job:
    records.image()
    with records.store.begin() as session:
        job = jobs.claim(session, [JobKind.SCORE], "here", records.now, SECONDS)
    assert job is not None
    return job


def now_of(records, job: Job) -> Job:
    with records.store.read() as session:
        current = jobs.get(session, job.id)
    assert current is not None
    return current


def test_lease_is_renewed_while_the_work_lasts(records) -> None:
    job = claimed(records)
    with Lease(records.store, job, SECONDS, lambda: records.now) as lease:
        for _ in range(5):
            records.now += timedelta(seconds=SECONDS * 0.9)
            end = records.now + timedelta(seconds=SECONDS)
            eventually(lambda end=end: now_of(records, job).lease_until == end)
            assert records.claim(JobKind.SCORE, owner="there") is None
        lease.check()
        with records.store.begin() as session:
            lease.finish(session)
    assert (now_of(records, job).state, now_of(records, job).deaths) == (JobState.DONE, 0)


def test_a_lost_lease_stops_the_work_and_writes_nothing(records) -> None:
    job = claimed(records)
    with Lease(records.store, job, SECONDS, lambda: records.now) as lease:
        with records.store.begin() as session:
            jobs.release_owner(session, "here", records.now)

        def lost() -> bool:
            try:
                lease.check()
            except LeaseLostError:
                return True
            return False

        eventually(lost)
        for write in (lease.renew, lease.finish):
            with pytest.raises(LeaseLostError), records.store.begin() as session:
                write(session)
    assert (now_of(records, job).state, now_of(records, job).deaths) == (JobState.READY, 1)


def test_renewal_continues_after_a_database_outage(records, monkeypatch) -> None:
    job = claimed(records)
    begin, failures = Store.begin, threading.Semaphore(0)
    outage = threading.Event()
    outage.set()

    def begin_or_fail(store: Store):  # type: ignore[no-untyped-def]
        if outage.is_set() and threading.current_thread().name == "lease":
            failures.release()
            raise QCError(ErrorCode.STORAGE, "the database is away")
        return begin(store)

    monkeypatch.setattr(Store, "begin", begin_or_fail)
    with Lease(records.store, job, SECONDS, lambda: records.now) as lease:
        for _ in range(2):
            assert failures.acquire(timeout=60)
        records.now += timedelta(seconds=SECONDS / 2)
        outage.clear()
        eventually(
            lambda: now_of(records, job).lease_until == records.now + timedelta(seconds=SECONDS)
        )
        lease.check()


def test_a_result_waits_for_its_database(records, monkeypatch) -> None:
    job = claimed(records)
    monkeypatch.setattr("qc_daemon.records.queue.leases._RETRY_SECONDS", 0.01)
    lease = Lease(records.store, job, SECONDS, lambda: records.now)
    tries: list[int] = []

    def write(session: Session) -> str:
        tries.append(1)
        if len(tries) < 4:
            raise QCError(ErrorCode.STORAGE, "the database is away")
        return "written"

    assert lease.settle(write) == "written"
    assert len(tries) == 4
    lease.stop.set()
    tries.clear()
    with pytest.raises(QCError, match="away"):
        lease.settle(write)
    assert len(tries) == 1


@pytest.mark.parametrize(
    "error",
    [
        PendingRollbackError("the transaction is gone"),
        InterfaceError("SELECT 1", {}, Exception("the connection is closed")),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
        QCError(ErrorCode.STORAGE, "the database is away"),
    ],
)
def test_failure_of_this_machine_costs_no_attempt(error: Exception) -> None:
    failure = failure_of(error, "sending")
    assert failure.failure_class is FailureClass.ALARM
    assert failure.code is ErrorCode.STORAGE


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("Müller"),
        ConnectionResetError(errno.ECONNRESET, "Müller"),
        IntegrityError("INSERT Müller", {}, Exception("Müller")),
    ],
)
def test_failure_of_the_job_itself_costs_an_attempt(error: Exception) -> None:
    failure = failure_of(error, "sending")
    assert failure.failure_class is FailureClass.RETRY
    assert failure.message == f"{type(error).__name__} while sending"
