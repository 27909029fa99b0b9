"""The queue's transitions, each as the table in `jobs` says."""

import random
import threading
from datetime import timedelta

import pytest

from detector.errors import FAILURE_CLASS, ErrorCode, FailureClass, QCError
from qc_daemon.records.queue.jobs import (
    Job,
    cancel,
    claim,
    counts,
    fail,
    finish,
    get,
    insert,
    listing,
    release_owner,
    renew,
    retry,
)
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.revisions import quarantined_revisions
from qc_daemon.records.results.findings import store as store_findings
from qc_daemon.records.tables import JobKind, JobState

POLICY = RetryPolicy()
BY_CLASS = {kind: next(c for c, k in FAILURE_CLASS.items() if k is kind) for kind in FailureClass}


def failing(records, job: Job, kind: FailureClass, policy: RetryPolicy = POLICY) -> JobState | None:
    error = QCError(BY_CLASS[kind], f"a {kind} failure")
    with records.store.begin() as session:
        return fail(session, job, error, records.now, policy, random.Random(1))


def now_of(records, job: Job) -> Job:
    with records.store.read() as session:
        current = get(session, job.id)
    assert current is not None
    return current


def reasons(records) -> list[str]:
    with records.store.read() as session:
        return [revision.code for revision in quarantined_revisions(session)]


def test_job_is_inserted_once(records) -> None:
    exam = records.image().exam_id

    def add(destination: str) -> int | None:
        with records.store.begin() as session:
            return insert(
                session,
                JobKind.REPORT,
                "exam:1",
                1,
                exam_id=exam,
                destination=destination,
                now=records.now,
            )

    assert add("pacs") is not None
    assert add("pacs") is None
    assert add("archive") is not None
    with records.store.read() as session:
        assert counts(session) == {
            (JobKind.SCORE, JobState.READY): 1,
            (JobKind.REPORT, JobState.READY): 2,
        }


def test_claim_leases_the_oldest_of_the_given_kinds(records) -> None:
    first, second = records.image(), records.image()
    assert records.claim(JobKind.DELIVER) is None
    job = records.claim(JobKind.SCORE, owner="w")
    assert job is not None
    assert job.revision_id == first.revision_id
    assert (job.state, job.owner) == (JobState.LEASED, "w")
    assert job.lease_until == records.now + timedelta(seconds=300)
    other = records.claim(JobKind.SCORE)
    assert other is not None
    assert other.revision_id == second.revision_id
    assert other.lease_token != job.lease_token
    assert records.claim(JobKind.SCORE) is None


def test_a_job_not_yet_due_is_not_claimed(records) -> None:
    records.image()
    records.now -= timedelta(microseconds=1)
    assert records.claim() is None


def test_revisions_of_a_subject_are_done_in_order_per_destination(records) -> None:
    for sha in "abc":
        records.receive("pacs", "archive", sha256=sha * 64)
    first = [records.claim(JobKind.DELIVER) for _ in range(3)]
    assert [(job.revision, job.destination) for job in first if job] == [
        (1, "pacs"),
        (1, "archive"),
    ]
    with records.store.begin() as session:
        assert finish(session, first[0], records.now)
    job = records.claim(JobKind.DELIVER)
    assert (job.revision, job.destination) == (2, "pacs")
    # A revision that waits to be tried again still comes first; one that is given up does not.
    assert failing(records, job, FailureClass.RETRY) is JobState.READY
    assert records.claim(JobKind.DELIVER) is None
    with records.store.begin() as session:
        cancel(session, [job.id], records.now)
    job = records.claim(JobKind.DELIVER)
    assert (job.revision, job.destination) == (3, "pacs")


