"""Order of delivery: amendments after the report they amend, images before what refers to them, and
nothing waits for ever."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job, claim
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
def amended_exam(records):
    """An exam whose report to the PACS is being tried again when an amended one is made."""
    records.image()
    publish(records, SR)
    (first,) = due(records)
    fail(records, first)
    records.image()
    publish(records, AMENDED)
    return records


def test_amendment_waits_for_the_earlier_report(amended_exam) -> None:
    assert due(amended_exam) == []
    amended_exam.wait(600)
    (first,) = due(amended_exam)
    assert first.revision == 1
    assert due(amended_exam) == []
    end(amended_exam, first, JobState.DONE)
    assert [job.revision for job in due(amended_exam)] == [2]


@pytest.mark.parametrize("state", [JobState.SENT, JobState.DEAD, JobState.QUARANTINED])
def test_ended_job_delays_no_amendment(amended_exam, state: JobState) -> None:
    amended_exam.wait(600)
    (first,) = due(amended_exam)
    end(amended_exam, first, state)
    assert [job.revision for job in due(amended_exam)] == [2]


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
