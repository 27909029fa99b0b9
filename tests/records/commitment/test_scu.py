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
from tests.records.conftest import Lab

SERIAL = itertools.count(1)
POLICY = RetryPolicy(max_attempts=3)
PATIENCE = timedelta(minutes=10)
US = "1.2.840.10008.5.1.4.1.1.6.1"


def receive(lab, *destinations: str, **changes) -> Admission:
    number = next(SERIAL)
    new = {"sop_instance_uid": f"1.2.7.{number}", "sha256": f"{number:064x}"}
    return lab.receive(*destinations, **new | changes)


def deliver(lab, *destinations: str, count: int = 1) -> list[int]:
    """Receive images and send them; the jobs' ids."""
    for _ in range(count):
        receive(lab, *destinations)
    return send(lab)


def send(lab) -> list[int]:
    """Hand over every deliver job that is due."""
    ids = []
    while (job := lab.claim(JobKind.DELIVER)) is not None:
        with lab.store.begin() as session:
            assert jobs.mark_sent(session, job, lab.now, lab.now + scu.BATCH_DELAY)
        ids.append(job.id)
    return ids


def ask(
    lab, uid: str, destination: str = "pacs", *, taken: bool = True, **more
) -> CommitmentRequest | None:
    with lab.store.begin() as session:
        asked = scu.create_request(
            session, destination, uid, lab.now, PATIENCE, POLICY, random.Random(1), **more
        )
        if asked is not None and taken:
            scu.mark_accepted(session, asked, lab.now)
    return asked


def tell(lab, uid: str, failures: dict[str, int] | None = None, by=("pacs",), only=None) -> bool:
    """A report of everything that was asked under the UID, or `only` those."""
    with lab.store.begin() as session:
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


def settle(lab, *lenient: str) -> list[ReportOutcome]:
    with lab.store.begin() as session:
        return scu.apply_reports(session, lab.now, POLICY, random.Random(1), lenient)


def job(lab, job_id: int) -> Job:
    with lab.store.read() as session:
        found = jobs.get(session, job_id)
    assert found is not None
    return found


def uid_of(lab, job_id: int) -> str:
    with lab.store.read() as session:
        return session.scalars(
            select(OutgoingCommitmentItem.sop_instance_uid)
            .where(OutgoingCommitmentItem.job_id == job_id)
            .distinct()
        ).one()


def later(lab, **by: float) -> None:
    lab.now += timedelta(**by)


