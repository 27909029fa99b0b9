"""Order of delivery: amendments after the report they amend, images before what refers to them, and
nothing waits for ever."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from detector.errors import ErrorCode, QCError
from qc_daemon.records.listings import count_failed_jobs
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job, claim
from qc_daemon.records.queue.order import Wait, waits
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.tables import JobKind, JobRow, JobState, ObjectKind

SR = ReportObject(ObjectKind.SR, "2.25.1", "1.2.840.10008.5.1.4.1.1.88.34", b"first")
AMENDED = replace(SR, sop_instance_uid="2.25.2", payload=b"amended")
OVERLAY = ReportObject(ObjectKind.OVERLAY, "2.25.3", "1.2.840.10008.5.1.4.1.1.7", b"overlay")
POLICY = RetryPolicy(max_attempts=15, backoff_seconds=600, backoff_cap_seconds=600)


def publish(records, *objects: ReportObject, to: str = "pacs") -> None:
    """Close the exam and publish its report."""
    records.score_all()
    records.wait(60)
    records.close_due()
    records.publish(*objects, sr=[to], overlay=[to])


def due(records, destinations: tuple[str, ...] | None = None) -> list[Job]:
    """All jobs that are due, claimed."""
    claimed = []
    with records.store.begin() as session:
        while job := claim(
            session, [JobKind.DELIVER], "w", records.now, 300, destinations=destinations
        ):
            claimed.append(job)
    return claimed


def fail(records, job: Job, code: ErrorCode = ErrorCode.DELIVERY_RESOURCES) -> None:
    with records.store.begin() as session:
        jobs.fail(session, job, QCError(code, "no"), records.now, POLICY, random.Random(1))


def end(records, job: Job, state: JobState) -> None:
    with records.store.begin() as session:
        match state:
            case JobState.DONE:
                jobs.finish(session, job, records.now)
            case JobState.SENT:
                jobs.mark_sent(session, job, records.now, records.now + timedelta(hours=1))
            case JobState.DEAD:
                jobs.cancel(session, [job.id], records.now)
            case JobState.QUARANTINED:
                error = QCError(ErrorCode.DELIVERY_REFUSED, "no")
                jobs.fail(session, job, error, records.now, POLICY, random.Random(1))


@pytest.fixture
def exam_with_two_reports(records):
    """An exam whose report to the PACS is being tried again when its second one is made."""
    records.image()
    publish(records, SR)
    (first,) = due(records)
    fail(records, first)
    records.image()
    publish(records, AMENDED)
    return records


def test_second_report_waits_for_the_first(exam_with_two_reports) -> None:
    assert due(exam_with_two_reports) == []
    exam_with_two_reports.wait(600)
    (first,) = due(exam_with_two_reports)
    assert first.revision == 1
    assert due(exam_with_two_reports) == []
    end(exam_with_two_reports, first, JobState.DONE)
    assert [job.revision for job in due(exam_with_two_reports)] == [2]


@pytest.mark.parametrize("state", [JobState.SENT, JobState.DEAD, JobState.QUARANTINED])
def test_ended_job_delays_no_later_report(exam_with_two_reports, state: JobState) -> None:
    exam_with_two_reports.wait(600)
    (first,) = due(exam_with_two_reports)
    end(exam_with_two_reports, first, state)
    assert [job.revision for job in due(exam_with_two_reports)] == [2]


def test_another_kind_and_another_destination_do_not_wait(records) -> None:
    records.image()
    publish(records, SR)
    (first,) = due(records)
    fail(records, first)
    records.image()
    publish(records, replace(AMENDED, sop_instance_uid="2.25.4"), to="archive")
    assert [job.destination for job in due(records)] == ["archive"]
    records.image()
    publish(records, OVERLAY)
    (overlay,) = due(records)
    assert (overlay.destination, overlay.revision) == ("pacs", 3)


def test_images_are_sent_before_objects_that_refer_to_them(records) -> None:
    records.receive("pacs")
    publish(records, SR)
    (image,) = due(records)
    assert image.revision_id is not None
    assert due(records) == []
    end(records, image, JobState.DONE)
    assert [job.object_id for job in due(records)] == [1]


@pytest.mark.parametrize(
    "code",
    [ErrorCode.DELIVERY_UNREACHABLE, ErrorCode.DELIVERY_ABORTED, ErrorCode.SPOOL_MISSING],
)
def test_image_is_not_waited_for_after_three_failures(records, code: ErrorCode) -> None:
    records.receive("pacs")
    publish(records, SR)
    for _ in range(3):
        (image,) = due(records)
        assert image.revision_id is not None
        fail(records, image, code)
        if image.attempts + image.alarms < 2:
            assert due(records) == []
            records.wait(600)
    assert [job.object_id for job in due(records)] == [1]


def test_images_for_other_destinations_are_not_waited_for(records) -> None:
    records.receive("archive")
    publish(records, SR)
    assert [job.destination for job in due(records)] == ["archive", "pacs"]


def test_claim_takes_only_jobs_of_the_given_destinations(records) -> None:
    records.receive("pacs", "archive")
    assert [job.destination for job in due(records, ("archive",))] == ["archive"]
    assert [job.destination for job in due(records)] == ["pacs"]


def test_other_exams_do_not_wait(records) -> None:
    records.image()
    publish(records, SR)
    (first,) = due(records)
    fail(records, first)
    with records.store.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == first.id).values(revision=0))
    records.image(study_instance_uid="1.2.9", patient_id="P2")
    publish(records, AMENDED)
    assert len(due(records)) == 1


@pytest.mark.parametrize("end_as", [JobState.DEAD, JobState.READY])
def test_dependents_are_due_when_their_image_is_ended_or_retried(records, end_as) -> None:
    """The report was put behind the image's next try; a person then ends or retries the image."""
    records.receive("pacs")
    publish(records, SR)
    (image,) = due(records)
    fail(records, image)
    assert due(records) == []
    with records.store.begin() as session:
        if end_as is JobState.READY:
            jobs.retry(session, [image.id], records.now)
        else:
            jobs.cancel(session, [image.id], records.now)
    if end_as is JobState.READY:
        (image,) = due(records)
        end(records, image, JobState.DONE)
    assert [job.object_id for job in due(records)] == [1]