def test_only_the_current_token_finishes_and_the_result_goes_with_it(records) -> None:
    admission = records.image()
    job = records.claim(JobKind.SCORE)
    records.wait(301)
    heir = records.claim(JobKind.SCORE, owner="worker-2")
    assert heir.id == job.id

    def late() -> None:
        with records.store.begin() as session:
            store_findings(session, admission.revision_id, [records.finding()], records.now)
            if not finish(session, job, records.now):
                raise TimeoutError

    with pytest.raises(TimeoutError):
        late()
    with records.store.begin() as session:
        assert not renew(session, job, records.now, 300)
        # What the late worker found went away with its transaction.
        assert store_findings(session, admission.revision_id, [records.finding()], records.now) == 1
        assert finish(session, heir, records.now)
        assert not finish(session, heir, records.now)
    assert failing(records, job, FailureClass.RETRY) is None
    current = now_of(records, heir)
    assert (current.state, current.owner, current.lease_token) == (JobState.DONE, None, None)


def test_a_job_that_was_never_leased_cannot_be_finished(records) -> None:
    records.image()
    (job,) = records.jobs()
    with records.store.begin() as session:
        assert not finish(session, job, records.now)


def test_renewed_lease_is_not_expired(records) -> None:
    records.image()
    job = records.claim()
    records.wait(200)
    with records.store.begin() as session:
        assert renew(session, job, records.now, 300)
    records.wait(200)
    assert records.claim() is None
    with records.store.begin() as session:
        assert finish(session, job, records.now)


def test_a_lease_that_ends_counts_a_death_and_three_quarantine(records) -> None:
    records.image()
    for deaths in range(3):
        job = records.claim()
        assert job is not None
        assert job.deaths == deaths
        records.wait(299.9)
        assert records.claim() is None
        records.wait(0.2)
    assert records.claim() is None
    ended = now_of(records, job)
    assert (ended.state, ended.deaths) == (JobState.QUARANTINED, 3)
    assert ended.error_code == ErrorCode.WORKER_DEATHS
    assert reasons(records) == [ErrorCode.WORKER_DEATHS]


def test_jobs_of_a_dead_worker_are_ready_at_once(records) -> None:
    records.image(), records.image()
    mine, other = records.claim(owner="dead"), records.claim(owner="alive")
    with records.store.begin() as session:
        assert release_owner(session, "dead", records.now) == 1
        assert release_owner(session, "dead", records.now) == 0
    assert now_of(records, other).state is JobState.LEASED
    again = records.claim()
    assert (again.id, again.deaths) == (mine.id, 1)


def test_worker_stopped_with_the_service_counts_no_death(records) -> None:
    records.image()
    for _ in range(5):
        job = records.claim()
        assert job is not None
        assert job.deaths == 0
        with records.store.begin() as session:
            release_owner(session, "worker-1", records.now, count_death=False)


def test_retry_failure_backs_off_and_ends_dead(records) -> None:
    records.image()
    policy = RetryPolicy(max_attempts=3)
    for attempt in (1, 2):
        job = records.claim()
        assert job is not None
        assert failing(records, job, FailureClass.RETRY, policy) is JobState.READY
        waiting = now_of(records, job)
        assert waiting.attempts == attempt
        assert waiting.error_code == BY_CLASS[FailureClass.RETRY]
        seconds = (waiting.not_before - records.now).total_seconds()
        assert 15 * 2 ** (attempt - 1) <= seconds <= 30 * 2 ** (attempt - 1)
        assert records.claim() is None
        records.wait(seconds)
    job = records.claim()
    assert failing(records, job, FailureClass.RETRY, policy) is JobState.DEAD
    records.wait(10_000)
    assert records.claim() is None
    assert reasons(records) == [BY_CLASS[FailureClass.RETRY]]


def test_bad_input_is_quarantined_with_its_reason(records) -> None:
    records.image()
    job = records.claim()
    assert failing(records, job, FailureClass.QUARANTINE) is JobState.QUARANTINED
    ended = now_of(records, job)
    assert ended.error_message == "a quarantine failure"
    assert reasons(records) == [BY_CLASS[FailureClass.QUARANTINE]]


