"""Storage commitment requests: who leases them, when their report is due, and what it says."""

import random
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from qc_daemon.dicom.storage_commitment import COMMITTED, Reference, Request
from qc_daemon.records.commitment import scp
from qc_daemon.records.commitment.scp import (
    REPORT_DELAY_SECONDS,
    Claim,
    DeliveryState,
    delivery_state,
)
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.tables import Commitment, CommitmentState, JobKind, JobRow, Revision

US = "1.2.840.10008.5.1.4.1.1.6.1"
WAITING, READY = CommitmentState.WAITING, CommitmentState.READY
POLICY = RetryPolicy(max_attempts=2, backoff_seconds=30)


def request(
    records, *uids: str, transaction: str = "1.9", by: str = "MODALITY", over: str = "a"
) -> bool:
    references = tuple(Reference(US, uid) for uid in uids)
    with records.store.begin() as session:
        return scp.record_request(
            session, Request(transaction, by, "127.0.0.1", over, references), records.now
        )


def claim(
    records, state: CommitmentState, over: str | None = None, owner: str = "w"
) -> Claim | None:
    with records.store.begin() as session:
        return scp.claim(session, state, owner, records.now, 60, association=over)


def claim_one(records, state: CommitmentState, over: str | None = None) -> Claim:
    claimed = claim(records, state, over)
    assert claimed is not None
    return claimed


def pending_items(records, mine: Claim, *destinations: str, is_permanent: bool = False):
    with records.store.read() as session:
        return scp.pending_items(session, mine, destinations, is_spool_permanent=is_permanent)


def record_decisions(records, mine: Claim, failures: dict[int, int]) -> bool:
    with records.store.begin() as session:
        return scp.record_decisions(session, mine, failures, records.now, 60)


def finish(records, mine: Claim, after: float = 5) -> bool:
    with records.store.begin() as session:
        return scp.finish_if_decided(session, mine, records.now + timedelta(seconds=after))


def end_association(records, association: str) -> None:
    with records.store.begin() as session:
        scp.end_association(session, association, records.now)


def make_ready(records, *uids: str, **options: str) -> None:
    """A request with all its objects committed."""
    request(records, *uids, **options)
    mine = claim_one(records, WAITING)
    assert record_decisions(records, mine, dict.fromkeys(range(len(uids)), COMMITTED))
    assert finish(records, mine)


def row(records) -> Commitment:
    with records.store.read() as session:
        return session.scalars(select(Commitment)).one()


def test_one_worker_at_a_time_checks_a_request_and_again_after_a_pause(records) -> None:
    assert request(records, "1.1")
    mine = claim_one(records, WAITING)
    assert claim(records, WAITING) is None
    assert not finish(records, mine, after=5)
    assert claim(records, WAITING) is None
    records.wait(5)
    assert claim_one(records, WAITING).id == mine.id


def test_dead_worker_loses_the_request_when_its_lease_ends(records) -> None:
    request(records, "1.1")
    dead = claim_one(records, WAITING)
    records.wait(59)
    assert claim(records, WAITING) is None
    records.wait(1)
    assert claim_one(records, WAITING).id == dead.id
    assert not record_decisions(records, dead, {0: COMMITTED})
    with records.store.begin() as session:
        assert not scp.mark_reported(session, dead, records.now)
        assert (
            scp.record_failed_report(session, dead, "", records.now, POLICY, random.Random())
            is None
        )


def test_clock_set_back_an_hour_delays_no_claim(records) -> None:
    request(records, "1.1")
    dead = claim_one(records, WAITING)
    records.wait(-3600)
    mine = claim_one(records, WAITING)
    assert mine.id == dead.id
    assert not finish(records, mine)
    records.wait(-3600)
    assert claim(records, WAITING) is not None


def test_recording_decisions_renews_the_lease_and_keeps_them(records) -> None:
    request(records, "1.1", "1.2")
    mine = claim_one(records, WAITING)
    records.wait(50)
    assert record_decisions(records, mine, {1: 0x0110})
    records.wait(50)
    assert claim(records, WAITING) is None
    assert [each.position for each in pending_items(records, mine, "pacs")] == [0]


