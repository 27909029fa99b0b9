"""The job runner with a handler of the tests, a real database and a clock that the tests set."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from detector.errors import ErrorCode, QCError
from qc_daemon.job_runner import ClaimJob, JobHandler, JobRunner
from qc_daemon.observe import log
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.leases import Lease
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.settings import JobSettings
from tests.support.databases import migrate
from tests.support.receipts import numbered_receipt
from tests.support.waiting import eventually

MONDAY = datetime(2026, 11, 2, 8, tzinfo=UTC)


class Handler(JobHandler):
    """Finishes each job after `work` with it; remembers the ids of those it finished."""

    kind = JobKind.SCORE
    activity = "testing"
    failed_event = "test failed"

    def __init__(self, work: Callable[[Lease], None] = lambda _lease: None) -> None:
        self.work = work
        self.finished: list[int] = []
        self.is_closed = False

    def run(self, lease: Lease) -> None:
        self.work(lease)
        with lease.store.begin() as session:
            lease.finish(session)
        self.finished.append(lease.job.id)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Queue:
    """A database with jobs to score, and the time."""

    store: Store
    now: datetime = MONDAY
    settings: JobSettings = field(
        default_factory=lambda: JobSettings(
            lease_seconds=60, poll_seconds=0.02, backoff_seconds=30, max_attempts=2, max_deaths=2
        )
    )

    def add(self, number: int = 1) -> None:
        receipt = numbered_receipt(number)
        with self.store.begin() as session:
            admit(session, receipt, source_destinations=(), bundle_id=None, now=self.now)

    def runner(self, *handlers: JobHandler, owner: str = "here") -> JobRunner:
        return JobRunner(
            self.store,
            handlers,
            owner,
            self.settings,
            role="work",
            clock=lambda: self.now,
        )

    def jobs(self) -> list[Job]:
        with self.store.read() as session:
            return jobs.listing(session)

    def job(self) -> Job:
        (job,) = self.jobs()
        return job


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    migrate(url)
    store = Store(url)
    yield Queue(store)
    store.close()


def fail(_lease: Lease) -> None:
    raise ZeroDivisionError("Müller")


def test_a_due_job_is_run_and_done(queue: Queue) -> None:
    queue.add()
    handler = Handler()
    runner = queue.runner(handler)
    assert [runner.run_once(), runner.run_once()] == [True, False]
    assert (queue.job().state, queue.job().attempts) == (JobState.DONE, 0)
    assert handler.finished == [queue.job().id]


def test_every_line_of_a_job_says_which_job_exam_and_image_it_is_about(queue: Queue) -> None:
    queue.add(1)
    queue.add(2)

    def work(lease: Lease) -> None:
        log.get(role="work").info("frames not decoded")

    with capture_logs([merge_contextvars]) as lines:
        runner = queue.runner(Handler(work))
        assert [runner.run_once(), runner.run_once()] == [True, True]
    correlation = [(line["job"], line["kind"], line["exam"], line["instance"]) for line in lines]
    assert correlation == [
        (job.id, "score", job.exam_id, int(job.subject.removeprefix("instance:")))
        for job in queue.jobs()
    ]
    assert get_contextvars() == {}


def test_each_handler_gets_its_turn_in_order(queue: Queue) -> None:
    queue.add(1)
    queue.add(2)
    order: list[str] = []
    first, second = Handler(lambda _: order.append("first")), Handler(lambda _: order.append("2nd"))
    assert queue.runner(first, second).run_once()
    assert order == ["first", "2nd"]


def test_a_job_whose_handler_fails_is_tried_again_after_a_back_off(queue: Queue) -> None:
    queue.add()
    with capture_logs([merge_contextvars]) as lines:
        runner = queue.runner(Handler(fail))
        assert [runner.run_once(), runner.run_once()] == [True, False]
    job = queue.job()
    assert (job.state, job.attempts, job.error_code) == (JobState.READY, 1, ErrorCode.INTERNAL)
    assert job.error_message == "ZeroDivisionError while testing"
    assert timedelta(seconds=15) <= job.not_before - queue.now <= timedelta(seconds=30)
    (line,) = lines
    assert (line["event"], line["role"], line["job"]) == ("test failed", "work", job.id)
    assert (line["code"], line["state"]) == (ErrorCode.INTERNAL, JobState.READY)
    assert (line["kind"], line["exam"], line["instance"]) == ("score", job.exam_id, 1)
    queue.now += timedelta(minutes=1)
    assert runner.run_once()
    assert queue.job().state is JobState.DEAD


def test_back_off_counts_from_the_failure_not_from_the_claim(queue: Queue) -> None:
    queue.add()

    def fail_late(lease: Lease) -> None:
        queue.now += timedelta(hours=1)
        fail(lease)

    queue.runner(Handler(fail_late)).run_once()
    assert queue.job().not_before > MONDAY + timedelta(hours=1)


def test_what_else_a_failure_means_is_stored_with_it_and_counted_after(queue: Queue) -> None:
    queue.add()
    calls: list[tuple[str, JobState]] = []

    class Counting(Handler):
        def record_failure(self, session, lease, error):  # type: ignore[no-untyped-def]
            row = jobs.get(session, lease.job.id)
            assert row is not None
            calls.append(("record", row.state))

        def count_failure(self, job, error):  # type: ignore[no-untyped-def]
            calls.append(("count", queue.job().state))

    queue.runner(Counting(fail)).run_once()
    assert calls == [("record", JobState.READY), ("count", JobState.READY)]


def test_a_job_whose_worker_died_goes_to_another_and_counts_a_death(queue: Queue) -> None:
    queue.add()

    class DeadError(BaseException):
        """Ends a worker as a kill would: nothing is written down."""

    def die(_lease: Lease) -> None:
        raise DeadError

    with pytest.raises(DeadError):
        queue.runner(Handler(die)).run_once()
    assert not queue.runner(Handler(), owner="there").run_once()
    queue.now += timedelta(seconds=61)
    assert queue.runner(Handler(), owner="there").run_once()
    assert (queue.job().state, queue.job().deaths) == (JobState.DONE, 1)


def test_the_lease_is_kept_while_the_handler_runs(queue: Queue) -> None:
    queue.add()
    queue.settings.lease_seconds = 0.3

    def work(_lease: Lease) -> None:
        for _ in range(4):
            queue.now += timedelta(seconds=0.25)
            end = queue.now + timedelta(seconds=0.3)
            eventually(lambda end=end: queue.job().lease_until == end)
            assert not queue.runner(Handler(), owner="there").run_once()

    assert queue.runner(Handler(work)).run_once()
    assert (queue.job().state, queue.job().deaths) == (JobState.DONE, 0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_lease_lost_during_the_run_writes_nothing(queue: Queue, fails: bool) -> None:
    queue.add()
    there = Handler()

    def lose(lease: Lease) -> None:
        queue.now += timedelta(seconds=61)
        assert queue.runner(there, owner="there").run_once()
        if fails:
            fail(lease)

    here = Handler(lose)
    with capture_logs([merge_contextvars]) as lines:
        assert queue.runner(here).run_once()
    assert (here.finished, there.finished) == ([], [queue.job().id])
    assert (queue.job().state, queue.job().attempts) == (JobState.DONE, 0)
    (line,) = lines
    assert (line["event"], line["kind"]) == ("lease lost", "score")


def test_what_a_claim_reserves_is_released_however_the_job_ends(queue: Queue) -> None:
    queue.add(1)
    queue.add(2)
    reserved: list[str] = []

    class Reserving(Handler):
        @contextlib.contextmanager
        def claim(self, claim_job: ClaimJob) -> Iterator[Job | None]:
            reserved.append("reserve")
            with contextlib.ExitStack() as stack:
                stack.callback(reserved.append, "release")
                yield claim_job()

    works = iter([fail, lambda _lease: None])
    runner = queue.runner(Reserving(lambda lease: next(works)(lease)))
    assert [runner.run_once(), runner.run_once(), runner.run_once()] == [True, True, False]
    assert reserved == ["reserve", "release"] * 3


def test_an_idle_runner_waits_no_longer_than_its_handler_says(queue: Queue) -> None:
    queue.settings.poll_seconds = 600
    waits: list[float] = []

    class Impatient(Handler):
        def on_idle(self) -> float:
            waits.append(0.01)
            return 0.01

    runner = queue.runner(Impatient())
    thread = run_in_thread(runner)
    eventually(lambda: len(waits) > 2)
    runner.stop.set()
    thread.join(60)


def run_in_thread(runner: JobRunner) -> threading.Thread:
    thread = threading.Thread(target=runner.run)
    thread.start()
    return thread


def test_stop_ends_an_idle_runner_at_once(queue: Queue) -> None:
    queue.settings.poll_seconds = 600
    handler = Handler()
    runner = queue.runner(handler)
    thread = run_in_thread(runner)
    runner.stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert handler.is_closed


def test_stop_during_a_run_lets_the_job_end_and_claims_no_other(queue: Queue) -> None:
    queue.add(1)
    queue.add(2)
    running, go_on = threading.Event(), threading.Event()

    def work(_lease: Lease) -> None:
        running.set()
        assert go_on.wait(60)

    runner = queue.runner(Handler(work))
    thread = run_in_thread(runner)
    assert running.wait(60)
    runner.stop.set()
    go_on.set()
    thread.join(60)
    assert sorted(job.state for job in queue.jobs()) == [JobState.DONE, JobState.READY]


def database_away(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While the event is set no transaction begins."""
    begin, away = Store.begin, threading.Event()

    def begin_or_fail(store: Store):  # type: ignore[no-untyped-def]
        if away.is_set():
            raise QCError(ErrorCode.STORAGE, "the database is away")
        return begin(store)

    monkeypatch.setattr(Store, "begin", begin_or_fail)
    return away


