"""When an exam closes, and what there is to tell of it."""

import random
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue.jobs import fail
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.exams import end_association, exam_content, open_count, touch
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.tables import Exam, ExamOutcome, ExamState, JobKind, JobState, ObjectKind


def outcome(lab, exam_id: int) -> tuple[str, str | None]:
    with lab.store.read() as session:
        row = session.execute(select(Exam.state, Exam.outcome).where(Exam.id == exam_id)).one()
    return row.state, row.outcome


def content(lab, exam_id: int):
    with lab.store.read() as session:
        return exam_content(session, exam_id)


def reports(lab) -> list[int]:
    return [job.revision for job in lab.jobs(JobKind.REPORT)]


def test_closes_when_quiet_long_enough_and_asks_for_a_report(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    lab.wait(59.9)
    assert lab.close_due() == []
    lab.wait(0.1)
    assert lab.close_due() == [exam]
    assert outcome(lab, exam) == (ExamState.CLOSED, ExamOutcome.REPORT)
    (job,) = lab.jobs(JobKind.REPORT)
    assert (job.exam_id, job.revision, job.state) == (exam, 1, JobState.READY)
    assert lab.close_due() == []


def test_each_object_starts_the_quiet_time_anew(lab) -> None:
    exam = lab.image().exam_id
    lab.wait(50)
    lab.image()
    lab.score_all()
    lab.wait(50)
    assert lab.close_due() == []
    lab.wait(10)
    assert lab.close_due() == [exam]


def test_an_open_association_holds_the_exam_until_it_ends(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    for token in ("a", "b", "a"):
        with lab.store.begin() as session:
            touch(session, token, exam, lab.now, lab.now + timedelta(hours=1))
    lab.wait(600)
    assert lab.close_due() == []
    with lab.store.begin() as session:
        end_association(session, "a")
    assert lab.close_due() == []
    with lab.store.begin() as session:
        end_association(session, "b")
        end_association(session, "never-seen")
    assert lab.close_due() == [exam]


def test_an_association_lost_without_a_word_holds_it_only_until_it_expires(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    with lab.store.begin() as session:
        touch(session, "a", exam, lab.now, lab.now + timedelta(seconds=100))
        touch(session, "a", exam, lab.now, lab.now + timedelta(seconds=200))
    lab.wait(199)
    assert lab.close_due() == []
    lab.wait(1)
    assert lab.close_due() == [exam]


def test_never_with_a_score_job_to_do_or_running(lab) -> None:
    exam = lab.image().exam_id
    lab.wait(300 * 60)
    assert lab.close_due() == []
    job = lab.claim(JobKind.SCORE)
    assert lab.close_due() == []
    error = QCError(ErrorCode.BUNDLE_INCOMPLETE, "no weights")
    with lab.store.begin() as session:
        fail(session, job, error, lab.now, RetryPolicy(), random.Random(1))
    assert lab.close_due() == []
    lab.wait(3600)
    lab.score_all()
    assert lab.close_due() == [exam]


def test_object_whose_file_is_gone_holds_back_no_other_for_ever(lab) -> None:
    """The exam closes without it after the longest time; found again, it amends the report."""
    exam = lab.image().exam_id
    lab.score_all()
    lab.image()
    job = lab.claim(JobKind.SCORE)
    error = QCError(ErrorCode.SPOOL_MISSING, "the received file is gone from the spool")
    with lab.store.begin() as session:
        fail(session, job, error, lab.now, RetryPolicy(), random.Random(1))
    lab.wait(200 * 60)
    assert lab.close_due() == []
    lab.wait(41 * 60)
    assert lab.close_due() == [exam]
    assert outcome(lab, exam) == (ExamState.CLOSED, ExamOutcome.REPORT)
    lab.score_all()
    assert outcome(lab, exam)[0] == ExamState.OPEN
    assert lab.close_due() == [exam]
    assert reports(lab) == [1, 2]


def test_open_too_long_it_closes_though_an_association_is_there(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    with lab.store.begin() as session:
        touch(session, "a", exam, lab.now, lab.now + timedelta(days=1))
    lab.wait(240 * 60 - 1)
    assert lab.close_due() == []
    lab.wait(1)
    assert lab.close_due() == [exam]


def test_a_delivery_that_waits_does_not_hold_it(lab) -> None:
    exam = lab.receive("pacs").exam_id
    lab.score_all()
    lab.wait(60)
    assert lab.close_due() == [exam]


def test_one_exam_does_not_hold_another(lab) -> None:
    first = lab.image().exam_id
    lab.score_all()
    lab.image(patient_id="P2")
    lab.wait(60)
    with lab.store.read() as session:
        assert open_count(session) == 2
    assert lab.close_due() == [first]
    with lab.store.read() as session:
        assert open_count(session) == 1


def test_nothing_to_tell_is_recorded_and_asks_for_no_report(lab) -> None:
    exam = lab.image().exam_id
    job = lab.claim(JobKind.SCORE)
    error = QCError(ErrorCode.TRUNCATED, "5 of 9 bytes")
    with lab.store.begin() as session:
        fail(session, job, error, lab.now, RetryPolicy(), random.Random(1))
    lab.wait(60)
    assert lab.close_due() == [exam]
    assert outcome(lab, exam) == (ExamState.CLOSED, ExamOutcome.NOTHING_TO_TELL)
    assert reports(lab) == []


def test_a_late_image_opens_it_again_and_makes_an_amended_report(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    lab.wait(60)
    lab.close_due()
    lab.publish(ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one"))
    assert lab.image().exam_id == exam
    assert outcome(lab, exam) == (ExamState.OPEN, None)
    lab.wait(60)
    lab.score_all()
    assert lab.close_due() == [exam]
    assert reports(lab) == [1, 2]
    told = content(lab, exam)
    assert told.report_revision == 2
    assert told.previous_sr_uids == ("2.25.1",)
    assert len(told.findings) == 2


def test_opened_again_it_has_its_full_time_again(lab) -> None:
    lab.image()
    lab.score_all()
    lab.wait(60)
    lab.close_due()
    lab.wait(300 * 60)
    lab.image()
    lab.score_all()
    lab.wait(59)
    assert lab.close_due() == []


def test_another_header_alone_makes_no_amended_report(lab) -> None:
    exam = lab.receive().exam_id
    lab.score_all(pixels="p")
    lab.wait(60)
    lab.close_due()
    lab.receive(sha256="b" * 64)
    lab.score_all(pixels="p")
    lab.wait(60)
    assert lab.close_due() == [exam]
    assert outcome(lab, exam) == (ExamState.CLOSED, ExamOutcome.UNCHANGED)
    assert reports(lab) == [1]


def test_other_content_under_the_same_uid_replaces_what_was_told(lab) -> None:
    exam = lab.receive().exam_id
    lab.score_all(pixels="p")
    lab.wait(60)
    lab.close_due()
    second = lab.receive(sha256="b" * 64, path="b.dcm")
    lab.score_all(pixels="q")
    lab.wait(60)
    assert lab.close_due() == [exam]
    assert reports(lab) == [1, 2]
    (told,) = content(lab, exam).findings
    assert told.finding["revision"] == 2
    assert told.revision.revision_id == second.revision_id
    assert told.revision.path == "b.dcm"


def test_a_content_that_cannot_be_read_leaves_what_was_told(lab) -> None:
    exam = lab.receive().exam_id
    lab.score_all()
    lab.receive(sha256="b" * 64)
    job = lab.claim(JobKind.SCORE)
    error = QCError(ErrorCode.TRUNCATED, "5 of 9 bytes")
    with lab.store.begin() as session:
        fail(session, job, error, lab.now, RetryPolicy(), random.Random(1))
    (told,) = content(lab, exam).findings
    assert told.revision.number == 1


def test_content_is_ordered_by_object_frame_and_region(lab) -> None:
    exam = lab.image(sop_instance_uid="1.2").exam_id
    lab.image(sop_instance_uid="1.1")
    lab.score_all(count=3)
    told = content(lab, exam)
    assert [(f.revision.sop_instance_uid, f.finding["frame"]) for f in told.findings] == [
        (uid, frame) for uid in ("1.1", "1.2") for frame in (1, 2, 3)
    ]
    assert (told.study_instance_uid, told.patient_id) == ("1.2.3", "P1")
    assert len({f.finding_id for f in told.findings}) == 6


def test_no_such_exam(lab) -> None:
    with pytest.raises(LookupError):
        content(lab, 99)


def test_closers_at_once_ask_for_one_report(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    lab.wait(60)
    closed: list[int] = []
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        closed.extend(lab.close_due())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert closed == [exam]
    assert reports(lab) == [1]


def test_an_object_that_comes_while_its_exam_closes_is_told(lab) -> None:
    """Whichever is first: closed without it and opened again, or not closed at all."""
    for number in range(5):
        patient = f"P{number}"
        exam = lab.image(patient_id=patient).exam_id
        lab.score_all()
        lab.wait(60)
        start = threading.Barrier(2)

        def close(start: threading.Barrier = start) -> None:
            start.wait()
            lab.close_due()

        thread = threading.Thread(target=close)
        thread.start()
        start.wait()
        lab.image(patient_id=patient)
        thread.join()
        assert outcome(lab, exam) == (ExamState.OPEN, None)
        lab.wait(60)
        lab.score_all()
        assert lab.close_due() == [exam]
        assert len(content(lab, exam).findings) == 2
