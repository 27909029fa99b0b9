"""Why exams were closed, by a person too, and how far each has come."""

import random
from datetime import timedelta

import pytest
from sqlalchemy import select

from detector.errors import ErrorCode, QCError
from qc_daemon.records import listings
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import finish
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import progress
from qc_daemon.records.received.exams import close_now, exam_content, hold_open
from qc_daemon.records.received.progress import DeliveryCount
from qc_daemon.records.results import measurements
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.tables import ClosedBy, Exam, ExamOutcome, JobKind, ObjectKind

STUDY = "1.2.3"
SR = "1.2.840.10008.5.1.4.1.1.88.33"


def cause(records) -> str | None:
    with records.store.read() as session:
        return session.scalars(select(Exam.closed_by)).one()


def close_by_person(records, exam_id: int) -> bool:
    with records.store.begin() as session:
        return close_now(session, exam_id, records.now)


def measure(records, *values: MeasuredValue, **changes: str) -> int:
    """A machine's report arrives and is read."""
    exam = records.image(sop_class_uid=SR, **changes).exam_id
    job = records.claim(JobKind.SCORE)
    with records.store.begin() as session:
        measurements.store(session, job.revision_id, values)
        assert finish(session, job, records.now)
    return exam


def test_progress_names_each_cause_of_closing(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    assert cause(records) is None
    records.wait(60)
    records.close_due()
    assert cause(records) == ClosedBy.QUIET
    records.image()
    assert cause(records) is None
    records.score_all()
    with records.store.begin() as session:
        hold_open(session, "a", exam, records.now, records.now + timedelta(days=1))
    records.wait(240 * 60)
    records.close_due()
    assert cause(records) == ClosedBy.MAX_OPEN


def test_a_person_closes_it_at_once_but_not_before_it_is_scored(records) -> None:
    exam = records.image().exam_id
    assert not close_by_person(records, exam)
    records.score_all()
    assert close_by_person(records, exam)
    assert cause(records) == ClosedBy.PERSON
    assert len(records.jobs(JobKind.REPORT)) == 1
    assert not close_by_person(records, exam)
    records.image()
    records.score_all()
    assert close_by_person(records, exam)
    assert [job.revision for job in records.jobs(JobKind.REPORT)] == [1, 2]


def test_progress_from_the_first_image_to_the_amended_report(records) -> None:
    with records.store.read() as session:
        assert progress.of_study(session, STUDY) == []
    records.receive("pacs", "archive")
    records.image(sop_instance_uid="1.2.3.4")
    with records.store.begin() as session:
        hold_open(session, "b", 1, records.now, records.now + timedelta(minutes=5))
    with records.store.read() as session:
        (now,) = progress.of_study(session, STUDY)
    assert (now.state, now.objects, now.scoring, now.associations) == ("open", 1, 2, 1)
    assert now.closed_at is None
    assert now.sent == (
        DeliveryCount("source", 0, "archive", "ready", 1),
        DeliveryCount("source", 0, "pacs", "ready", 1),
    )
    records.score_all()
    records.wait(600)
    records.close_due()
    records.publish(ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one"), sr=["pacs"])
    with records.store.read() as session:
        (then,) = progress.of_study(session, STUDY)
    assert (then.state, then.closed_by, then.outcome) == ("closed", "quiet", ExamOutcome.REPORT)
    assert (then.scoring, then.associations, then.report_revision) == (0, 0, 1)
    assert then.sent[-1] == DeliveryCount("sr", 1, "pacs", "ready", 1)


def status(records) -> tuple[str, int, int]:
    """The exam's status, in progress and in lists alike, with objects in quarantine and reports."""
    with records.store.read() as session:
        now = progress.of_exam(session, 1)
        (row,), _ = listings.exams(session, listings.ExamFilter())
    assert progress.exam_status(row) is progress.exam_status(now)
    assert (row.quarantined, row.reported) == (now.quarantined, now.reported)
    return progress.exam_status(now).value, now.quarantined, now.reported


def fail(records, kind: JobKind, code: ErrorCode) -> None:
    """Give up the next job of the kind."""
    job = records.claim(kind)
    assert job is not None
    with records.store.begin() as session:
        jobs.fail(session, job, QCError(code, "why"), records.now, RetryPolicy(), random.Random(1))


def test_status_of_an_exam_from_its_first_object_on(records) -> None:
    records.image()
    assert status(records) == ("waiting", 0, 0)
    fail(records, JobKind.SCORE, ErrorCode.TRUNCATED)
    assert status(records) == ("waiting", 1, 0)
    records.wait(60)
    records.close_due()
    assert status(records) == ("in quarantine", 1, 0)
    records.image()
    records.score_all()
    assert status(records) == ("waiting", 1, 0)
    records.wait(60)
    records.close_due()
    assert status(records) == ("report due", 1, 0)
    fail(records, JobKind.REPORT, ErrorCode.REPORT_INVALID)
    assert status(records) == ("report failed", 1, 0)
    with records.store.begin() as session:
        (report,) = jobs.listing(session, kinds=[JobKind.REPORT])
        jobs.retry(session, [report.id], records.now)
    records.publish(ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one"), sr=["pacs"])
    assert status(records) == ("reported", 1, 1)
    # A later content of the broken object is whole, and the report amended.
    records.receive(sop_instance_uid="1.2.3.4.1", sha256="f" * 64)
    records.score_all()
    assert status(records) == ("waiting", 0, 1)
    records.wait(60)
    records.close_due()
    records.publish(ReportObject(ObjectKind.SR, "2.25.2", "1.2.3", b"two"), sr=["pacs"])
    assert status(records) == ("reported", 0, 2)


def test_status_of_an_exam_without_a_picture(records) -> None:
    measure(records)
    records.wait(60)
    records.close_due()
    assert status(records) == ("nothing to report", 0, 0)


def test_late_machine_measurement_amends_the_report(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    records.wait(60)
    records.close_due()
    values = (MeasuredValue("A", "CRL", 62.5, "mm"), MeasuredValue("B", "CRL", 60.0, "mm"))
    assert measure(records, *values, sop_instance_uid="1.2.3.9") == exam
    records.wait(60)
    assert records.close_due() == [exam]
    assert [job.revision for job in records.jobs(JobKind.REPORT)] == [1, 2]
    with records.store.read() as session:
        content = exam_content(session, exam)
    (machine,) = content.measured
    assert machine.values == values
    assert machine.revision.sop_class_uid == SR
    assert len(content.findings) == 1
    # The same values again, in other bytes, are no news.
    measure(records, *values, sop_instance_uid="1.2.3.9")
    records.wait(60)
    records.close_due()
    assert [job.revision for job in records.jobs(JobKind.REPORT)] == [1, 2]
    with records.store.read() as session:
        assert exam_content(session, exam).measured[0].revision.number == 2


@pytest.mark.parametrize("has_values", [True, False])
def test_measurements_without_findings_queue_no_report(records, has_values: bool) -> None:
    values = (MeasuredValue(None, "GA", 87.0, "d"),) if has_values else ()
    exam = measure(records, *values)
    records.wait(60)
    assert records.close_due() == [exam]
    assert records.jobs(JobKind.REPORT) == []
