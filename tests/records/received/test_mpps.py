"""Exams that close because their modality said so (MPPS)."""

import random
from datetime import timedelta

import pytest

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue.jobs import fail
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import mpps
from qc_daemon.records.received.exams import hold_open
from qc_daemon.records.received.mpps import Change, Step
from qc_daemon.records.tables import ClosedBy, Exam, JobKind, StepStatus

STUDY = "1.2.3"
COMPLETED, DISCONTINUED = StepStatus.COMPLETED, StepStatus.DISCONTINUED


def begin(records, uid: str = "1.5", *instances: str, study: str = STUDY) -> bool:
    with records.store.begin() as session:
        return mpps.begin(session, Step(uid, study, instances, "MODALITY"), records.now)


def end(records, *instances: str, uid: str = "1.5", status: StepStatus = COMPLETED) -> Change:
    with records.store.begin() as session:
        return mpps.change(session, uid, status, instances, records.now)


def test_exam_closes_at_once_when_all_objects_of_its_step_are_scored(records) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.image(sop_instance_uid="1.2")
    records.score_all()
    assert records.close_due() == []
    end(records, "1.1", "1.2")
    assert records.close_due() == [exam]
    with records.store.read() as session:
        assert session.get(Exam, exam).closed_by == ClosedBy.PROCEDURE_STEP
    assert len(records.jobs(JobKind.REPORT)) == 1
    assert records.close_due() == []


def test_exam_waits_for_the_objects_of_its_step_and_their_scores(records) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.score_all()
    records.wait(1)
    end(records, "1.1", "1.2")
    records.wait(1)
    assert records.close_due() == []
    records.image(sop_instance_uid="1.2")
    assert records.close_due() == []
    records.score_all()
    assert records.close_due() == [exam]


def test_quarantined_object_delays_no_closing(records) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.image(sop_instance_uid="1.2")
    job = records.claim(JobKind.SCORE)
    error = QCError(ErrorCode.TRUNCATED, "5 of 9 bytes")
    with records.store.begin() as session:
        fail(session, job, error, records.now, RetryPolicy(), random.Random(1))
    records.score_all()
    end(records, "1.1", "1.2")
    assert records.close_due() == [exam]


def test_objects_that_never_come_leave_it_to_the_quiet_time(records) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.score_all()
    end(records, "1.1", "1.2")
    records.wait(59)
    assert records.close_due() == []
    records.wait(1)
    assert records.close_due() == [exam]


@pytest.mark.parametrize("status", [DISCONTINUED, StepStatus.IN_PROGRESS])
def test_a_step_that_is_not_completed_leaves_it_to_the_quiet_time(records, status) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.score_all()
    end(records, "1.1", status=status)
    assert records.close_due() == []
    records.wait(60)
    assert records.close_due() == [exam]


def test_completed_step_without_objects_closes_nothing(records) -> None:
    begin(records)
    records.image()
    records.score_all()
    end(records)
    assert records.close_due() == []


def test_all_steps_of_the_study_must_be_over(records) -> None:
    begin(records, "1.5")
    begin(records, "1.6")
    begin(records, "1.7")
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.image(sop_instance_uid="1.2")
    records.score_all()
    end(records, "1.1", uid="1.5")
    assert records.close_due() == []
    end(records, "1.9", uid="1.6", status=DISCONTINUED)
    assert records.close_due() == []
    end(records, "1.2", uid="1.7")
    assert records.close_due() == [exam]


def test_step_of_another_study_is_ignored(records) -> None:
    begin(records, study="1.2.4")
    records.image(sop_instance_uid="1.1")
    records.score_all()
    end(records, "1.1")
    assert records.close_due() == []


def test_an_association_that_stays_open_does_not_hold_it(records) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.score_all()
    with records.store.begin() as session:
        hold_open(session, "a", exam, records.now, records.now + timedelta(hours=1))
    end(records, "1.1")
    assert records.close_due() == [exam]


def test_a_late_object_that_no_step_names_has_its_quiet_time(records) -> None:
    """Else each of a row of late objects would make an amended report of its own."""
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.score_all()
    end(records, "1.1")
    records.wait(1)
    assert records.close_due() == [exam]
    records.wait(1)
    records.image(sop_instance_uid="1.8")
    records.score_all()
    assert records.close_due() == []
    records.wait(60)
    assert records.close_due() == [exam]


def test_an_object_that_no_step_names_but_came_before_their_end_holds_nothing_up(records) -> None:
    begin(records)
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.image(sop_instance_uid="1.8")
    records.score_all()
    records.wait(1)
    end(records, "1.1")
    assert records.close_due() == [exam]


def test_step_begins_once(records) -> None:
    assert begin(records)
    assert not begin(records)


def test_final_step_does_not_change(records) -> None:
    assert end(records, "1.1") is Change.UNKNOWN
    begin(records)
    assert end(records, "1.1", status=StepStatus.IN_PROGRESS) is Change.DONE
    assert end(records, "1.1", status=DISCONTINUED) is Change.DONE
    assert end(records, "1.1", status=COMPLETED) is Change.FINAL


def test_change_without_values_leaves_the_step(records) -> None:
    begin(records, "1.5", "1.1")
    exam = records.image(sop_instance_uid="1.1").exam_id
    records.score_all()
    with records.store.begin() as session:
        assert mpps.change(session, "1.5", COMPLETED, None, records.now) is Change.DONE
    assert records.close_due() == [exam]
