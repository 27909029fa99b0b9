"""An audit waits for images that wait, as long as that is stated."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from qc_daemon.operations.audits import run_audit
from qc_daemon.operations.online_work import OnlineWork
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.records import Records


@pytest.fixture
def records(url: str) -> Records:
    migrate(url)
    return Records(Store(url))


class Waiting:
    """Online work whose sleeps do what a worker does meanwhile."""

    def __init__(self, records: Records, most_seconds: float | None = None) -> None:
        self.records, self.sleeps = records, 0
        self.leased: Job | None = None
        self.online = OnlineWork(
            records.store,
            most_seconds,
            unit_seconds=30,
            poll_seconds=5,
            clock=lambda: records.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.records.wait(seconds)

    def wait(self) -> int:
        """How often it slept."""
        before = self.sleeps
        self.online.wait()
        return self.sleeps - before


class Worker(Waiting):
    """One that scores an image in each sleep."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        assert self.leased is not None
        with self.records.store.begin() as session:
            assert jobs.finish(session, self.leased, self.records.now)
        self.leased = self.records.claim(JobKind.SCORE)


def test_it_waits_until_no_image_waits(records: Records) -> None:
    for _ in range(4):
        records.image()
    worker = Worker(records)
    worker.leased = records.claim(JobKind.SCORE)
    # One is at work and three wait: the fourth is claimed in the third sleep.
    assert worker.wait() == 3
    assert worker.leased is not None
    assert worker.wait() == 0


def test_where_nobody_works_it_waits_for_nobody(records: Records) -> None:
    records.image()
    assert Waiting(records).wait() == 0
    records.image()
    records.claim(JobKind.SCORE)
    # Whoever claimed it is dead.
    records.wait(301)
    assert Waiting(records).wait() == 0


def test_what_is_not_due_is_not_waited_for(records: Records) -> None:
    records.image()
    records.image()
    assert records.claim(JobKind.SCORE) is not None
    records.now -= timedelta(seconds=1)
    assert Waiting(records).wait() == 0


def test_a_queue_without_end_does_not_stop_it(records: Records) -> None:
    records.image()
    records.image()
    records.claim(JobKind.SCORE)
    waiting = Waiting(records, most_seconds=40)
    assert [waiting.wait() for _ in range(3)] == [6, 2, 0]
    assert waiting.online.waited_seconds == 40


def test_an_audit_waits_between_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    migrate(url)
    records = Records(Store(url))
    records.image()
    records.image()
    leased = records.claim(JobKind.SCORE)
    assert leased is not None

    def sleep(_seconds: float) -> None:
        nonlocal leased
        with records.store.begin() as session:
            assert leased is not None
            assert jobs.finish(session, leased, records.now)
        leased = records.claim(JobKind.SCORE)
        slept.append(leased is not None)

    slept: list[bool] = []
    monkeypatch.setattr("qc_daemon.operations.online_work.time", SimpleNamespace(sleep=sleep))
    run_audit(load(None), "2026-03-03", clock=lambda: records.now)
    assert slept == [True]