def test_report_goes_over_its_own_association_only_for_a_while(records) -> None:
    make_ready(records, "1.1")
    assert claim(records, READY) is None
    assert claim_one(records, READY, over="a").transaction_uid == "1.9"
    assert claim(records, READY, over="b") is None
    records.wait(max(60, REPORT_DELAY_SECONDS))
    assert claim(records, READY) is not None


def test_report_is_due_at_once_when_its_association_ends(records) -> None:
    make_ready(records, "1.1")
    end_association(records, "a")
    assert claim(records, READY, over="a") is None
    assert claim(records, READY) is not None


def test_report_is_due_at_once_when_decided_after_its_association_ended(records) -> None:
    request(records, "1.1")
    mine = claim_one(records, WAITING)
    end_association(records, "a")
    record_decisions(records, mine, {0: COMMITTED})
    finish(records, mine)
    assert claim(records, READY) is not None


def test_open_states_of_an_association_until_reported(records) -> None:
    def open_states(association: str) -> set[CommitmentState]:
        with records.store.read() as session:
            return scp.open_states(session, association)

    assert not open_states("a")
    make_ready(records, "1.1")
    assert open_states("a") == {READY}
    request(records, "1.1", transaction="1.8")
    assert open_states("a") == {READY, WAITING}
    assert not open_states("b")
    mine = claim_one(records, READY, over="a")
    with records.store.begin() as session:
        assert scp.mark_reported(session, mine, records.now)
    assert open_states("a") == {WAITING}


def test_report_lists_committed_objects_and_failure_reasons(records) -> None:
    request(records, "1.1", "1.2", "1.3")
    mine = claim_one(records, WAITING)
    record_decisions(records, mine, {0: COMMITTED, 1: 0x0112, 2: COMMITTED})
    finish(records, mine)
    with records.store.read() as session:
        report = scp.compose_report(session, claim_one(records, READY, over="a"))
    assert report.transaction_uid == "1.9"
    assert report.committed == (Reference(US, "1.1"), Reference(US, "1.3"))
    assert report.failed == ((Reference(US, "1.2"), 0x0112),)


def test_failed_reports_are_counted_until_dead_and_requeue_resets_them(records) -> None:
    make_ready(records, "1.1")
    end_association(records, "a")
    for state in (READY, CommitmentState.DEAD):
        mine = claim_one(records, READY)
        with records.store.begin() as session:
            assert (
                scp.record_failed_report(
                    session, mine, "down", records.now, POLICY, random.Random(1)
                )
                is state
            )
        assert claim(records, READY) is None
        records.wait(60)
    assert (row(records).attempts, row(records).error_message) == (2, "down")
    with records.store.begin() as session:
        assert scp.requeue(session, [row(records).id, 99], records.now) == 1
        assert scp.requeue(session, [row(records).id], records.now) == 0
    assert claim_one(records, READY).attempts == 0


def test_mark_reported_records_the_time(records) -> None:
    make_ready(records, "1.1")
    mine = claim_one(records, READY, over="a")
    records.wait(1)
    with records.store.begin() as session:
        assert scp.mark_reported(session, mine, records.now)
    assert (row(records).state, row(records).reported_at) == ("reported", records.now)


def test_transaction_uid_is_unique_per_requester(records) -> None:
    assert request(records, "1.1")
    assert request(records, "1.2", by="OTHER")
    assert not request(records, "1.1")
    with pytest.raises(ValueError, match="other objects"):
        request(records, "1.3")


def test_repeated_request_is_reported_over_its_new_association(records) -> None:
    make_ready(records, "1.1")
    mine = claim_one(records, READY, over="a")
    with records.store.begin() as session:
        scp.mark_reported(session, mine, records.now)
    assert not request(records, "1.1", over="b")
    assert claim(records, READY) is None
    assert claim_one(records, READY, over="b").id == mine.id


def test_same_request_many_times_at_once_is_recorded_once(records) -> None:
    start = threading.Barrier(4)
    new: list[bool] = []

    def run() -> None:
        start.wait()
        new.append(request(records, "1.1", "1.2"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, False, False, True]
    assert len(pending_items(records, claim_one(records, WAITING), "pacs")) == 2


def test_one_of_many_claimers_gets_the_request(records) -> None:
    request(records, "1.1")
    start = threading.Barrier(4)
    claims: list[Claim | None] = []

    def run(number: int) -> None:
        start.wait()
        claims.append(claim(records, WAITING, owner=f"w{number}"))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in claims if each is not None]) == 1


