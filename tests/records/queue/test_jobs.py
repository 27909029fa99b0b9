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
from qc_daemon.records.received.revisions import quarantined
from qc_daemon.records.results.findings import store as store_findings
from qc_daemon.records.tables import JobKind, JobState

POLICY = RetryPolicy()
BY_CLASS = {kind: next(c for c, k in FAILURE_CLASS.items() if k is kind) for kind in FailureClass}


def failing(lab, job: Job, kind: FailureClass, policy: RetryPolicy = POLICY) -> JobState | None:
    error = QCError(BY_CLASS[kind], f"a {kind} failure")
    with lab.store.begin() as session:
        return fail(session, job, error, lab.now, policy, random.Random(1))


def now_of(lab, job: Job) -> Job:
    with lab.store.read() as session:
        found = get(session, job.id)
    assert found is not None
    return found


def reasons(lab) -> list[str]:
    with lab.store.read() as session:
        return [kept.code for kept in quarantined(session)]


def test_a_job_is_there_once(lab) -> None:
    exam = lab.image().exam_id

    def add(destination: str) -> int | None:
        with lab.store.begin() as session:
            return insert(
                session,
                JobKind.REPORT,
                "exam:1",
                1,
                exam_id=exam,
                destination=destination,
                now=lab.now,
            )

    assert add("pacs") is not None
    assert add("pacs") is None
    assert add("archive") is not None
    with lab.store.read() as session:
        assert counts(session) == {
            (JobKind.SCORE, JobState.READY): 1,
            (JobKind.REPORT, JobState.READY): 2,
        }


def test_claim_leases_the_oldest_of_the_kinds_asked_for(lab) -> None:
    first, second = lab.image(), lab.image()
    assert lab.claim(JobKind.DELIVER) is None
    job = lab.claim(JobKind.SCORE, owner="w")
    assert job is not None
    assert job.revision_id == first.revision_id
    assert (job.state, job.owner) == (JobState.LEASED, "w")
    assert job.lease_until == lab.now + timedelta(seconds=300)
    other = lab.claim(JobKind.SCORE)
    assert other is not None
    assert other.revision_id == second.revision_id
    assert other.lease_token != job.lease_token
    assert lab.claim(JobKind.SCORE) is None


def test_a_job_not_yet_due_is_not_claimed(lab) -> None:
    lab.image()
    lab.now -= timedelta(microseconds=1)
    assert lab.claim() is None


def test_revisions_of_one_subject_are_done_in_order_for_each_destination(lab) -> None:
    for sha in "abc":
        lab.receive("pacs", "archive", sha256=sha * 64)
    first = [lab.claim(JobKind.DELIVER) for _ in range(3)]
    assert [(job.revision, job.destination) for job in first if job] == [
        (1, "pacs"),
        (1, "archive"),
    ]
    with lab.store.begin() as session:
        assert finish(session, first[0], lab.now)
    job = lab.claim(JobKind.DELIVER)
    assert (job.revision, job.destination) == (2, "pacs")
    # A revision that waits to be tried again still comes first; one that is given up does not.
    assert failing(lab, job, FailureClass.RETRY) is JobState.READY
    assert lab.claim(JobKind.DELIVER) is None
    with lab.store.begin() as session:
        cancel(session, [job.id], lab.now)
    job = lab.claim(JobKind.DELIVER)
    assert (job.revision, job.destination) == (3, "pacs")


def test_only_the_current_token_finishes_and_the_result_goes_with_it(lab) -> None:
    admission = lab.image()
    job = lab.claim(JobKind.SCORE)
    lab.wait(301)
    heir = lab.claim(JobKind.SCORE, owner="worker-2")
    assert heir.id == job.id

    def late() -> None:
        with lab.store.begin() as session:
            store_findings(session, admission.revision_id, [lab.finding()], lab.now)
            if not finish(session, job, lab.now):
                raise TimeoutError

    with pytest.raises(TimeoutError):
        late()
    with lab.store.begin() as session:
        assert not renew(session, job, lab.now, 300)
        # What the late worker found went away with its transaction.
        assert store_findings(session, admission.revision_id, [lab.finding()], lab.now) == 1
        assert finish(session, heir, lab.now)
        assert not finish(session, heir, lab.now)
    assert failing(lab, job, FailureClass.RETRY) is None
    done = now_of(lab, heir)
    assert (done.state, done.owner, done.lease_token) == (JobState.DONE, None, None)


