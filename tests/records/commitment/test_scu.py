"""Commitment requested of destinations: requests, reports and outcomes, on both databases."""

import itertools
import random
from datetime import timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.storage_commitment import Reference, Report
from qc_daemon.records import schema
from qc_daemon.records.commitment import scu
from qc_daemon.records.commitment.scu import CommitmentRequest, ReportOutcome
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received.receipts import Admission
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    JobKind,
    JobState,
    ObjectKind,
    OutgoingCommitment,
    OutgoingCommitmentItem,
)
from tests.support.records import Records

SERIAL = itertools.count(1)
POLICY = RetryPolicy(max_attempts=3)
PATIENCE = timedelta(minutes=10)
US = "1.2.840.10008.5.1.4.1.1.6.1"


def receive(records, *destinations: str, **changes) -> Admission:
    number = next(SERIAL)
    new = {"sop_instance_uid": f"1.2.7.{number}", "sha256": f"{number:064x}"}
    return records.receive(*destinations, **new | changes)


def deliver(records, *destinations: str, count: int = 1) -> list[int]:
    """Receive images and send them; the jobs' ids."""
    for _ in range(count):
        receive(records, *destinations)
    return send(records)


def send(records) -> list[int]:
    """Hand over every deliver job that is due."""
    ids = []
    while (job := records.claim(JobKind.DELIVER)) is not None:
        with records.store.begin() as session:
            assert jobs.mark_sent(session, job, records.now, records.now + scu.BATCH_DELAY)
        ids.append(job.id)
    return ids


def create_request(
    records, uid: str, destination: str = "pacs", *, is_accepted: bool = True, **more
) -> CommitmentRequest | None:
    with records.store.begin() as session:
        request = scu.create_request(
            session, destination, uid, records.now, PATIENCE, POLICY, random.Random(1), **more
        )
        if request is not None and is_accepted:
            scu.mark_accepted(session, request, records.now)
    return request


def record_report(
    records, uid: str, failures: dict[str, int] | None = None, by=("pacs",), only=None
) -> bool:
    """A report on every object of the request, or `only` these."""
    with records.store.begin() as session:
        uids = session.scalars(
            select(OutgoingCommitmentItem.sop_instance_uid)
            .join(OutgoingCommitment)
            .where(OutgoingCommitment.transaction_uid == uid)
        ).all()
        reasons = {each: 0 for each in uids if only is None or each in only} | (failures or {})
        report = Report(
            uid,
            tuple(Reference(US, each) for each, reason in reasons.items() if not reason),
            tuple((Reference(US, each), reason) for each, reason in reasons.items() if reason),
        )
        return scu.record_report(session, report, by)


def apply_reports(records, *lenient: str) -> list[ReportOutcome]:
    with records.store.begin() as session:
        return scu.apply_reports(session, records.now, POLICY, random.Random(1), lenient)


def job(records, job_id: int) -> Job:
    with records.store.read() as session:
        current = jobs.get(session, job_id)
    assert current is not None
    return current


def uid_of(records, job_id: int) -> str:
    with records.store.read() as session:
        return session.scalars(
            select(OutgoingCommitmentItem.sop_instance_uid)
            .where(OutgoingCommitmentItem.job_id == job_id)
            .distinct()
        ).one()


def later(records, **by: float) -> None:
    records.now += timedelta(**by)


def test_sent_job_is_done_when_committed(records) -> None:
    (sent,) = deliver(records, "pacs")
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == []
    later(records, seconds=2)
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == ["pacs"]
    request = create_request(records, "2.25.1")
    assert request is not None
    assert [each.sop_class_uid for each in request.references] == [US]
    assert create_request(records, "2.25.2") is None
    assert (job(records, sent).state, apply_reports(records)) == (JobState.SENT, [])
    assert record_report(records, "2.25.1")
    assert [each.state for each in apply_reports(records)] == [JobState.DONE]
    delivery = job(records, sent)
    assert (delivery.state, delivery.attempts, delivery.error_code) == (JobState.DONE, 0, None)


def test_report_counts_only_from_the_requested_destination(records) -> None:
    deliver(records, "pacs", "archive")
    create_request(records, "2.25.1", "pacs")
    create_request(records, "2.25.2", "archive")
    assert not record_report(records, "2.25.1", by=["archive"])
    assert not record_report(records, "2.25.1", by=[])
    assert not record_report(records, "2.25.3")
    assert apply_reports(records) == []
    assert record_report(records, "2.25.2", by=["pacs", "archive"])
    assert [each.destination for each in apply_reports(records)] == ["archive"]


