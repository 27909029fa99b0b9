"""Report objects are built once, stored with their deliveries and sent as stored."""

from dataclasses import replace

import pytest

from qc_daemon.records.queue.jobs import finish
from qc_daemon.records.results.reports import ReportObject, deliverable, latest_sr, publish
from qc_daemon.records.tables import JobKind, JobState, ObjectKind

SR = ReportObject(ObjectKind.SR, "2.25.1", "1.2.840.10008.5.1.4.1.1.88.34", b"sr\0bytes")
OVERLAY = ReportObject(ObjectKind.OVERLAY, "2.25.2", "1.2.840.10008.5.1.4.1.1.7", b"overlay")


@pytest.fixture
def exam(records) -> int:
    """An exam that is closed and waits for its report."""
    exam_id: int = records.receive("pacs").exam_id
    records.score_all()
    records.wait(60)
    records.close_due()
    return exam_id


def test_objects_are_queued_for_the_destinations_of_their_kind(records, exam: int) -> None:
    records.publish(SR, OVERLAY, sr=["pacs", "archive"], overlay=["archive"])
    jobs = [job for job in records.jobs(JobKind.DELIVER) if job.object_id is not None]
    sent = {}
    with records.store.read() as session:
        for job in jobs:
            sent_object = deliverable(session, job)
            sent[(sent_object.kind, job.destination)] = sent_object.payload
            assert sent_object.path is None
            assert sent_object.transfer_syntax_uid == "1.2.840.10008.1.2.1"
            assert (job.exam_id, job.revision) == (exam, 1)
    assert sent == {
        ("sr", "pacs"): SR.payload,
        ("sr", "archive"): SR.payload,
        ("overlay", "archive"): OVERLAY.payload,
    }


def test_a_received_object_is_delivered_from_the_spool(records, exam: int) -> None:
    job = records.claim(JobKind.DELIVER)
    with records.store.read() as session:
        sent_object = deliverable(session, job)
    assert (sent_object.kind, sent_object.payload, sent_object.path) == (
        "source",
        None,
        records.receipt.path,
    )
    assert sent_object.sop_instance_uid == records.receipt.sop_instance_uid
    assert sent_object.sop_class_uid == records.receipt.sop_class_uid
    assert sent_object.transfer_syntax_uid == records.receipt.transfer_syntax_uid


def test_only_deliver_jobs_deliver(records, exam: int) -> None:
    job = records.claim(JobKind.REPORT)
    with records.store.read() as session, pytest.raises(LookupError):
        deliverable(session, job)


def test_objects_deliveries_and_the_finished_job_are_one_transaction(records, exam: int) -> None:
    late = records.claim(JobKind.REPORT)
    records.wait(301)

    def publish_late() -> None:
        with records.store.begin() as session:
            publish(session, late, [SR], {"sr": ["pacs"]}, records.now)
            if not finish(session, late, records.now):
                raise TimeoutError

    records.publish(OVERLAY, overlay=["pacs"])
    with pytest.raises(TimeoutError):
        publish_late()
    with records.store.read() as session:
        assert latest_sr(session, exam, before=1) is None
    assert [job.object_id for job in records.jobs(JobKind.DELIVER)].count(None) == 1
    assert len(records.jobs(JobKind.DELIVER)) == 2


def test_publishing_again_keeps_the_first_bytes_and_adds_no_delivery(records, exam: int) -> None:
    job = records.claim(JobKind.REPORT)
    with records.store.begin() as session:
        first = publish(session, job, [SR], {"sr": ["pacs"]}, records.now)
    with records.store.begin() as session:
        other = replace(SR, payload=b"otherwise")
        assert publish(session, job, [other], {"sr": ["pacs"]}, records.now) == first
    deliveries = [job for job in records.jobs(JobKind.DELIVER) if job.object_id is not None]
    assert len(deliveries) == 1
    with records.store.read() as session:
        assert deliverable(session, deliveries[0]).payload == SR.payload
    assert deliveries[0].state is JobState.READY


def test_the_latest_sr_is_the_one_to_amend(records, exam: int) -> None:
    records.publish(SR, OVERLAY)
    records.image()
    records.score_all()
    records.wait(60)
    records.close_due()
    records.publish(replace(SR, sop_instance_uid="2.25.0", payload=b"amended"))
    with records.store.read() as session:
        last = latest_sr(session, exam, before=9)
        assert latest_sr(session, 99, before=9) is None
    assert last is not None
    assert (last.sop_instance_uid, last.report_revision) == ("2.25.0", 2)
    assert last.payload == b"amended"
