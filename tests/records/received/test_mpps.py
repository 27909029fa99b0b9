"""Exams that close because their modality said so (MPPS)."""

import random
from datetime import timedelta

import pytest

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue.jobs import fail
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import mpps
from qc_daemon.records.received.exams import touch
from qc_daemon.records.received.mpps import Change, Step
from qc_daemon.records.tables import ClosedBy, Exam, JobKind, StepStatus

STUDY = "1.2.3"
COMPLETED, DISCONTINUED = StepStatus.COMPLETED, StepStatus.DISCONTINUED


def begin(lab, uid: str = "1.5", *made: str, study: str = STUDY) -> bool:
    with lab.store.begin() as session:
        return mpps.begin(session, Step(uid, study, made, "MODALITY"), lab.now)


def end(lab, *made: str, uid: str = "1.5", status: StepStatus = COMPLETED) -> Change:
    with lab.store.begin() as session:
        return mpps.change(session, uid, status, made, lab.now)


def test_closes_at_once_when_all_it_made_is_scored(lab) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.image(sop_instance_uid="1.2")
    lab.score_all()
    assert lab.close_due() == []
    end(lab, "1.1", "1.2")
    assert lab.close_due() == [exam]
    with lab.store.read() as session:
        assert session.get(Exam, exam).closed_by == ClosedBy.PROCEDURE_STEP
    assert len(lab.jobs(JobKind.REPORT)) == 1
    assert lab.close_due() == []


def test_waits_for_what_it_made_and_for_its_scores(lab) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.score_all()
    lab.wait(1)
    end(lab, "1.1", "1.2")
    lab.wait(1)
    assert lab.close_due() == []
    lab.image(sop_instance_uid="1.2")
    assert lab.close_due() == []
    lab.score_all()
    assert lab.close_due() == [exam]


def test_a_quarantined_object_holds_nothing_up(lab) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.image(sop_instance_uid="1.2")
    job = lab.claim(JobKind.SCORE)
    error = QCError(ErrorCode.TRUNCATED, "5 of 9 bytes")
    with lab.store.begin() as session:
        fail(session, job, error, lab.now, RetryPolicy(), random.Random(1))
    lab.score_all()
    end(lab, "1.1", "1.2")
    assert lab.close_due() == [exam]


def test_objects_that_never_come_leave_it_to_the_quiet_time(lab) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.score_all()
    end(lab, "1.1", "1.2")
    lab.wait(59)
    assert lab.close_due() == []
    lab.wait(1)
    assert lab.close_due() == [exam]


@pytest.mark.parametrize("status", [DISCONTINUED, StepStatus.IN_PROGRESS])
def test_a_step_that_is_not_completed_leaves_it_to_the_quiet_time(lab, status) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.score_all()
    end(lab, "1.1", status=status)
    assert lab.close_due() == []
    lab.wait(60)
    assert lab.close_due() == [exam]


def test_a_completed_step_that_made_nothing_says_nothing(lab) -> None:
    begin(lab)
    lab.image()
    lab.score_all()
    end(lab)
    assert lab.close_due() == []


def test_all_steps_of_the_study_must_be_over(lab) -> None:
    begin(lab, "1.5")
    begin(lab, "1.6")
    begin(lab, "1.7")
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.image(sop_instance_uid="1.2")
    lab.score_all()
    end(lab, "1.1", uid="1.5")
    assert lab.close_due() == []
    end(lab, "1.9", uid="1.6", status=DISCONTINUED)
    assert lab.close_due() == []
    end(lab, "1.2", uid="1.7")
    assert lab.close_due() == [exam]


def test_a_step_of_another_study_is_not_ours(lab) -> None:
    begin(lab, study="1.2.4")
    lab.image(sop_instance_uid="1.1")
    lab.score_all()
    end(lab, "1.1")
    assert lab.close_due() == []


def test_an_association_that_stays_open_does_not_hold_it(lab) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.score_all()
    with lab.store.begin() as session:
        touch(session, "a", exam, lab.now, lab.now + timedelta(hours=1))
    end(lab, "1.1")
    assert lab.close_due() == [exam]


def test_a_late_object_that_no_step_names_has_its_quiet_time(lab) -> None:
    """Else each of a row of late objects would make an amended report of its own."""
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.score_all()
    end(lab, "1.1")
    lab.wait(1)
    assert lab.close_due() == [exam]
    lab.wait(1)
    lab.image(sop_instance_uid="1.8")
    lab.score_all()
    assert lab.close_due() == []
    lab.wait(60)
    assert lab.close_due() == [exam]


def test_an_object_that_no_step_names_but_came_before_their_end_holds_nothing_up(lab) -> None:
    begin(lab)
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.image(sop_instance_uid="1.8")
    lab.score_all()
    lab.wait(1)
    end(lab, "1.1")
    assert lab.close_due() == [exam]


def test_begun_once(lab) -> None:
    assert begin(lab)
    assert not begin(lab)


def test_what_is_final_stays(lab) -> None:
    assert end(lab, "1.1") is Change.UNKNOWN
    begin(lab)
    assert end(lab, "1.1", status=StepStatus.IN_PROGRESS) is Change.DONE
    assert end(lab, "1.1", status=DISCONTINUED) is Change.DONE
    assert end(lab, "1.1", status=COMPLETED) is Change.FINAL


def test_silence_leaves_as_it_was(lab) -> None:
    begin(lab, "1.5", "1.1")
    exam = lab.image(sop_instance_uid="1.1").exam_id
    lab.score_all()
    with lab.store.begin() as session:
        assert mpps.change(session, "1.5", COMPLETED, None, lab.now) is Change.DONE
    assert lab.close_due() == [exam]
