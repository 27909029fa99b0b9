"""Admitting objects: new ones, the same again, other content, two at once."""

import threading
import time
from dataclasses import replace

import pytest

from qc_daemon.records.received.exams import exam_content
from qc_daemon.records.received.receipts import Admission, admit
from qc_daemon.records.received.revisions import facts
from qc_daemon.records.tables import JobKind, JobState


def test_a_new_object_has_a_score_job_and_one_delivery_for_each_destination(records) -> None:
    admission = records.receive("pacs", "archive")
    assert admission.kind == "new"
    jobs = {(job.kind, job.destination): job for job in records.jobs()}
    assert set(jobs) == {
        (JobKind.SCORE, ""),
        (JobKind.DELIVER, "pacs"),
        (JobKind.DELIVER, "archive"),
    }
    for job in jobs.values():
        assert job.state is JobState.READY
        assert job.revision_id == admission.revision_id
        assert job.exam_id == admission.exam_id
        assert job.revision == 1
    with records.store.read() as session:
        revision = facts(session, admission.revision_id)
    assert revision.sop_instance_uid == records.receipt.sop_instance_uid
    assert revision.study_instance_uid == records.receipt.study_instance_uid
    assert revision.path == admission.path == records.receipt.path
    assert revision.bundle_id == "model-1"
    assert revision.received_at == records.now


def test_error_after_admission_rolls_everything_back(records) -> None:
    def fail() -> None:
        with records.store.begin() as session:
            admit(
                session, records.receipt, source_destinations=["a"], bundle_id=None, now=records.now
            )
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert records.jobs() == []
    assert records.receive().kind == "new"


def test_same_bytes_again_insert_nothing(records) -> None:
    first = records.receive("pacs")
    before = records.jobs()
    records.wait(100)
    again = records.receive("pacs", "archive", path="elsewhere.dcm", association="assoc-2")
    assert again == Admission(
        "same", first.instance_id, first.revision_id, first.exam_id, first.path
    )
    assert records.jobs() == before


def test_the_same_bytes_do_not_open_a_closed_exam(records) -> None:
    records.receive()
    records.score_all()
    records.wait(61)
    assert len(records.close_due()) == 1
    records.receive()
    records.wait(61)
    assert records.close_due() == []


def test_other_bytes_under_the_same_uid_are_a_new_revision(records) -> None:
    first = records.receive("pacs")
    second = records.receive("pacs", sha256="b" * 64, path="b.dcm")
    assert second.kind == "revision"
    assert second.instance_id == first.instance_id
    assert second.revision_id != first.revision_id
    assert [(job.kind, job.revision) for job in records.jobs()] == [
        (JobKind.SCORE, 1),
        (JobKind.DELIVER, 1),
        (JobKind.SCORE, 2),
        (JobKind.DELIVER, 2),
    ]
    # The first bytes once more are known, though they are not the newest.
    assert records.receive().kind == "same"


def test_study_and_patient_make_the_exam(records) -> None:
    exams = {
        records.image().exam_id,
        records.image().exam_id,
        records.image(patient_id="P2").exam_id,
        records.image(study_instance_uid="9.9").exam_id,
        records.image(patient_id="").exam_id,
    }
    assert len(exams) == 4


def test_corrected_patient_id_opens_another_exam(records) -> None:
    first = records.receive()
    records.score_all(pixels="p")
    second = records.receive(sha256="b" * 64, patient_id="P2")
    assert second.exam_id != first.exam_id
    assert records.score_all(pixels="p") == ["header"]
    with records.store.read() as session:
        contents = [exam_content(session, exam) for exam in (first.exam_id, second.exam_id)]
    assert [content.patient_id for content in contents] == ["P1", "P2"]
    assert [len(content.findings) for content in contents] == [1, 1]
    assert contents[1].findings[0].revision.revision_id == second.revision_id


def test_the_exam_keeps_the_bundle_it_opened_with(records) -> None:
    exam = records.image().exam_id
    with records.store.begin() as session:
        receipt = replace(records.receipt, sop_instance_uid="1.9", sha256="9" * 64)
        admit(session, receipt, source_destinations=[], bundle_id="model-2", now=records.now)
    with records.store.read() as session:
        assert exam_content(session, exam).bundle_id == "model-1"


def test_text_that_a_database_cannot_store_is_sanitised(records) -> None:
    admission = records.receive(patient_id="P\x001\udcff", calling_ae="A\0")
    with records.store.read() as session:
        assert exam_content(session, admission.exam_id).patient_id == "P1?"


def test_two_associations_storing_the_same_object_at_once(records) -> None:
    admissions: list[Admission] = []
    start = threading.Barrier(4)

    def run(number: int) -> None:
        start.wait()
        admissions.append(records.receive("pacs", association=f"assoc-{number}"))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.kind for a in admissions) == ["new", "same", "same", "same"]
    assert len({a.revision_id for a in admissions}) == 1
    assert len(records.jobs()) == 2


def test_two_contents_of_one_object_at_once(records) -> None:
    admissions: list[Admission] = []
    start = threading.Barrier(4)

    def run(number: int) -> None:
        start.wait()
        admissions.append(records.receive(sha256=str(number) * 64, association=f"assoc-{number}"))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.kind for a in admissions) == ["new", "revision", "revision", "revision"]
    assert len({a.instance_id for a in admissions}) == 1
    assert sorted(job.revision for job in records.jobs()) == [1, 2, 3, 4]


def test_a_second_content_stored_twice_at_once_is_one_revision(records) -> None:
    records.receive()
    receipt = replace(records.receipt, sha256="b" * 64)
    second: list[Admission] = []

    def admitted() -> Admission:
        with records.store.begin() as session:
            return admit(
                session, receipt, source_destinations=["pacs"], bundle_id=None, now=records.now
            )

    thread = threading.Thread(target=lambda: second.append(admitted()))
    with records.store.begin() as session:
        first = admit(
            session, receipt, source_destinations=["pacs"], bundle_id=None, now=records.now
        )
        thread.start()
        # Time for the other to come to where it must wait for this transaction.
        time.sleep(0.5)
    thread.join()
    assert first.kind == "revision"
    assert [(a.kind, a.revision_id) for a in second] == [("same", first.revision_id)]
    assert len(records.jobs(JobKind.DELIVER)) == 1