def test_a_job_that_was_never_leased_cannot_be_finished(lab) -> None:
    lab.image()
    (job,) = lab.jobs()
    with lab.store.begin() as session:
        assert not finish(session, job, lab.now)


def test_a_renewed_lease_holds(lab) -> None:
    lab.image()
    job = lab.claim()
    lab.wait(200)
    with lab.store.begin() as session:
        assert renew(session, job, lab.now, 300)
    lab.wait(200)
    assert lab.claim() is None
    with lab.store.begin() as session:
        assert finish(session, job, lab.now)


def test_a_lease_that_ends_counts_a_death_and_three_quarantine(lab) -> None:
    lab.image()
    for deaths in range(3):
        job = lab.claim()
        assert job is not None
        assert job.deaths == deaths
        lab.wait(299.9)
        assert lab.claim() is None
        lab.wait(0.2)
    assert lab.claim() is None
    ended = now_of(lab, job)
    assert (ended.state, ended.deaths) == (JobState.QUARANTINED, 3)
    assert ended.error_code == ErrorCode.WORKER_DEATHS
    assert reasons(lab) == [ErrorCode.WORKER_DEATHS]


def test_what_a_dead_worker_held_goes_back_at_once(lab) -> None:
    lab.image(), lab.image()
    mine, other = lab.claim(owner="dead"), lab.claim(owner="alive")
    with lab.store.begin() as session:
        assert release_owner(session, "dead", lab.now) == 1
        assert release_owner(session, "dead", lab.now) == 0
    assert now_of(lab, other).state is JobState.LEASED
    again = lab.claim()
    assert (again.id, again.deaths) == (mine.id, 1)


def test_a_worker_stopped_with_the_service_says_nothing_against_the_job(lab) -> None:
    lab.image()
    for _ in range(5):
        job = lab.claim()
        assert job is not None
        assert job.deaths == 0
        with lab.store.begin() as session:
            release_owner(session, "worker-1", lab.now, count_death=False)


def test_a_passing_failure_is_tried_again_later_and_in_the_end_given_up(lab) -> None:
    lab.image()
    policy = RetryPolicy(max_attempts=3)
    for attempt in (1, 2):
        job = lab.claim()
        assert job is not None
        assert failing(lab, job, FailureClass.RETRY, policy) is JobState.READY
        waiting = now_of(lab, job)
        assert waiting.attempts == attempt
        assert waiting.error_code == BY_CLASS[FailureClass.RETRY]
        seconds = (waiting.not_before - lab.now).total_seconds()
        assert 15 * 2 ** (attempt - 1) <= seconds <= 30 * 2 ** (attempt - 1)
        assert lab.claim() is None
        lab.wait(seconds)
    job = lab.claim()
    assert failing(lab, job, FailureClass.RETRY, policy) is JobState.DEAD
    lab.wait(10_000)
    assert lab.claim() is None
    assert reasons(lab) == [BY_CLASS[FailureClass.RETRY]]


def test_bad_input_is_quarantined_with_its_reason(lab) -> None:
    lab.image()
    job = lab.claim()
    assert failing(lab, job, FailureClass.QUARANTINE) is JobState.QUARANTINED
    ended = now_of(lab, job)
    assert ended.error_message == "a quarantine failure"
    assert reasons(lab) == [BY_CLASS[FailureClass.QUARANTINE]]


