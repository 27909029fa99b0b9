"""Pledges: what destinations were asked to commit to, on both databases."""

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


def ask(
    records, uid: str, destination: str = "pacs", *, taken: bool = True, **more
) -> CommitmentRequest | None:
    with records.store.begin() as session:
        asked = scu.create_request(
            session, destination, uid, records.now, PATIENCE, POLICY, random.Random(1), **more
        )
        if asked is not None and taken:
            scu.mark_accepted(session, asked, records.now)
    return asked


def tell(
    records, uid: str, failures: dict[str, int] | None = None, by=("pacs",), only=None
) -> bool:
    """A report of everything that was asked under the UID, or `only` those."""
    with records.store.begin() as session:
        asked = session.scalars(
            select(OutgoingCommitmentItem.sop_instance_uid)
            .join(OutgoingCommitment)
            .where(OutgoingCommitment.transaction_uid == uid)
        ).all()
        said = {each: 0 for each in asked if only is None or each in only} | (failures or {})
        report = Report(
            uid,
            tuple(Reference(US, each) for each, reason in said.items() if not reason),
            tuple((Reference(US, each), reason) for each, reason in said.items() if reason),
        )
        return scu.record_report(session, report, by)


def settle(records, *lenient: str) -> list[ReportOutcome]:
    with records.store.begin() as session:
        return scu.apply_reports(session, records.now, POLICY, random.Random(1), lenient)


def job(records, job_id: int) -> Job:
    with records.store.read() as session:
        found = jobs.get(session, job_id)
    assert found is not None
    return found


def uid_of(records, job_id: int) -> str:
    with records.store.read() as session:
        return session.scalars(
            select(OutgoingCommitmentItem.sop_instance_uid)
            .where(OutgoingCommitmentItem.job_id == job_id)
            .distinct()
        ).one()


def later(records, **by: float) -> None:
    records.now += timedelta(**by)


def test_from_sent_to_done(records) -> None:
    (sent,) = deliver(records, "pacs")
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == []
    later(records, seconds=2)
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == ["pacs"]
    asked = ask(records, "2.25.1")
    assert asked is not None
    assert [each.sop_class_uid for each in asked.references] == [US]
    assert ask(records, "2.25.2") is None
    assert (job(records, sent).state, settle(records)) == (JobState.SENT, [])
    assert tell(records, "2.25.1")
    assert [each.state for each in settle(records)] == [JobState.DONE]
    done = job(records, sent)
    assert (done.state, done.attempts, done.error_code) == (JobState.DONE, 0, None)


def test_only_who_was_asked_can_tell(records) -> None:
    deliver(records, "pacs", "archive")
    ask(records, "2.25.1", "pacs")
    ask(records, "2.25.2", "archive")
    assert not tell(records, "2.25.1", by=["archive"])
    assert not tell(records, "2.25.1", by=[])
    assert not tell(records, "2.25.3")
    assert settle(records) == []
    assert tell(records, "2.25.2", by=["pacs", "archive"])
    assert [each.destination for each in settle(records)] == ["archive"]


def test_told_again_and_again(records) -> None:
    (sent,) = deliver(records, "pacs")
    ask(records, "2.25.1")
    assert tell(records, "2.25.1")
    assert tell(records, "2.25.1")
    assert len(settle(records)) == 1
    assert tell(records, "2.25.1", {uid_of(records, sent): 0x0112})
    assert settle(records) == []
    assert job(records, sent).state is JobState.DONE


def test_what_is_told_as_both_has_failed_and_what_was_not_asked_is_passed_over(records) -> None:
    (sent,) = deliver(records, "pacs")
    asked = ask(records, "2.25.1")
    assert asked is not None
    both = Report("2.25.1", (*asked.references, Reference(US, "9.9")), ((asked.references[0], 1),))
    with records.store.begin() as session:
        assert scu.record_report(session, both, ["pacs"])
    (settled,) = settle(records)
    assert settled.state is JobState.READY
    assert settled.error is not None
    assert settled.error.code is ErrorCode.COMMITMENT_REFUSED
    assert job(records, sent).attempts == 1


def test_what_a_report_leaves_out_is_asked_again(records) -> None:
    first, second = deliver(records, "pacs", count=2)
    ask(records, "2.25.1")
    tell(records, "2.25.1", only=[uid_of(records, first)])
    settle(records)
    later(records, minutes=10)
    again = ask(records, "2.25.2")
    assert again is not None
    assert [each.sop_instance_uid for each in again.references] == [uid_of(records, second)]
    assert job(records, second).error_code == ErrorCode.COMMITMENT_AWAITED
    assert job(records, second).alarms == 1


def test_an_older_transaction_stays_valid_until_the_object_is_sent_again(records) -> None:
    (sent,) = deliver(records, "pacs")
    ask(records, "2.25.1")
    later(records, minutes=10)
    ask(records, "2.25.2")
    tell(records, "2.25.1", {uid_of(records, sent): 0x0112})
    settle(records)
    assert job(records, sent).state is JobState.READY
    later(records, hours=1)
    send(records)
    # Both were about the first sending.
    assert tell(records, "2.25.2")
    assert settle(records) == []
    assert job(records, sent).state is JobState.SENT
    later(records, seconds=3)
    ask(records, "2.25.3")
    tell(records, "2.25.3")
    settle(records)
    assert job(records, sent).state is JobState.DONE


def test_the_latest_word_counts(records) -> None:
    (sent,) = deliver(records, "pacs")
    ask(records, "2.25.1")
    uid = uid_of(records, sent)
    later(records, minutes=10)
    ask(records, "2.25.2")
    tell(records, "2.25.2")
    tell(records, "2.25.1", {uid: 0x0112})
    assert [each.state for each in settle(records)] == [JobState.DONE]