def test_from_sent_to_done(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    with lab.store.read() as session:
        assert scu.destinations_due(session, lab.now) == []
    later(lab, seconds=2)
    with lab.store.read() as session:
        assert scu.destinations_due(session, lab.now) == ["pacs"]
    asked = ask(lab, "2.25.1")
    assert asked is not None
    assert [each.sop_class_uid for each in asked.references] == [US]
    assert ask(lab, "2.25.2") is None
    assert (job(lab, sent).state, settle(lab)) == (JobState.SENT, [])
    assert tell(lab, "2.25.1")
    assert [each.state for each in settle(lab)] == [JobState.DONE]
    done = job(lab, sent)
    assert (done.state, done.attempts, done.error_code) == (JobState.DONE, 0, None)


def test_only_who_was_asked_can_tell(lab) -> None:
    deliver(lab, "pacs", "archive")
    ask(lab, "2.25.1", "pacs")
    ask(lab, "2.25.2", "archive")
    assert not tell(lab, "2.25.1", by=["archive"])
    assert not tell(lab, "2.25.1", by=[])
    assert not tell(lab, "2.25.3")
    assert settle(lab) == []
    assert tell(lab, "2.25.2", by=["pacs", "archive"])
    assert [each.destination for each in settle(lab)] == ["archive"]


def test_told_again_and_again(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    ask(lab, "2.25.1")
    assert tell(lab, "2.25.1")
    assert tell(lab, "2.25.1")
    assert len(settle(lab)) == 1
    assert tell(lab, "2.25.1", {uid_of(lab, sent): 0x0112})
    assert settle(lab) == []
    assert job(lab, sent).state is JobState.DONE


def test_what_is_told_as_both_has_failed_and_what_was_not_asked_is_passed_over(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    asked = ask(lab, "2.25.1")
    assert asked is not None
    both = Report("2.25.1", (*asked.references, Reference(US, "9.9")), ((asked.references[0], 1),))
    with lab.store.begin() as session:
        assert scu.record_report(session, both, ["pacs"])
    (settled,) = settle(lab)
    assert settled.state is JobState.READY
    assert settled.error is not None
    assert settled.error.code is ErrorCode.COMMITMENT_REFUSED
    assert job(lab, sent).attempts == 1


def test_what_a_report_leaves_out_is_asked_again(lab) -> None:
    first, second = deliver(lab, "pacs", count=2)
    ask(lab, "2.25.1")
    tell(lab, "2.25.1", only=[uid_of(lab, first)])
    settle(lab)
    later(lab, minutes=10)
    again = ask(lab, "2.25.2")
    assert again is not None
    assert [each.sop_instance_uid for each in again.references] == [uid_of(lab, second)]
    assert job(lab, second).error_code == ErrorCode.COMMITMENT_AWAITED
    assert job(lab, second).alarms == 1


def test_an_older_transaction_stays_valid_until_the_object_is_sent_again(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    ask(lab, "2.25.1")
    later(lab, minutes=10)
    ask(lab, "2.25.2")
    tell(lab, "2.25.1", {uid_of(lab, sent): 0x0112})
    settle(lab)
    assert job(lab, sent).state is JobState.READY
    later(lab, hours=1)
    send(lab)
    # Both were about the first sending.
    assert tell(lab, "2.25.2")
    assert settle(lab) == []
    assert job(lab, sent).state is JobState.SENT
    later(lab, seconds=3)
    ask(lab, "2.25.3")
    tell(lab, "2.25.3")
    settle(lab)
    assert job(lab, sent).state is JobState.DONE


def test_the_latest_word_counts(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    ask(lab, "2.25.1")
    uid = uid_of(lab, sent)
    later(lab, minutes=10)
    ask(lab, "2.25.2")
    tell(lab, "2.25.2")
    tell(lab, "2.25.1", {uid: 0x0112})
    assert [each.state for each in settle(lab)] == [JobState.DONE]


def test_attempts_are_used_up(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    for attempt in range(1, 4):
        ask(lab, f"2.25.{attempt}")
        tell(lab, f"2.25.{attempt}", {uid_of(lab, sent): 0x0110})
        settle(lab)
        assert job(lab, sent).attempts == attempt
        later(lab, hours=2)
        send(lab)
    assert job(lab, sent).state is JobState.DEAD
    assert job(lab, sent).error_message == (
        "destination pacs does not commit to the object: processing failure (0110)"
    )


def test_a_request_names_so_many_and_each_object_once(lab) -> None:
    receive(lab, "pacs", sop_instance_uid="1.2.9")
    receive(lab, "pacs", sop_instance_uid="1.2.9")
    receive(lab, "pacs")
    assert len(send(lab)) == 3
    asked = ask(lab, "2.25.1", limit=2)
    assert asked is not None
    assert len(asked.references) == 1
    rest = ask(lab, "2.25.2", limit=2)
    assert rest is not None
    assert len(rest.references) == 1
    assert not set(asked.references) & set(rest.references)


def test_later_contents_go_again_after_one_that_is_sent_again(lab) -> None:
    receive(lab, "pacs", sop_instance_uid="1.2.9")
    (first,) = send(lab)
    ask(lab, "2.25.1")
    receive(lab, "pacs", sop_instance_uid="1.2.9")
    (second,) = send(lab)
    later(lab, seconds=3)
    ask(lab, "2.25.2")
    tell(lab, "2.25.2")
    settle(lab)
    assert job(lab, second).state is JobState.DONE
    tell(lab, "2.25.1", {"1.2.9": 0x0112})
    settle(lab)
    assert [job(lab, each).state for each in (first, second)] == [JobState.READY] * 2
    later(lab, hours=1)
    assert send(lab) == [first, second]


def test_our_own_objects_are_asked_about_too(lab) -> None:
    lab.image()
    lab.score_all()
    later(lab, minutes=5)
    lab.close_due()
    made = ReportObject(ObjectKind.SR, "1.2.3.99", "1.2.840.10008.5.1.4.1.1.88.34", b"sr")
    lab.publish(made, sr=["pacs"])
    assert len(send(lab)) == 1
    asked = ask(lab, "2.25.1")
    assert asked is not None
    assert asked.references == (Reference("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.99"),)


def test_put_off_grows_and_keeps_the_reason(lab) -> None:
    (sent,) = deliver(lab, "pacs")
    error = QCError(ErrorCode.COMMITMENT_AWAITED, "destination pacs cannot be reached")
    waits = []
    for number in range(3):
        later(lab, hours=2)
        asked = ask(lab, f"2.25.{number}", taken=False)
        assert asked is not None
        with lab.store.begin() as session:
            scu.postpone(session, asked, error, lab.now, POLICY, random.Random(1))
        waits.append(job(lab, sent).not_before - lab.now)
    assert waits[0] < waits[1] < waits[2]
    put_off = job(lab, sent)
    assert (put_off.state, put_off.alarms) == (JobState.SENT, 3)
    assert put_off.error_message == error.message
    with lab.store.read() as session:
        assert not scu.has_accepted(session, "pacs")
    # It may have heard us all the same.
    assert tell(lab, "2.25.0")
    assert [each.state for each in settle(lab)] == [JobState.DONE]


def test_a_clock_set_back_holds_nothing_up(lab) -> None:
    deliver(lab, "pacs")
    later(lab, days=-1)
    with lab.store.read() as session:
        assert scu.destinations_due(session, lab.now) == ["pacs"]
    assert ask(lab, "2.25.1") is not None
    with lab.store.read() as session:
        assert scu.destinations_due(session, lab.now) == []


def test_sent_jobs_can_be_cancelled_and_sent_again(lab) -> None:
    first, second = deliver(lab, "pacs", count=2)
    ask(lab, "2.25.1")
    with lab.store.begin() as session:
        assert jobs.cancel(session, [first], lab.now) == 1
        assert jobs.retry(session, [second], lab.now) == 1
    tell(lab, "2.25.1")
    assert settle(lab) == []
    assert job(lab, first).state is JobState.DEAD
    assert send(lab) == [second]


def test_waived_and_rejected(lab) -> None:
    first, second = deliver(lab, "pacs", "gone")
    with lab.store.begin() as session:
        assert scu.accept_without(session, "pacs", lab.now) == [first]
        error = QCError(ErrorCode.DELIVERY_REFUSED, "not in the settings")
        assert scu.reject(session, "gone", error, lab.now) == [second]
    assert job(lab, first).state is JobState.DONE
    rejected = job(lab, second)
    assert (rejected.state, rejected.error_code) == (
        JobState.QUARANTINED,
        ErrorCode.DELIVERY_REFUSED,
    )


def test_a_lease_that_is_lost_sends_nothing(lab) -> None:
    receive(lab, "pacs")
    claimed = lab.claim(JobKind.DELIVER)
    with lab.store.begin() as session:
        jobs.release_owner(session, "worker-1", lab.now)
        assert not jobs.mark_sent(session, claimed, lab.now, lab.now)


def test_forgotten_when_nobody_waits(lab) -> None:
    deliver(lab, "pacs")
    for number in range(3):
        ask(lab, f"2.25.{number}")
        later(lab, hours=2)
    with lab.store.begin() as session:
        assert scu.prune(session, lab.now) == 0
    tell(lab, "2.25.1")
    settle(lab)
    with lab.store.begin() as session:
        assert scu.prune(session, lab.now - timedelta(hours=7)) == 0
        assert scu.prune(session, lab.now) == 2
        assert scu.has_accepted(session, "pacs")


def test_an_earlier_version_sends_what_is_sent_again(url: str) -> None:
    schema.upgrade(url)
    lab = Lab(Store(url))
    deliver(lab, "pacs")
    ask(lab, "2.25.1")
    schema.downgrade(url, "0002")
    with pytest.raises(IntegrityError), lab.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'sent'"))
    schema.upgrade(url)
    assert [each.state for each in lab.jobs(JobKind.DELIVER)] == [JobState.READY]
    later(lab, minutes=11)
    assert len(send(lab)) == 1
    lab.store.close()