def test_a_runner_waits_for_a_database_that_is_away(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.add()
    away = database_away(monkeypatch)
    away.set()
    with capture_logs([merge_contextvars]) as lines:
        runner = queue.runner(Handler())
        thread = run_in_thread(runner)
        eventually(lambda: [line["event"] for line in lines][:2] == ["stalled", "stalled"])
        away.clear()
        eventually(lambda: queue.job().state is JobState.DONE)
        runner.stop.set()
        thread.join(60)
    assert (lines[0]["code"], lines[0]["role"]) == (ErrorCode.STORAGE, "work")


def test_a_failure_waits_for_its_database_and_counts_no_death(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.add()
    monkeypatch.setattr("qc_daemon.records.queue.leases._RETRY_SECONDS", 0.01)
    away = database_away(monkeypatch)

    def lose_database(lease: Lease) -> None:
        away.set()
        threading.Timer(0.2, away.clear).start()
        fail(lease)

    assert queue.runner(Handler(lose_database)).run_once()
    assert (queue.job().state, queue.job().attempts) == (JobState.READY, 1)


def test_a_failed_device_ends_the_runner_and_costs_the_job_nothing(queue: Queue) -> None:
    queue.add()

    def work(_lease: Lease) -> None:
        raise QCError(ErrorCode.DEVICE_UNAVAILABLE, "the device failed")

    handler = Handler(work)
    with pytest.raises(QCError, match="device"):
        queue.runner(handler).run()
    assert (queue.job().state, queue.job().attempts, queue.job().alarms) == (JobState.READY, 0, 1)
    assert handler.is_closed
