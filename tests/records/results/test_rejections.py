"""A rejection is kept once, with its note, its deliveries and who confirmed it."""

import pytest

from qc_daemon.records.results import rejections
from qc_daemon.records.results.rejections import RejectionRecord
from qc_daemon.records.results.reports import ReportObject, deliverable
from qc_daemon.records.tables import JobKind, ObjectKind

NOTE = ReportObject(ObjectKind.KEY_OBJECTS, "2.25.9", "1.2.840.10008.5.1.4.1.1.88.59", b"note")


def confirm(records, uid: str, note: ReportObject = NOTE, by: str = "Dr Lee") -> None:
    """As the command does: whoever was late rolls back."""
    with records.store.begin() as session:
        facts = rejections.newest_revision(session, uid)
        if not rejections.confirm(
            session, facts, note, ["pacs"], reason="111209", confirmed_by=by, now=records.now
        ):
            raise TimeoutError


def test_rejection_note_is_queued_and_the_person_recorded(records) -> None:
    admission = records.receive()
    uid = records.receipt.sop_instance_uid
    confirm(records, uid)
    with records.store.read() as session:
        rejection = RejectionRecord(uid, "111209", "Dr Lee", records.now, NOTE.sop_instance_uid)
        assert rejections.listing(session) == [rejection]
        assert rejections.of_instance(session, uid) == rejection
        assert rejections.of_instance(session, "1.9") is None
        assert rejections.count_notes(session, admission.exam_id) == 1
        (job,) = records.jobs(JobKind.DELIVER)
        assert (job.destination, job.exam_id) == ("pacs", admission.exam_id)
        sent = deliverable(session, job)
    assert (sent.kind, sent.payload) == ("key-objects", b"note")


def test_an_image_is_rejected_once(records) -> None:
    records.receive()
    uid = records.receipt.sop_instance_uid
    other = ReportObject(ObjectKind.KEY_OBJECTS, "2.25.10", NOTE.sop_class_uid, b"other")
    confirm(records, uid)
    with pytest.raises(TimeoutError):
        confirm(records, uid, other, by="Dr May")
    with records.store.read() as session:
        assert [each.confirmed_by for each in rejections.listing(session)] == ["Dr Lee"]
    assert len(records.jobs(JobKind.DELIVER)) == 1


def test_newest_revision_of_an_image_is_rejected(records) -> None:
    records.receive()
    records.receive(sha256="b" * 64, path="b.dcm")
    with records.store.read() as session:
        newest = rejections.newest_revision(session, records.receipt.sop_instance_uid)
        assert rejections.newest_revision(session, "1.9") is None
    assert newest is not None
    assert (newest.number, newest.sha256) == (2, "b" * 64)