def test_alarm_failure_is_retried_without_end(records) -> None:
    records.image()
    for alarm in range(1, 40):
        job = records.claim()
        assert job is not None
        assert failing(records, job, FailureClass.ALARM) is JobState.READY
        waiting = now_of(records, job)
        assert (waiting.alarms, waiting.attempts) == (alarm, 0)
        assert waiting.not_before <= records.now + timedelta(hours=1)
        records.now = waiting.not_before
    assert records.score_all() == ["score"]


def test_failed_delivery_does_not_quarantine_the_image(records) -> None:
    records.receive("pacs")
    job = records.claim(JobKind.DELIVER)
    assert failing(records, job, FailureClass.QUARANTINE) is JobState.QUARANTINED
    assert reasons(records) == []


def test_retry_makes_a_job_due_with_counts_reset(records) -> None:
    admission = records.image()
    job = records.claim()
    failing(records, job, FailureClass.QUARANTINE)
    records.wait(61)
    assert records.close_due() == [admission.exam_id]
    with records.store.begin() as session:
        assert retry(session, [job.id, 12345], records.now) == 1
    again = records.claim()
    assert (again.id, again.attempts, again.error_code) == (job.id, 0, None)
    assert reasons(records) == []
    with records.store.begin() as session:
        assert retry(session, [job.id], records.now) == 0
        assert finish(session, again, records.now)
        assert retry(session, [job.id], records.now) == 0
    assert records.close_due() == [admission.exam_id]


def test_retry_does_not_wait_for_the_back_off(records) -> None:
    records.image()
    job = records.claim()
    failing(records, job, FailureClass.RETRY)
    assert records.claim() is None
    with records.store.begin() as session:
        retry(session, [job.id], records.now)
    assert records.claim() is not None


def test_cancel_ends_a_leased_job_too(records) -> None:
    records.image(), records.image()
    leased = records.claim()
    with records.store.begin() as session:
        ids = [job.id for job in listing(session)]
        assert cancel(session, ids, records.now) == 2
        assert cancel(session, ids, records.now) == 0
    with records.store.begin() as session:
        assert not finish(session, leased, records.now)
    assert records.claim() is None
    assert reasons(records) == [ErrorCode.CANCELLED, ErrorCode.CANCELLED]


def test_listing_by_state_and_kind(records) -> None:
    records.receive("pacs")
    records.claim(JobKind.SCORE)
    with records.store.read() as session:
        assert [j.kind for j in listing(session, states=[JobState.READY])] == [JobKind.DELIVER]
        assert [j.kind for j in listing(session, kinds=[JobKind.SCORE])] == [JobKind.SCORE]
        assert listing(session, [JobState.READY], [JobKind.SCORE]) == []
        assert len(listing(session)) == 2
        assert len(listing(session, limit=1)) == 1
        assert get(session, 99) is None


@pytest.mark.parametrize("claimers", [4])
def test_claimers_at_once_never_get_the_same_job(records, claimers: int) -> None:
    for _ in range(20):
        records.image()
    ids: list[int] = []
    start = threading.Barrier(claimers)

    def run(number: int) -> None:
        start.wait()
        # On PostgreSQL a claimer may find all free jobs in others' hands for a moment.
        while len(ids) < 20:
            with records.store.begin() as session:
                job = claim(session, [JobKind.SCORE], f"worker-{number}", records.now, 300)
            if job is not None:
                ids.append(job.id)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(claimers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(set(ids)) == 20


def test_expired_lease_is_claimed_by_one_of_many(records) -> None:
    records.image()
    records.claim(owner="dead")
    records.wait(301)
    claims: list[Job] = []
    start = threading.Barrier(4)

    def run(number: int) -> None:
        start.wait()
        for _ in range(5):
            job = records.claim(owner=f"worker-{number}")
            if job is not None:
                claims.append(job)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.deaths for job in claims] == [1]