def test_repeated_report_changes_nothing(records) -> None:
    (sent,) = deliver(records, "pacs")
    create_request(records, "2.25.1")
    assert record_report(records, "2.25.1")
    assert record_report(records, "2.25.1")
    assert len(apply_reports(records)) == 1
    assert record_report(records, "2.25.1", {uid_of(records, sent): 0x0112})
    assert apply_reports(records) == []
    assert job(records, sent).state is JobState.DONE


def test_object_in_both_lists_failed_and_unrequested_objects_are_ignored(records) -> None:
    (sent,) = deliver(records, "pacs")
    request = create_request(records, "2.25.1")
    assert request is not None
    report = Report(
        "2.25.1", (*request.references, Reference(US, "9.9")), ((request.references[0], 1),)
    )
    with records.store.begin() as session:
        assert scu.record_report(session, report, ["pacs"])
    (settled,) = apply_reports(records)
    assert settled.state is JobState.READY
    assert settled.error is not None
    assert settled.error.code is ErrorCode.COMMITMENT_REFUSED
    assert job(records, sent).attempts == 1


def test_object_missing_from_a_report_is_requested_again(records) -> None:
    first, second = deliver(records, "pacs", count=2)
    create_request(records, "2.25.1")
    record_report(records, "2.25.1", only=[uid_of(records, first)])
    apply_reports(records)
    later(records, minutes=10)
    again = create_request(records, "2.25.2")
    assert again is not None
    assert [each.sop_instance_uid for each in again.references] == [uid_of(records, second)]
    assert job(records, second).error_code == ErrorCode.COMMITMENT_AWAITED
    assert job(records, second).alarms == 1


def test_an_older_transaction_stays_valid_until_the_object_is_sent_again(records) -> None:
    (sent,) = deliver(records, "pacs")
    create_request(records, "2.25.1")
    later(records, minutes=10)
    create_request(records, "2.25.2")
    record_report(records, "2.25.1", {uid_of(records, sent): 0x0112})
    apply_reports(records)
    assert job(records, sent).state is JobState.READY
    later(records, hours=1)
    send(records)
    # Both were about the first sending.
    assert record_report(records, "2.25.2")
    assert apply_reports(records) == []
    assert job(records, sent).state is JobState.SENT
    later(records, seconds=3)
    create_request(records, "2.25.3")
    record_report(records, "2.25.3")
    apply_reports(records)
    assert job(records, sent).state is JobState.DONE


def test_latest_report_counts(records) -> None:
    (sent,) = deliver(records, "pacs")
    create_request(records, "2.25.1")
    uid = uid_of(records, sent)
    later(records, minutes=10)
    create_request(records, "2.25.2")
    record_report(records, "2.25.2")
    record_report(records, "2.25.1", {uid: 0x0112})
    assert [each.state for each in apply_reports(records)] == [JobState.DONE]


def test_attempts_are_used_up(records) -> None:
    (sent,) = deliver(records, "pacs")
    for attempt in range(1, 4):
        create_request(records, f"2.25.{attempt}")
        record_report(records, f"2.25.{attempt}", {uid_of(records, sent): 0x0110})
        apply_reports(records)
        assert job(records, sent).attempts == attempt
        later(records, hours=2)
        send(records)
    assert job(records, sent).state is JobState.DEAD
    assert job(records, sent).error_message == (
        "destination pacs does not commit to the object: processing failure (0110)"
    )


def test_a_request_names_so_many_and_each_object_once(records) -> None:
    receive(records, "pacs", sop_instance_uid="1.2.9")
    receive(records, "pacs", sop_instance_uid="1.2.9")
    receive(records, "pacs")
    assert len(send(records)) == 3
    request = create_request(records, "2.25.1", limit=2)
    assert request is not None
    assert len(request.references) == 1
    second = create_request(records, "2.25.2", limit=2)
    assert second is not None
    assert len(second.references) == 1
    assert not set(request.references) & set(second.references)