def test_pending_items_say_failure_and_delivery_of_each_object(records) -> None:
    one = records.receive("pacs", "archive", sop_instance_uid="1.1", sha256="1" * 64)
    records.receive("pacs", sop_instance_uid="1.2", sha256="2" * 64, sop_class_uid="1.2.3")
    records.receive("pacs", sop_instance_uid="1.3", sha256="3" * 64)
    request(records, "1.1", "1.2", "1.3", "1.4")
    mine = claim_one(records, WAITING)
    first, conflict, never_sent, unknown = pending_items(records, mine, "pacs", "archive")
    assert (first.failure, first.delivery) == (None, DeliveryState.PENDING)
    assert [(file.revision_id, file.sha256) for file in first.files] == [
        (one.revision_id, "1" * 64)
    ]
    assert conflict.failure == 0x0119
    # Received before the archive was in the settings.
    assert (never_sent.failure, never_sent.delivery) == (0x0110, DeliveryState.IMPOSSIBLE)
    assert unknown.failure == 0x0112
    with records.store.begin() as session:
        session.execute(update(JobRow).where(JobRow.kind == JobKind.DELIVER).values(state="done"))
    assert pending_items(records, mine, "pacs", "archive")[0].delivery is DeliveryState.COMPLETE


def test_dropped_file_is_not_checked(records) -> None:
    records.receive("pacs", sop_instance_uid="1.1")
    request(records, "1.1")
    mine = claim_one(records, WAITING)
    (before,) = pending_items(records, mine, "pacs")
    with records.store.begin() as session:
        assert scp.is_in_spool(session, before.files[0])
        session.execute(update(Revision).values(dropped_at=records.now))
        assert not scp.is_in_spool(session, before.files[0])
    (after,) = pending_items(records, mine, "pacs")
    assert after.files == ()


@pytest.mark.parametrize(
    ("states", "destinations", "is_permanent", "delivery"),
    [
        ({}, (), True, DeliveryState.COMPLETE),
        ({}, (), False, DeliveryState.IMPOSSIBLE),
        ({"a": "done"}, ("a",), False, DeliveryState.COMPLETE),
        ({"a": "done", "b": "ready"}, ("a", "b"), False, DeliveryState.PENDING),
        ({"a": "done", "b": "leased"}, ("a", "b"), False, DeliveryState.PENDING),
        ({"a": "done", "b": "sent"}, ("a", "b"), False, DeliveryState.PENDING),
        ({"a": "dead", "b": "ready"}, ("a", "b"), False, DeliveryState.IMPOSSIBLE),
        ({"a": "quarantined"}, ("a",), True, DeliveryState.IMPOSSIBLE),
        ({"a": "done"}, ("a", "b"), False, DeliveryState.IMPOSSIBLE),
        ({"a": "done", "gone": "dead"}, ("a",), False, DeliveryState.COMPLETE),
    ],
)
def test_delivery_state_by_job_states(states, destinations, is_permanent, delivery) -> None:
    assert delivery_state(states, destinations, is_permanent) is delivery


@pytest.mark.parametrize(
    ("states", "destinations", "is_permanent", "delivery"),
    [
        ({"a": "done"}, (), False, DeliveryState.COMPLETE),
        ({"a": "ready"}, (), False, DeliveryState.PENDING),
        ({"a": "done", "b": "ready"}, (), False, DeliveryState.PENDING),
        ({"a": "done", "b": "dead"}, (), False, DeliveryState.IMPOSSIBLE),
        ({"a": "done"}, ("b",), False, DeliveryState.IMPOSSIBLE),
        ({"b": "done"}, ("b",), False, DeliveryState.COMPLETE),
        ({}, ("b",), True, DeliveryState.IMPOSSIBLE),
        # Routed to nobody: only a spool that keeps it for ever will do.
        ({}, (), False, DeliveryState.IMPOSSIBLE),
        ({}, (), True, DeliveryState.COMPLETE),
        # Routed to one that the settings no longer name.
        ({"gone": "done"}, (), False, DeliveryState.IMPOSSIBLE),
    ],
)
def test_delivery_state_counts_destinations_it_was_routed_to(
    states, destinations, is_permanent, delivery
) -> None:
    assert delivery_state(states, destinations, is_permanent, routed=("a", "b")) is delivery
