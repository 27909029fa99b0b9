"""The queue against a model of it, through any order of operations."""

import random
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.receipts import Receipt, admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobRow, JobState

LEASE, POLICY = 100, RetryPolicy(max_attempts=2, max_deaths=2)
ERRORS = [ErrorCode.INTERNAL, ErrorCode.TRUNCATED, ErrorCode.BUNDLE_INCOMPLETE]
RECEIPT = Receipt("", "1", "1.2", "1.2.1", "P", "1", "AE", "", 1, "a.dcm", "assoc")


@dataclass
class Expected:
    """What a job should be."""

    subject: str
    revision: int
    state: JobState = JobState.READY
    token: str | None = None
    until: datetime | None = None
    not_before: datetime | None = None
    attempts: int = 0
    deaths: int = 0


@pytest.fixture(scope="module", autouse=True)
def empty_database(migrated_sqlite: Path) -> None:
    Queue.empty = migrated_sqlite


class Queue(RuleBasedStateMachine):
    """Two instances with revisions, two workers, time that only these rules move."""

    empty: Path
    claimed = Bundle("claimed")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="qc-queue-"))
        shutil.copy(self.empty, self.folder / "qc.db")
        self.store = Store(f"sqlite:///{self.folder / 'qc.db'}")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.expected: dict[int, Expected] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(instance=st.integers(1, 2))
    def receive(self, instance: int) -> None:
        sha = f"{len(self.expected):064x}"
        receipt = replace(RECEIPT, sop_instance_uid=f"1.2.3.{instance}", sha256=sha)
        with self.store.begin() as session:
            admit(session, receipt, source_destinations=[], bundle_id=None, now=self.now)
            job = jobs.listing(session)[-1]
        self.expected[job.id] = Expected(job.subject, job.revision, not_before=self.now)

    @rule(seconds=st.sampled_from([1, 50, 100, 4000]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(target=claimed)
    def claim(self) -> object:
        for job in self.expected.values():
            if job.state is JobState.LEASED and job.until <= self.now:
                self._worker_died(job)
        due = [key for key, job in self.expected.items() if self._is_due(job)]
        with self.store.begin() as session:
            job = jobs.claim(session, [JobKind.SCORE], "w", self.now, LEASE, POLICY.max_deaths)
            due_since = {each.id: each.not_before for each in jobs.listing(session)}
        longest_due = min(due, key=lambda key: (due_since[key], key), default=None)
        assert (job and job.id) == longest_due
        if job is None:
            return multiple()
        expected = self.expected[job.id]
        expected.state, expected.token = JobState.LEASED, job.lease_token
        expected.until = self.now + timedelta(seconds=LEASE)
        return job

    @rule(job=claimed)
    def renew(self, job: Job) -> None:
        with self.store.begin() as session:
            assert jobs.renew(session, job, self.now, LEASE) == self._holds(job)
        if self._holds(job):
            self.expected[job.id].until = self.now + timedelta(seconds=LEASE)

    @rule(job=claimed)
    def finish(self, job: Job) -> None:
        holds = self._holds(job)
        with self.store.begin() as session:
            assert jobs.finish(session, job, self.now) == holds
        if holds:
            self._leave(self.expected[job.id], JobState.DONE)

    @rule(job=claimed)
    def send(self, job: Job) -> None:
        holds = self._holds(job)
        with self.store.begin() as session:
            assert jobs.mark_sent(session, job, self.now, self.now) == holds
        if holds:
            self._leave(self.expected[job.id], JobState.SENT)

    @rule(job=claimed)
    def commit(self, job: Job) -> None:
        sent = self.expected[job.id].state is JobState.SENT
        with self.store.begin() as session:
            assert jobs.mark_committed(session, job.id, self.now) == sent
        if sent:
            self._leave(self.expected[job.id], JobState.DONE)

    @rule(job=claimed)
    def not_commit(self, job: Job) -> None:
        expected = self.expected[job.id]
        if expected.state is not JobState.SENT:
            return
        error = QCError(ErrorCode.COMMITMENT_REFUSED, "no")
        with self.store.begin() as session:
            row = session.get_one(JobRow, job.id)
            jobs.requeue_uncommitted(session, row, error, self.now, POLICY, random.Random(1))
            after = jobs.get(session, job.id)
        expected.attempts += 1
        if expected.attempts >= POLICY.max_attempts:
            self._leave(expected, JobState.DEAD)
            return
        self._leave(expected, JobState.READY)
        expected.not_before = after.not_before
        for other in self.expected.values():
            later = other.subject == expected.subject and other.revision > expected.revision
            if later and other.state in (JobState.SENT, JobState.DONE):
                self._leave(other, JobState.READY)
                other.not_before = self.now

    @rule(job=claimed, code=st.sampled_from(ERRORS))
    def fail(self, job: Job, code: ErrorCode) -> None:
        holds, expected = self._holds(job), self.expected[job.id]
        with self.store.begin() as session:
            state = jobs.fail(session, job, QCError(code, "no"), self.now, POLICY, random.Random(1))
            after = jobs.get(session, job.id)
        if not holds:
            assert state is None
            return
        expected.attempts += code is not ErrorCode.BUNDLE_INCOMPLETE
        if code is ErrorCode.TRUNCATED:
            self._leave(expected, JobState.QUARANTINED)
        elif expected.attempts >= POLICY.max_attempts:
            self._leave(expected, JobState.DEAD)
        else:
            self._leave(expected, JobState.READY)
            assert after.not_before > self.now
            expected.not_before = after.not_before
        assert state is expected.state

    @rule(count_death=st.booleans())
    def worker_stops(self, count_death: bool) -> None:
        with self.store.begin() as session:
            jobs.release_owner(session, "w", self.now, POLICY.max_deaths, count_death=count_death)
        for job in self.expected.values():
            if job.state is JobState.LEASED:
                self._worker_died(job, count_death)

    @rule(job=claimed)
    def retry(self, job: Job) -> None:
        expected = self.expected[job.id]
        idle = expected.state not in (JobState.LEASED, JobState.DONE)
        with self.store.begin() as session:
            assert jobs.retry(session, [job.id], self.now) == idle
        if idle:
            self._leave(expected, JobState.READY)
            expected.not_before, expected.attempts, expected.deaths = self.now, 0, 0

    @rule(job=claimed)
    def cancel(self, job: Job) -> None:
        expected = self.expected[job.id]
        pending = expected.state in (JobState.READY, JobState.LEASED, JobState.SENT)
        with self.store.begin() as session:
            assert jobs.cancel(session, [job.id], self.now) == pending
        if pending:
            self._leave(expected, JobState.DEAD)

    @invariant()
    def is_as_expected(self) -> None:
        with self.store.read() as session:
            actual = {
                job.id: (job.state, job.lease_token, job.attempts, job.deaths)
                for job in jobs.listing(session)
            }
        assert actual == {
            key: (job.state, job.token, job.attempts, job.deaths)
            for key, job in self.expected.items()
        }

    def _is_due(self, job: Expected) -> bool:
        return (
            job.state is JobState.READY
            and job.not_before <= self.now
            and not any(
                other.subject == job.subject
                and other.revision < job.revision
                and other.state in (JobState.READY, JobState.LEASED)
                for other in self.expected.values()
            )
        )

    def _holds(self, job: Job) -> bool:
        return self.expected[job.id].token == job.lease_token

    def _worker_died(self, job: Expected, count_death: bool = True) -> None:
        job.deaths += count_death
        enough = job.deaths >= POLICY.max_deaths
        self._leave(job, JobState.QUARANTINED if enough else JobState.READY)

    def _leave(self, job: Expected, state: JobState) -> None:
        job.state, job.token, job.until = state, None, None


Queue.TestCase.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
TestQueue = Queue.TestCase