def test_later_contents_go_again_after_one_that_is_sent_again(records) -> None:
    receive(records, "pacs", sop_instance_uid="1.2.9")
    (first,) = send(records)
    create_request(records, "2.25.1")
    receive(records, "pacs", sop_instance_uid="1.2.9")
    (second,) = send(records)
    later(records, seconds=3)
    create_request(records, "2.25.2")
    record_report(records, "2.25.2")
    apply_reports(records)
    assert job(records, second).state is JobState.DONE
    record_report(records, "2.25.1", {"1.2.9": 0x0112})
    apply_reports(records)
    assert [job(records, each).state for each in (first, second)] == [JobState.READY] * 2
    later(records, hours=1)
    assert send(records) == [first, second]


def test_commitment_is_requested_for_report_objects_too(records) -> None:
    records.image()
    records.score_all()
    later(records, minutes=5)
    records.close_due()
    report_object = ReportObject(ObjectKind.SR, "1.2.3.99", "1.2.840.10008.5.1.4.1.1.88.34", b"sr")
    records.publish(report_object, sr=["pacs"])
    assert len(send(records)) == 1
    request = create_request(records, "2.25.1")
    assert request is not None
    assert request.references == (Reference("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.99"),)


def test_postponed_request_backs_off_and_records_the_reason(records) -> None:
    (sent,) = deliver(records, "pacs")
    error = QCError(ErrorCode.COMMITMENT_AWAITED, "destination pacs cannot be reached")
    waits = []
    for number in range(3):
        later(records, hours=2)
        request = create_request(records, f"2.25.{number}", is_accepted=False)
        assert request is not None
        with records.store.begin() as session:
            scu.postpone(session, request, error, records.now, POLICY, random.Random(1))
        waits.append(job(records, sent).not_before - records.now)
    assert waits[0] < waits[1] < waits[2]
    postponed = job(records, sent)
    assert (postponed.state, postponed.alarms) == (JobState.SENT, 3)
    assert postponed.error_message == error.message
    with records.store.read() as session:
        assert not scu.has_accepted(session, "pacs")
    # It may have heard us all the same.
    assert record_report(records, "2.25.0")
    assert [each.state for each in apply_reports(records)] == [JobState.DONE]


def test_clock_set_back_makes_requests_due(records) -> None:
    deliver(records, "pacs")
    later(records, days=-1)
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == ["pacs"]
    assert create_request(records, "2.25.1") is not None
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == []


def test_sent_jobs_can_be_cancelled_and_sent_again(records) -> None:
    first, second = deliver(records, "pacs", count=2)
    create_request(records, "2.25.1")
    with records.store.begin() as session:
        assert jobs.cancel(session, [first], records.now) == 1
        assert jobs.retry(session, [second], records.now) == 1
    record_report(records, "2.25.1")
    assert apply_reports(records) == []
    assert job(records, first).state is JobState.DEAD
    assert send(records) == [second]


def test_sent_jobs_are_accepted_without_commitment(records) -> None:
    first, second = deliver(records, "pacs", "other")
    with records.store.begin() as session:
        assert scu.accept_without(session, "pacs", records.now) == [first]
    assert job(records, first).state is JobState.DONE
    assert job(records, second).state is JobState.SENT


def test_lost_lease_marks_nothing_sent(records) -> None:
    receive(records, "pacs")
    claimed = records.claim(JobKind.DELIVER)
    with records.store.begin() as session:
        jobs.release_owner(session, "worker-1", records.now)
        assert not jobs.mark_sent(session, claimed, records.now, records.now)


def test_prune_deletes_requests_that_no_sent_job_waits_for(records) -> None:
    deliver(records, "pacs")
    for number in range(3):
        create_request(records, f"2.25.{number}")
        later(records, hours=2)
    with records.store.begin() as session:
        assert scu.prune(session, records.now) == 0
    record_report(records, "2.25.1")
    apply_reports(records)
    with records.store.begin() as session:
        assert scu.prune(session, records.now - timedelta(hours=7)) == 0
        assert scu.prune(session, records.now) == 2
        assert scu.has_accepted(session, "pacs")


def test_downgrade_makes_sent_jobs_ready(url: str) -> None:
    schema.upgrade(url)
    records = Records(Store(url))
    deliver(records, "pacs")
    create_request(records, "2.25.1")
    schema.downgrade(url, "0002")
    with pytest.raises(IntegrityError), records.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'sent'"))
    schema.upgrade(url)
    assert [each.state for each in records.jobs(JobKind.DELIVER)] == [JobState.READY]
    later(records, minutes=11)
    assert len(send(records)) == 1
    records.store.close()
