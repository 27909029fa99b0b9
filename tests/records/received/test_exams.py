"""When an exam closes, and what there is to tell of it."""

import random
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from detector.errors import ErrorCode, QCError
from qc_daemon.records.queue.jobs import fail
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.exams import count_open, end_association, exam_content, hold_open
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.tables import Exam, ExamOutcome, ExamState, JobKind, JobState, ObjectKind


def outcome(records, exam_id: int) -> tuple[str, str | None]:
    with records.store.read() as session:
        row = session.execute(select(Exam.state, Exam.outcome).where(Exam.id == exam_id)).one()
    return row.state, row.outcome


def content(records, exam_id: int):
    with records.store.read() as session:
        return exam_content(session, exam_id)


def reports(records) -> list[int]:
    return [job.revision for job in records.jobs(JobKind.REPORT)]


def test_exam_closes_after_its_quiet_time_and_a_report_is_queued(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    records.wait(59.9)
    assert records.close_due() == []
    records.wait(0.1)
    assert records.close_due() == [exam]
    assert outcome(records, exam) == (ExamState.CLOSED, ExamOutcome.REPORT)
    (job,) = records.jobs(JobKind.REPORT)
    assert (job.exam_id, job.revision, job.state) == (exam, 1, JobState.READY)
    assert records.close_due() == []


def test_each_object_starts_the_quiet_time_anew(records) -> None:
    exam = records.image().exam_id
    records.wait(50)
    records.image()
    records.score_all()
    records.wait(50)
    assert records.close_due() == []
    records.wait(10)
    assert records.close_due() == [exam]


def test_an_open_association_holds_the_exam_until_it_ends(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    for token in ("a", "b", "a"):
        with records.store.begin() as session:
            hold_open(session, token, exam, records.now, records.now + timedelta(hours=1))
    records.wait(600)
    assert records.close_due() == []
    with records.store.begin() as session:
        end_association(session, "a")
    assert records.close_due() == []
    with records.store.begin() as session:
        end_association(session, "b")
        end_association(session, "never-seen")
    assert records.close_due() == [exam]


def test_lost_association_holds_the_exam_only_until_its_lease_expires(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    with records.store.begin() as session:
        hold_open(session, "a", exam, records.now, records.now + timedelta(seconds=100))
        hold_open(session, "a", exam, records.now, records.now + timedelta(seconds=200))
    records.wait(199)
    assert records.close_due() == []
    records.wait(1)
    assert records.close_due() == [exam]


def test_exam_does_not_close_while_a_score_job_is_ready_or_leased(records) -> None:
    exam = records.image().exam_id
    records.wait(300 * 60)
    assert records.close_due() == []
    job = records.claim(JobKind.SCORE)
    assert records.close_due() == []
    error = QCError(ErrorCode.BUNDLE_INCOMPLETE, "no weights")
    with records.store.begin() as session:
        fail(session, job, error, records.now, RetryPolicy(), random.Random(1))
    assert records.close_due() == []
    records.wait(3600)
    records.score_all()
    assert records.close_due() == [exam]


def test_object_without_file_delays_the_exam_only_until_the_maximum(records) -> None:
    """The exam closes without it after the longest time; found again, it amends the report."""
    exam = records.image().exam_id
    records.score_all()
    records.image()
    job = records.claim(JobKind.SCORE)
    error = QCError(ErrorCode.SPOOL_MISSING, "the received file is gone from the spool")
    with records.store.begin() as session:
        fail(session, job, error, records.now, RetryPolicy(), random.Random(1))
    records.wait(200 * 60)
    assert records.close_due() == []
    records.wait(41 * 60)
    assert records.close_due() == [exam]
    assert outcome(records, exam) == (ExamState.CLOSED, ExamOutcome.REPORT)
    records.score_all()
    assert outcome(records, exam)[0] == ExamState.OPEN
    assert records.close_due() == [exam]
    assert reports(records) == [1, 2]


def test_exam_closes_after_the_maximum_despite_an_association(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    with records.store.begin() as session:
        hold_open(session, "a", exam, records.now, records.now + timedelta(days=1))
    records.wait(240 * 60 - 1)
    assert records.close_due() == []
    records.wait(1)
    assert records.close_due() == [exam]


def test_waiting_delivery_does_not_hold_the_exam_open(records) -> None:
    exam = records.receive("pacs").exam_id
    records.score_all()
    records.wait(60)
    assert records.close_due() == [exam]


def test_one_exam_does_not_hold_another(records) -> None:
    first = records.image().exam_id
    records.score_all()
    records.image(patient_id="P2")
    records.wait(60)
    with records.store.read() as session:
        assert count_open(session) == 2
    assert records.close_due() == [first]
    with records.store.read() as session:
        assert count_open(session) == 1


def test_exam_without_findings_is_recorded_and_queues_no_report(records) -> None:
    exam = records.image().exam_id
    job = records.claim(JobKind.SCORE)
    error = QCError(ErrorCode.TRUNCATED, "5 of 9 bytes")
    with records.store.begin() as session:
        fail(session, job, error, records.now, RetryPolicy(), random.Random(1))
    records.wait(60)
    assert records.close_due() == [exam]
    assert outcome(records, exam) == (ExamState.CLOSED, ExamOutcome.NOTHING_TO_TELL)
    assert reports(records) == []


def test_late_image_reopens_the_exam_and_queues_an_amendment(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    records.wait(60)
    records.close_due()
    records.publish(ReportObject(ObjectKind.SR, "2.25.1", "1.2.3", b"one"))
    assert records.image().exam_id == exam
    assert outcome(records, exam) == (ExamState.OPEN, None)
    records.wait(60)
    records.score_all()
    assert records.close_due() == [exam]
    assert reports(records) == [1, 2]
    amended = content(records, exam)
    assert amended.report_revision == 2
    assert amended.previous_sr_uids == ("2.25.1",)
    assert len(amended.findings) == 2


def test_reopened_exam_has_its_full_quiet_time(records) -> None:
    records.image()
    records.score_all()
    records.wait(60)
    records.close_due()
    records.wait(300 * 60)
    records.image()
    records.score_all()
    records.wait(59)
    assert records.close_due() == []


def test_header_revision_alone_queues_no_amendment(records) -> None:
    exam = records.receive().exam_id
    records.score_all(pixels="p")
    records.wait(60)
    records.close_due()
    records.receive(sha256="b" * 64)
    records.score_all(pixels="p")
    records.wait(60)
    assert records.close_due() == [exam]
    assert outcome(records, exam) == (ExamState.CLOSED, ExamOutcome.UNCHANGED)
    assert reports(records) == [1]


def test_new_content_under_the_same_uid_replaces_the_reported_one(records) -> None:
    exam = records.receive().exam_id
    records.score_all(pixels="p")
    records.wait(60)
    records.close_due()
    second = records.receive(sha256="b" * 64, path="b.dcm")
    records.score_all(pixels="q")
    records.wait(60)
    assert records.close_due() == [exam]
    assert reports(records) == [1, 2]
    (scored,) = content(records, exam).findings
    assert scored.finding["revision"] == 2
    assert scored.revision.revision_id == second.revision_id
    assert scored.revision.path == "b.dcm"


def test_unreadable_content_leaves_the_reported_findings(records) -> None:
    exam = records.receive().exam_id
    records.score_all()
    records.receive(sha256="b" * 64)
    job = records.claim(JobKind.SCORE)
    error = QCError(ErrorCode.TRUNCATED, "5 of 9 bytes")
    with records.store.begin() as session:
        fail(session, job, error, records.now, RetryPolicy(), random.Random(1))
    (scored,) = content(records, exam).findings
    assert scored.revision.number == 1


def test_content_is_ordered_by_object_frame_and_region(records) -> None:
    exam = records.image(sop_instance_uid="1.2").exam_id
    records.image(sop_instance_uid="1.1")
    records.score_all(count=3)
    ordered = content(records, exam)
    assert [(f.revision.sop_instance_uid, f.finding["frame"]) for f in ordered.findings] == [
        (uid, frame) for uid in ("1.1", "1.2") for frame in (1, 2, 3)
    ]
    assert (ordered.study_instance_uid, ordered.patient_id) == ("1.2.3", "P1")
    assert len({f.finding_id for f in ordered.findings}) == 6


def test_no_such_exam(records) -> None:
    with pytest.raises(LookupError):
        content(records, 99)


def test_concurrent_closers_queue_one_report(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    records.wait(60)
    closed: list[int] = []
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        closed.extend(records.close_due())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert closed == [exam]
    assert reports(records) == [1]


def test_object_admitted_while_its_exam_closes_is_reported(records) -> None:
    """Whichever is first: closed without it and opened again, or not closed at all."""
    for number in range(5):
        patient = f"P{number}"
        exam = records.image(patient_id=patient).exam_id
        records.score_all()
        records.wait(60)
        start = threading.Barrier(2)

        def close(start: threading.Barrier = start) -> None:
            start.wait()
            records.close_due()

        thread = threading.Thread(target=close)
        thread.start()
        start.wait()
        records.image(patient_id=patient)
        thread.join()
        assert outcome(records, exam) == (ExamState.OPEN, None)
        records.wait(60)
        records.score_all()
        assert records.close_due() == [exam]
        assert len(content(records, exam).findings) == 2