def test_attempts_are_used_up(records) -> None:
    (sent,) = deliver(records, "pacs")
    for attempt in range(1, 4):
        ask(records, f"2.25.{attempt}")
        tell(records, f"2.25.{attempt}", {uid_of(records, sent): 0x0110})
        settle(records)
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
    asked = ask(records, "2.25.1", limit=2)
    assert asked is not None
    assert len(asked.references) == 1
    rest = ask(records, "2.25.2", limit=2)
    assert rest is not None
    assert len(rest.references) == 1
    assert not set(asked.references) & set(rest.references)


def test_later_contents_go_again_after_one_that_is_sent_again(records) -> None:
    receive(records, "pacs", sop_instance_uid="1.2.9")
    (first,) = send(records)
    ask(records, "2.25.1")
    receive(records, "pacs", sop_instance_uid="1.2.9")
    (second,) = send(records)
    later(records, seconds=3)
    ask(records, "2.25.2")
    tell(records, "2.25.2")
    settle(records)
    assert job(records, second).state is JobState.DONE
    tell(records, "2.25.1", {"1.2.9": 0x0112})
    settle(records)
    assert [job(records, each).state for each in (first, second)] == [JobState.READY] * 2
    later(records, hours=1)
    assert send(records) == [first, second]


def test_our_own_objects_are_asked_about_too(records) -> None:
    records.image()
    records.score_all()
    later(records, minutes=5)
    records.close_due()
    made = ReportObject(ObjectKind.SR, "1.2.3.99", "1.2.840.10008.5.1.4.1.1.88.34", b"sr")
    records.publish(made, sr=["pacs"])
    assert len(send(records)) == 1
    asked = ask(records, "2.25.1")
    assert asked is not None
    assert asked.references == (Reference("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.99"),)


def test_put_off_grows_and_keeps_the_reason(records) -> None:
    (sent,) = deliver(records, "pacs")
    error = QCError(ErrorCode.COMMITMENT_AWAITED, "destination pacs cannot be reached")
    waits = []
    for number in range(3):
        later(records, hours=2)
        asked = ask(records, f"2.25.{number}", taken=False)
        assert asked is not None
        with records.store.begin() as session:
            scu.postpone(session, asked, error, records.now, POLICY, random.Random(1))
        waits.append(job(records, sent).not_before - records.now)
    assert waits[0] < waits[1] < waits[2]
    put_off = job(records, sent)
    assert (put_off.state, put_off.alarms) == (JobState.SENT, 3)
    assert put_off.error_message == error.message
    with records.store.read() as session:
        assert not scu.has_accepted(session, "pacs")
    # It may have heard us all the same.
    assert tell(records, "2.25.0")
    assert [each.state for each in settle(records)] == [JobState.DONE]


def test_a_clock_set_back_holds_nothing_up(records) -> None:
    deliver(records, "pacs")
    later(records, days=-1)
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == ["pacs"]
    assert ask(records, "2.25.1") is not None
    with records.store.read() as session:
        assert scu.destinations_due(session, records.now) == []


def test_sent_jobs_can_be_cancelled_and_sent_again(records) -> None:
    first, second = deliver(records, "pacs", count=2)
    ask(records, "2.25.1")
    with records.store.begin() as session:
        assert jobs.cancel(session, [first], records.now) == 1
        assert jobs.retry(session, [second], records.now) == 1
    tell(records, "2.25.1")
    assert settle(records) == []
    assert job(records, first).state is JobState.DEAD
    assert send(records) == [second]


def test_waived_and_rejected(records) -> None:
    first, second = deliver(records, "pacs", "gone")
    with records.store.begin() as session:
        assert scu.accept_without(session, "pacs", records.now) == [first]
        error = QCError(ErrorCode.DELIVERY_REFUSED, "not in the settings")
        assert scu.reject(session, "gone", error, records.now) == [second]
    assert job(records, first).state is JobState.DONE
    rejected = job(records, second)
    assert (rejected.state, rejected.error_code) == (
        JobState.QUARANTINED,
        ErrorCode.DELIVERY_REFUSED,
    )


def test_a_lease_that_is_lost_sends_nothing(records) -> None:
    receive(records, "pacs")
    claimed = records.claim(JobKind.DELIVER)
    with records.store.begin() as session:
        jobs.release_owner(session, "worker-1", records.now)
        assert not jobs.mark_sent(session, claimed, records.now, records.now)


def test_forgotten_when_nobody_waits(records) -> None:
    deliver(records, "pacs")
    for number in range(3):
        ask(records, f"2.25.{number}")
        later(records, hours=2)
    with records.store.begin() as session:
        assert scu.prune(session, records.now) == 0
    tell(records, "2.25.1")
    settle(records)
    with records.store.begin() as session:
        assert scu.prune(session, records.now - timedelta(hours=7)) == 0
        assert scu.prune(session, records.now) == 2
        assert scu.has_accepted(session, "pacs")


def test_an_earlier_version_sends_what_is_sent_again(url: str) -> None:
    schema.upgrade(url)
    records = Records(Store(url))
    deliver(records, "pacs")
    ask(records, "2.25.1")
    schema.downgrade(url, "0002")
    with pytest.raises(IntegrityError), records.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'sent'"))
    schema.upgrade(url)
    assert [each.state for each in records.jobs(JobKind.DELIVER)] == [JobState.READY]
    later(records, minutes=11)
    assert len(send(records)) == 1
    records.store.close()