def due_ids(records) -> list[int]:
    return [job.id for job in due(records)]


def fail_three_times(records, code: ErrorCode) -> Job:
    """The one job that is due fails three times; nothing else is due before the third."""
    for failures in range(3):
        (job,) = due(records)
        fail(records, job, code)
        if failures < 2:
            assert due(records) == []
            records.wait(600)
    return job


@pytest.fixture
def corrected(records):
    """An image sent again by its sender, under the same UID, in another study, with its report."""
    records.receive("pacs", study_instance_uid="1.2.9", patient_id="P2")
    records.receive("pacs", sha256="1" * 64)
    records.score_all()
    records.wait(60)
    records.close_due()
    for uid in ("2.25.11", "2.25.12"):
        records.publish(replace(SR, sop_instance_uid=uid), sr=["pacs"])
    return records


@pytest.mark.parametrize(
    "code",
    [ErrorCode.DELIVERY_RESOURCES, ErrorCode.DELIVERY_FAILED, ErrorCode.SPOOL_MISSING],
)
def test_corrected_image_passes_one_that_failed_three_times(corrected, code: ErrorCode) -> None:
    first = fail_three_times(corrected, code)
    jobs_due = due(corrected)
    assert [(job.subject, job.revision) for job in jobs_due if job.revision_id] == [
        (first.subject, 2)
    ]
    second = next(job for job in jobs_due if job.revision_id)
    # Two contents of one object are never on their way at the same time.
    with corrected.store.begin() as session:
        jobs.renew(session, second, corrected.now, 1200)
    corrected.wait(600)
    assert first.id not in due_ids(corrected)
    fail(corrected, second)
    assert first.id in due_ids(corrected)


