"""Why exams were closed, by a person too, and how far each has come."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from qc_daemon.records.queue.jobs import finish
from qc_daemon.records.received import progress
from qc_daemon.records.received.exams import close_now, exam_content, touch
from qc_daemon.records.received.progress import DeliveryCount
from qc_daemon.records.results import measurements
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.tables import ClosedBy, Exam, ExamOutcome, JobKind, ObjectKind

STUDY = "1.2.3"
SR = "1.2.840.10008.5.1.4.1.1.88.33"


def cause(lab) -> str | None:
    with lab.store.read() as session:
        return session.scalars(select(Exam.closed_by)).one()


def close_by_person(lab, exam_id: int) -> bool:
    with lab.store.begin() as session:
        return close_now(session, exam_id, lab.now)


def measure(lab, *values: MeasuredValue, **changes: str) -> int:
    """A machine's report arrives and is read."""
    exam = lab.image(sop_class_uid=SR, **changes).exam_id
    job = lab.claim(JobKind.SCORE)
    with lab.store.begin() as session:
        measurements.store(session, job.revision_id, values)
        assert finish(session, job, lab.now)
    return exam


def test_each_way_to_close_is_told(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    assert cause(lab) is None
    lab.wait(60)
    lab.close_due()
    assert cause(lab) == ClosedBy.QUIET
    lab.image()
    assert cause(lab) is None
    lab.score_all()
    with lab.store.begin() as session:
        touch(session, "a", exam, lab.now, lab.now + timedelta(days=1))
    lab.wait(240 * 60)
    lab.close_due()
    assert cause(lab) == ClosedBy.MAX_OPEN


def test_a_person_closes_it_at_once_but_not_before_it_is_scored(lab) -> None:
    exam = lab.image().exam_id
    assert not close_by_person(lab, exam)
    lab.score_all()
    assert close_by_person(lab, exam)
    assert cause(lab) == ClosedBy.PERSON
    assert len(lab.jobs(JobKind.REPORT)) == 1
    assert not close_by_person(lab, exam)
    lab.image()
    lab.score_all()
    assert close_by_person(lab, exam)
    assert [job.revision for job in lab.jobs(JobKind.REPORT)] == [1, 2]


def test_progress_from_the_first_image_to_the_amended_report(lab) -> None:
    with lab.store.read() as session:
        assert progress.of_study(session, STUDY) == []
    lab.receive("pacs", "archive")
    lab.image(sop_instance_uid="1.2.3.4")
    with lab.store.begin() as session:
        touch(session, "b", 1, lab.now, lab.now + timedelta(minutes=5))
    with lab.store.read() as session:
        (now,) = progress.of_study(session, STUDY)
    assert (now.state, now.objects, now.scoring, now.associations) == ("open", 1, 2, 1)
    assert now.closed_at is None
    assert now.sent == (
        DeliveryCount("source", 0, "archive", "ready", 1),
        DeliveryCount("source", 0, "pacs", "ready", 1),
    )
    lab.score_all()
    lab.wait(600)
    lab.close_due()
    lab.publish(ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one"), sr=["pacs"])
    with lab.store.read() as session:
        (then,) = progress.of_study(session, STUDY)
    assert (then.state, then.closed_by, then.outcome) == ("closed", "quiet", ExamOutcome.REPORT)
    assert (then.scoring, then.associations, then.report_revision) == (0, 0, 1)
    assert then.sent[-1] == DeliveryCount("sr", 1, "pacs", "ready", 1)


def test_what_a_machine_measured_late_amends_the_report(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    lab.wait(60)
    lab.close_due()
    values = (MeasuredValue("A", "CRL", 62.5, "mm"), MeasuredValue("B", "CRL", 60.0, "mm"))
    assert measure(lab, *values, sop_instance_uid="1.2.3.9") == exam
    lab.wait(60)
    assert lab.close_due() == [exam]
    assert [job.revision for job in lab.jobs(JobKind.REPORT)] == [1, 2]
    with lab.store.read() as session:
        told = exam_content(session, exam)
    (machine,) = told.measured
    assert machine.values == values
    assert machine.revision.sop_class_uid == SR
    assert len(told.findings) == 1
    # The same values again, in other bytes, are no news.
    measure(lab, *values, sop_instance_uid="1.2.3.9")
    lab.wait(60)
    lab.close_due()
    assert [job.revision for job in lab.jobs(JobKind.REPORT)] == [1, 2]
    with lab.store.read() as session:
        assert exam_content(session, exam).measured[0].revision.number == 2


@pytest.mark.parametrize("known", [True, False])
def test_measurements_alone_make_no_report(lab, known: bool) -> None:
    values = (MeasuredValue(None, "GA", 87.0, "d"),) if known else ()
    exam = measure(lab, *values)
    lab.wait(60)
    assert lab.close_due() == [exam]
    assert lab.jobs(JobKind.REPORT) == []
