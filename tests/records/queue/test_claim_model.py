"""Claims of deliver jobs against a plain reading of the rules, through any order of operations.

Whatever the index is asked, a claim takes a job that the rules allow, and none is left waiting that
they would allow.
"""

import random
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import select

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue import jobs, order
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, JobKind, JobState, ObjectKind, ReportObjectRow
from tests.support.receipts import numbered_receipt

# A back-off that most waits do not outlast: that is when jobs are put behind one another.
POLICY = RetryPolicy(max_attempts=4, max_deaths=2, backoff_seconds=3000)
LEASE = 100
DESTINATIONS = ("archive", "pacs")
ERRORS = [
    ErrorCode.DELIVERY_FAILED,
    ErrorCode.DELIVERY_RESOURCES,
    ErrorCode.DELIVERY_UNREACHABLE,
    ErrorCode.DELIVERY_REFUSED,
]
TO_DO = (JobState.READY, JobState.LEASED)


@pytest.fixture(scope="module", autouse=True)
def empty_database(migrated_sqlite: Path) -> None:
    DeliveryQueue.empty = migrated_sqlite


class DeliveryQueue(RuleBasedStateMachine):
    """Two exams, images and reports of them, two destinations; time moves by these rules only."""

    empty: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="qc-claims-"))
        shutil.copy(self.empty, self.folder / "qc.db")
        self.store = Store(f"sqlite:///{self.folder / 'qc.db'}")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.serial = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def jobs(self) -> list[Job]:
        with self.store.read() as session:
            return jobs.listing(session, kinds=[JobKind.DELIVER])

    def one_of(self, seed: int, *states: JobState) -> Job | None:
        candidates = [job for job in self.jobs() if job.state in states]
        return candidates[seed % len(candidates)] if candidates else None

    @rule(
        exam=st.integers(1, 2),
        instance=st.integers(1, 2),
        names=st.sets(st.sampled_from(DESTINATIONS), min_size=1),
    )
    def receive(self, exam: int, instance: int, names: set[str]) -> None:
        self.serial += 1
        receipt = numbered_receipt(
            self.serial,
            # Corrected by its sender, a content may come in another exam.
            sop_instance_uid=f"1.2.9.{instance}",
            study_instance_uid=f"1.2.{exam}",
        )
        with self.store.begin() as session:
            admit(session, receipt, source_destinations=sorted(names), bundle_id=None, now=self.now)

    @rule(kind=st.sampled_from([ObjectKind.SR, ObjectKind.OVERLAY]), seed=st.integers(0, 9))
    def publish(self, kind: ObjectKind, seed: int) -> None:
        self.serial += 1
        with self.store.begin() as session:
            exams = session.scalars(select(Exam)).all()
            if not exams:
                return
            exam = exams[seed % len(exams)]
            exam.report_revision += 1
            row = ReportObjectRow(
                exam_id=exam.id,
                report_revision=exam.report_revision,
                kind=kind,
                sop_instance_uid=f"2.25.{self.serial}",
                sop_class_uid="1.2",
                transfer_syntax_uid="1.2",
                payload=b"\0",
                created_at=self.now,
            )
            session.add(row)
            session.flush()
            for name in DESTINATIONS:
                jobs.insert(
                    session,
                    JobKind.DELIVER,
                    f"object:{row.id}",
                    exam.report_revision,
                    exam_id=exam.id,
                    object_id=row.id,
                    destination=name,
                    now=self.now,
                )

    @rule(seconds=st.sampled_from([1, 100, 4000]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(
        names=st.sampled_from([(), ("pacs",), ("archive", "pacs"), ("pacs", "unknown")]),
        outcome=st.sampled_from([None, JobState.DONE, *ERRORS]),
    )
    def claim(self, names: tuple[str, ...], outcome: JobState | ErrorCode | None) -> None:
        with self.store.begin() as session:
            # What a claim does first: leases that ended go back.
            jobs.claim(session, [], "w", self.now, LEASE, POLICY.max_deaths)
        before = self.jobs()
        allowed = {job.id for job in before if job.destination in names and self.may_go(job)}
        with self.store.begin() as session:
            job = jobs.claim(
                session,
                [JobKind.DELIVER],
                "w",
                self.now,
                LEASE,
                POLICY.max_deaths,
                destinations=names,
            )
        assert (job is None) == (not allowed)
        assert job is None or job.id in allowed
        if job is None or outcome is None:
            return
        with self.store.begin() as session:
            if isinstance(outcome, ErrorCode):
                error = QCError(outcome, "no")
                jobs.fail(session, job, error, self.now, POLICY, random.Random(1))
            else:
                jobs.finish(session, job, self.now)

    @rule(seed=st.integers(0, 9))
    def finish(self, seed: int) -> None:
        if job := self.one_of(seed, JobState.LEASED):
            with self.store.begin() as session:
                jobs.finish(session, job, self.now)

    @rule(seed=st.integers(0, 9), code=st.sampled_from(ERRORS))
    def fail(self, seed: int, code: ErrorCode) -> None:
        if job := self.one_of(seed, JobState.LEASED):
            with self.store.begin() as session:
                error = QCError(code, "no")
                jobs.fail(session, job, error, self.now, POLICY, random.Random(1))

    @rule(seed=st.integers(0, 9))
    def cancel(self, seed: int) -> None:
        if job := self.one_of(seed, *TO_DO):
            with self.store.begin() as session:
                jobs.cancel(session, [job.id], self.now)

    @rule(seed=st.integers(0, 9))
    def retry(self, seed: int) -> None:
        if job := self.one_of(seed, JobState.READY, JobState.DEAD, JobState.QUARANTINED):
            with self.store.begin() as session:
                jobs.retry(session, [job.id], self.now)

    @rule(count_death=st.booleans())
    def worker_stops(self, count_death: bool) -> None:
        with self.store.begin() as session:
            jobs.release_owner(session, "w", self.now, POLICY.max_deaths, count_death=count_death)

    @invariant()
    def a_list_says_what_each_ready_job_waits_for(self) -> None:
        every = self.jobs()
        with self.store.read() as session:
            waiting = order.waits(session, [job.id for job in every])
        blocked = {
            job.id: {other.id for other in self.blockers(job, every)}
            for job in every
            if job.state is JobState.READY
        }
        assert set(waiting) == {job_id for job_id, others in blocked.items() if others}
        assert all(wait.job_id in blocked[job_id] for job_id, wait in waiting.items())

    @invariant()
    def no_job_waits_longer_than_its_own_back_off_and_what_it_waits_for(self) -> None:
        """With every lease ended in time, what is not blocked is due by its own failures only."""
        every = self.jobs()
        for job in every:
            if job.state is JobState.READY and not self.blockers(job, every):
                failures = job.attempts + job.alarms + job.deaths
                assert failures or job.not_before <= self.now

    def may_go(self, job: Job) -> bool:
        due = job.state is JobState.READY and job.not_before <= self.now
        return due and not self.blockers(job, self.jobs())

    def blockers(self, job: Job, every: list[Job]) -> list[Job]:
        with self.store.read() as session:
            kinds = {row.id: row.kind for row in session.scalars(select(ReportObjectRow))}
        others = [
            other
            for other in every
            if other.state in TO_DO and other.destination == job.destination and other.id != job.id
        ]
        awaited = [
            o
            for o in others
            if o.state is JobState.LEASED
            or o.attempts + o.alarms + o.deaths < 3
            or o.error_code == ErrorCode.DELIVERY_UNREACHABLE
        ]
        of_subject = [o for o in awaited if o.subject == job.subject and o.revision < job.revision]
        of_subject += [
            o
            for o in others
            if o.subject == job.subject and o.revision > job.revision and o.state is JobState.LEASED
        ]
        if job.object_id is None:
            return of_subject
        of_exam = [o for o in others if o.exam_id == job.exam_id]
        amended = [
            o
            for o in awaited
            if o.exam_id == job.exam_id
            and o.object_id is not None
            and kinds[o.object_id] == kinds[job.object_id]
            and o.revision < job.revision
        ]
        images = [
            o for o in of_exam if o.revision_id is not None and o.attempts + o.alarms + o.deaths < 3
        ]
        return of_subject + amended + images


DeliveryQueue.TestCase.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestDeliveryQueue = DeliveryQueue.TestCase