def test_a_fault_of_ours_waits_until_it_is_mended(lab) -> None:
    lab.image()
    for alarm in range(1, 40):
        job = lab.claim()
        assert job is not None
        assert failing(lab, job, FailureClass.ALARM) is JobState.READY
        waiting = now_of(lab, job)
        assert (waiting.alarms, waiting.attempts) == (alarm, 0)
        assert waiting.not_before <= lab.now + timedelta(hours=1)
        lab.now = waiting.not_before
    assert lab.score_all() == ["score"]


def test_a_failed_delivery_says_nothing_of_the_image(lab) -> None:
    lab.receive("pacs")
    job = lab.claim(JobKind.DELIVER)
    assert failing(lab, job, FailureClass.QUARANTINE) is JobState.QUARANTINED
    assert reasons(lab) == []


def test_retry_makes_it_due_with_counts_reset(lab) -> None:
    admission = lab.image()
    job = lab.claim()
    failing(lab, job, FailureClass.QUARANTINE)
    lab.wait(61)
    assert lab.close_due() == [admission.exam_id]
    with lab.store.begin() as session:
        assert retry(session, [job.id, 12345], lab.now) == 1
    again = lab.claim()
    assert (again.id, again.attempts, again.error_code) == (job.id, 0, None)
    assert reasons(lab) == []
    with lab.store.begin() as session:
        assert retry(session, [job.id], lab.now) == 0
        assert finish(session, again, lab.now)
        assert retry(session, [job.id], lab.now) == 0
    assert lab.close_due() == [admission.exam_id]


def test_retry_does_not_wait_for_the_back_off(lab) -> None:
    lab.image()
    job = lab.claim()
    failing(lab, job, FailureClass.RETRY)
    assert lab.claim() is None
    with lab.store.begin() as session:
        retry(session, [job.id], lab.now)
    assert lab.claim() is not None


def test_cancel_ends_a_job_even_in_a_workers_hands(lab) -> None:
    lab.image(), lab.image()
    held = lab.claim()
    with lab.store.begin() as session:
        ids = [job.id for job in listing(session)]
        assert cancel(session, ids, lab.now) == 2
        assert cancel(session, ids, lab.now) == 0
    with lab.store.begin() as session:
        assert not finish(session, held, lab.now)
    assert lab.claim() is None
    assert reasons(lab) == [ErrorCode.CANCELLED, ErrorCode.CANCELLED]


def test_listing_by_state_and_kind(lab) -> None:
    lab.receive("pacs")
    lab.claim(JobKind.SCORE)
    with lab.store.read() as session:
        assert [j.kind for j in listing(session, states=[JobState.READY])] == [JobKind.DELIVER]
        assert [j.kind for j in listing(session, kinds=[JobKind.SCORE])] == [JobKind.SCORE]
        assert listing(session, [JobState.READY], [JobKind.SCORE]) == []
        assert len(listing(session)) == 2
        assert len(listing(session, limit=1)) == 1
        assert get(session, 99) is None


@pytest.mark.parametrize("claimers", [4])
def test_claimers_at_once_never_get_the_same_job(lab, claimers: int) -> None:
    for _ in range(20):
        lab.image()
    taken: list[int] = []
    start = threading.Barrier(claimers)

    def run(number: int) -> None:
        start.wait()
        # On PostgreSQL a claimer may find all free jobs in others' hands for a moment.
        while len(taken) < 20:
            with lab.store.begin() as session:
                job = claim(session, [JobKind.SCORE], f"worker-{number}", lab.now, 300)
            if job is not None:
                taken.append(job.id)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(claimers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 20


def test_an_expired_lease_is_taken_over_by_one_of_many(lab) -> None:
    lab.image()
    lab.claim(owner="dead")
    lab.wait(301)
    taken: list[Job] = []
    start = threading.Barrier(4)

    def run(number: int) -> None:
        start.wait()
        for _ in range(5):
            job = lab.claim(owner=f"worker-{number}")
            if job is not None:
                taken.append(job)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.deaths for job in taken] == [1]