def test_corrected_image_waits_while_the_destination_is_away(corrected) -> None:
    first = fail_three_times(corrected, ErrorCode.DELIVERY_UNREACHABLE)
    corrected.wait(600)
    images = [job for job in due(corrected) if job.revision_id]
    assert [job.id for job in images] == [first.id]


def test_second_report_passes_one_that_failed_three_times(exam_with_two_reports) -> None:
    for _ in range(2):
        exam_with_two_reports.wait(600)
        (first,) = due(exam_with_two_reports)
        assert first.revision == 1
        fail(exam_with_two_reports, first)
    (second,) = due(exam_with_two_reports)
    assert second.revision == 2
    end(exam_with_two_reports, second, JobState.DONE)
    exam_with_two_reports.wait(600)
    # Under a UID of its own it replaces nothing.
    assert due_ids(exam_with_two_reports) == [first.id]


@pytest.mark.parametrize("end_as", [JobState.DEAD, JobState.QUARANTINED, JobState.DONE])
def test_dependents_in_another_exam_are_due_when_the_earlier_image_ends(corrected, end_as) -> None:
    """The corrected image was put behind the first, and its report behind it."""
    (first,) = due(corrected)
    fail(corrected, first)
    assert due(corrected) == []
    if end_as is not JobState.DEAD:
        with corrected.store.begin() as session:
            jobs.retry(session, [first.id], corrected.now)
        (first,) = due(corrected)
    end(corrected, first, end_as)
    due_now = due(corrected)
    reports = [job for job in due_now if job.object_id]
    (second,) = (job for job in due_now if job.revision_id)
    assert (second.subject, second.revision) == (first.subject, 2)
    # That of the first exam, which waits for no other image.
    assert [job.exam_id for job in reports] == [first.exam_id]
    end(corrected, second, JobState.DONE)
    assert [job.exam_id for job in due(corrected)] == [second.exam_id]


def test_waiting_jobs_name_what_they_wait_for(corrected) -> None:
    every = {job.id: job for job in corrected.jobs(JobKind.DELIVER)}
    with corrected.store.read() as session:
        waiting = waits(session, list(every))
    first, second = (job for job in every.values() if job.revision_id)
    own_report, report = (job for job in every.values() if job.object_id)
    assert waiting == {
        second.id: Wait(first.id, "an earlier revision"),
        own_report.id: Wait(first.id, "an image of its exam"),
        report.id: Wait(second.id, "an image of its exam"),
    }


def test_earlier_image_is_superseded_once_the_later_is_delivered(corrected) -> None:
    first = fail_three_times(corrected, ErrorCode.DELIVERY_RESOURCES)
    second = next(job for job in due(corrected) if job.revision_id)
    with corrected.store.begin() as session:
        assert not jobs.is_superseded(session, first)
        assert jobs.finish(session, second, corrected.now)
        assert jobs.supersede_earlier(session, second, corrected.now) == 1
        ended = jobs.get(session, first.id)
        # The destination has the later one: nobody needs to do anything.
        assert count_failed_jobs(session) == []
    assert (ended.state, ended.error_code) == (JobState.DEAD, ErrorCode.CANCELLED)
    assert "revision 2" in ended.error_message
    with corrected.store.begin() as session:
        jobs.retry(session, [first.id], corrected.now)
    again = next(job for job in due(corrected) if job.id == first.id)
    with corrected.store.begin() as session:
        assert jobs.is_superseded(session, again)
        assert jobs.supersede(session, again, corrected.now)
        assert jobs.get(session, first.id).state is JobState.DEAD


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_two_contents_are_not_claimed_at_the_same_moment(corrected) -> None:
    """Both are due; one claimer has not committed when the other asks."""
    fail_three_times(corrected, ErrorCode.DELIVERY_RESOURCES)
    corrected.wait(600)

    def claim_image(session) -> Job | None:
        while job := claim(session, [JobKind.DELIVER], "w", corrected.now, 300):
            if job.revision_id is not None:
                return job
        return None

    with corrected.store.begin() as one, corrected.store.begin() as other:
        assert claim_image(one) is not None
        assert claim_image(other) is None
