"""Storage commitment requests: who holds them, when their report is due, and what it says."""

import random
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from qc_daemon.dicom.storage_commitment import COMMITTED, Reference, Request
from qc_daemon.records.commitment import scp
from qc_daemon.records.commitment.scp import WATCH_SECONDS, Claim, Hold, held_by_all
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.tables import Commitment, CommitmentState, JobKind, JobRow, Revision

US = "1.2.840.10008.5.1.4.1.1.6.1"
WAITING, READY = CommitmentState.WAITING, CommitmentState.READY
POLICY = RetryPolicy(max_attempts=2, backoff_seconds=30)


def ask(
    records, *uids: str, transaction: str = "1.9", by: str = "MODALITY", over: str = "a"
) -> bool:
    references = tuple(Reference(US, uid) for uid in uids)
    with records.store.begin() as session:
        return scp.request(
            session, Request(transaction, by, "127.0.0.1", over, references), records.now
        )


def claim(
    records, state: CommitmentState, over: str | None = None, owner: str = "w"
) -> Claim | None:
    with records.store.begin() as session:
        return scp.claim(session, state, owner, records.now, 60, association=over)


def claimed(records, state: CommitmentState, over: str | None = None) -> Claim:
    found = claim(records, state, over)
    assert found is not None
    return found


def standings(records, mine: Claim, *destinations: str, for_ever: bool = False):
    with records.store.read() as session:
        return scp.standings(session, mine, destinations, kept_for_ever=for_ever)


def decide(records, mine: Claim, failures: dict[int, int]) -> bool:
    with records.store.begin() as session:
        return scp.decide(session, mine, failures, records.now, 60)


def settle(records, mine: Claim, after: float = 5) -> bool:
    with records.store.begin() as session:
        return scp.settle(session, mine, records.now + timedelta(seconds=after))


def association_ended(records, association: str) -> None:
    with records.store.begin() as session:
        scp.association_ended(session, association, records.now)


def ready(records, *uids: str, **asked: str) -> None:
    """A request with all its objects committed."""
    ask(records, *uids, **asked)
    mine = claimed(records, WAITING)
    assert decide(records, mine, dict.fromkeys(range(len(uids)), COMMITTED))
    assert settle(records, mine)


def row(records) -> Commitment:
    with records.store.read() as session:
        return session.scalars(select(Commitment)).one()


def test_looked_at_by_one_at_a_time_and_again_later(records) -> None:
    assert ask(records, "1.1")
    mine = claimed(records, WAITING)
    assert claim(records, WAITING) is None
    assert not settle(records, mine, after=5)
    assert claim(records, WAITING) is None
    records.wait(5)
    assert claimed(records, WAITING).id == mine.id


def test_who_dies_with_it_loses_it_when_the_lease_ends(records) -> None:
    ask(records, "1.1")
    dead = claimed(records, WAITING)
    records.wait(59)
    assert claim(records, WAITING) is None
    records.wait(1)
    assert claimed(records, WAITING).id == dead.id
    assert not decide(records, dead, {0: COMMITTED})
    with records.store.begin() as session:
        assert not scp.reported(session, dead, records.now)
        assert scp.not_reported(session, dead, "", records.now, POLICY, random.Random()) is None


def test_a_clock_set_back_an_hour_holds_nothing_up(records) -> None:
    ask(records, "1.1")
    dead = claimed(records, WAITING)
    records.wait(-3600)
    mine = claimed(records, WAITING)
    assert mine.id == dead.id
    assert not settle(records, mine)
    records.wait(-3600)
    assert claim(records, WAITING) is not None


def test_deciding_keeps_the_lease_and_what_was_decided(records) -> None:
    ask(records, "1.1", "1.2")
    mine = claimed(records, WAITING)
    records.wait(50)
    assert decide(records, mine, {1: 0x0110})
    records.wait(50)
    assert claim(records, WAITING) is None
    assert [each.position for each in standings(records, mine, "pacs")] == [0]


def test_left_to_its_association_for_a_while(records) -> None:
    ready(records, "1.1")
    assert claim(records, READY) is None
    assert claimed(records, READY, over="a").transaction_uid == "1.9"
    assert claim(records, READY, over="b") is None
    records.wait(max(60, WATCH_SECONDS))
    assert claim(records, READY) is not None


def test_due_at_once_when_its_association_ends(records) -> None:
    ready(records, "1.1")
    association_ended(records, "a")
    assert claim(records, READY, over="a") is None
    assert claim(records, READY) is not None


def test_due_at_once_when_ready_after_its_association_ended(records) -> None:
    ask(records, "1.1")
    mine = claimed(records, WAITING)
    association_ended(records, "a")
    decide(records, mine, {0: COMMITTED})
    settle(records, mine)
    assert claim(records, READY) is not None


def test_under_way_over_an_association_until_reported(records) -> None:
    def under_way(association: str) -> set[CommitmentState]:
        with records.store.read() as session:
            return scp.under_way(session, association)

    assert not under_way("a")
    ready(records, "1.1")
    assert under_way("a") == {READY}
    ask(records, "1.1", transaction="1.8")
    assert under_way("a") == {READY, WAITING}
    assert not under_way("b")
    mine = claimed(records, READY, over="a")
    with records.store.begin() as session:
        assert scp.reported(session, mine, records.now)
    assert under_way("a") == {WAITING}


def test_the_report_says_what_is_committed_and_why_not(records) -> None:
    ask(records, "1.1", "1.2", "1.3")
    mine = claimed(records, WAITING)
    decide(records, mine, {0: COMMITTED, 1: 0x0112, 2: COMMITTED})
    settle(records, mine)
    with records.store.read() as session:
        told = scp.report(session, claimed(records, READY, over="a"))
    assert told.transaction_uid == "1.9"
    assert told.committed == (Reference(US, "1.1"), Reference(US, "1.3"))
    assert told.failed == ((Reference(US, "1.2"), 0x0112),)


def test_attempts_are_counted_until_it_is_dead_and_requeued(records) -> None:
    ready(records, "1.1")
    association_ended(records, "a")
    for state in (READY, CommitmentState.DEAD):
        mine = claimed(records, READY)
        with records.store.begin() as session:
            assert (
                scp.not_reported(session, mine, "down", records.now, POLICY, random.Random(1))
                is state
            )
        assert claim(records, READY) is None
        records.wait(60)
    assert (row(records).attempts, row(records).error_message) == (2, "down")
    with records.store.begin() as session:
        assert scp.requeue(session, [row(records).id, 99], records.now) == 1
        assert scp.requeue(session, [row(records).id], records.now) == 0
    assert claimed(records, READY).attempts == 0


def test_reported_is_told_with_its_moment(records) -> None:
    ready(records, "1.1")
    mine = claimed(records, READY, over="a")
    records.wait(1)
    with records.store.begin() as session:
        assert scp.reported(session, mine, records.now)
    assert (row(records).state, row(records).reported_at) == ("reported", records.now)


def test_one_requester_is_not_another(records) -> None:
    assert ask(records, "1.1")
    assert ask(records, "1.2", by="OTHER")
    assert not ask(records, "1.1")
    with pytest.raises(ValueError, match="other objects"):
        ask(records, "1.3")


def test_asked_again_over_another_association_it_is_told_there(records) -> None:
    ready(records, "1.1")
    mine = claimed(records, READY, over="a")
    with records.store.begin() as session:
        scp.reported(session, mine, records.now)
    assert not ask(records, "1.1", over="b")
    assert claim(records, READY) is None
    assert claimed(records, READY, over="b").id == mine.id


def test_asked_by_many_at_once_it_is_one_request(records) -> None:
    start = threading.Barrier(4)
    new: list[bool] = []

    def run() -> None:
        start.wait()
        new.append(ask(records, "1.1", "1.2"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, False, False, True]
    assert len(standings(records, claimed(records, WAITING), "pacs")) == 2


def test_taken_by_one_of_many_claimers(records) -> None:
    ask(records, "1.1")
    start = threading.Barrier(4)
    taken: list[Claim | None] = []

    def run(number: int) -> None:
        start.wait()
        taken.append(claim(records, WAITING, owner=f"w{number}"))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in taken if each is not None]) == 1


def test_standing_of_each_object(records) -> None:
    one = records.receive("pacs", "archive", sop_instance_uid="1.1", sha256="1" * 64)
    records.receive("pacs", sop_instance_uid="1.2", sha256="2" * 64, sop_class_uid="1.2.3")
    records.receive("pacs", sop_instance_uid="1.3", sha256="3" * 64)
    ask(records, "1.1", "1.2", "1.3", "1.4")
    mine = claimed(records, WAITING)
    first, conflict, never_sent, unknown = standings(records, mine, "pacs", "archive")
    assert (first.failure, first.hold) == (None, Hold.WAITING)
    assert [(file.revision_id, file.sha256) for file in first.files] == [
        (one.revision_id, "1" * 64)
    ]
    assert conflict.failure == 0x0119
    # Received before the archive was in the settings.
    assert (never_sent.failure, never_sent.hold) == (0x0110, Hold.NEVER)
    assert unknown.failure == 0x0112
    with records.store.begin() as session:
        session.execute(update(JobRow).where(JobRow.kind == JobKind.DELIVER).values(state="done"))
    assert standings(records, mine, "pacs", "archive")[0].hold is Hold.ALL


def test_a_dropped_file_is_not_looked_for(records) -> None:
    records.receive("pacs", sop_instance_uid="1.1")
    ask(records, "1.1")
    mine = claimed(records, WAITING)
    (before,) = standings(records, mine, "pacs")
    with records.store.begin() as session:
        assert scp.still_kept(session, before.files[0])
        session.execute(update(Revision).values(dropped_at=records.now))
        assert not scp.still_kept(session, before.files[0])
    (after,) = standings(records, mine, "pacs")
    assert after.files == ()


@pytest.mark.parametrize(
    ("states", "destinations", "for_ever", "hold"),
    [
        ({}, (), True, Hold.ALL),
        ({}, (), False, Hold.NEVER),
        ({"a": "done"}, ("a",), False, Hold.ALL),
        ({"a": "done", "b": "ready"}, ("a", "b"), False, Hold.WAITING),
        ({"a": "done", "b": "leased"}, ("a", "b"), False, Hold.WAITING),
        ({"a": "done", "b": "sent"}, ("a", "b"), False, Hold.WAITING),
        ({"a": "dead", "b": "ready"}, ("a", "b"), False, Hold.NEVER),
        ({"a": "quarantined"}, ("a",), True, Hold.NEVER),
        ({"a": "done"}, ("a", "b"), False, Hold.NEVER),
        ({"a": "done", "gone": "dead"}, ("a",), False, Hold.ALL),
    ],
)
def test_held_by_all(states, destinations, for_ever, hold) -> None:
    assert held_by_all(states, destinations, for_ever) is hold


@pytest.mark.parametrize(
    ("states", "destinations", "for_ever", "hold"),
    [
        ({"a": "done"}, (), False, Hold.ALL),
        ({"a": "ready"}, (), False, Hold.WAITING),
        ({"a": "done", "b": "ready"}, (), False, Hold.WAITING),
        ({"a": "done", "b": "dead"}, (), False, Hold.NEVER),
        ({"a": "done"}, ("b",), False, Hold.NEVER),
        ({"b": "done"}, ("b",), False, Hold.ALL),
        ({}, ("b",), True, Hold.NEVER),
        # Routed to nobody: nothing but a spool that keeps it for ever holds it.
        ({}, (), False, Hold.NEVER),
        ({}, (), True, Hold.ALL),
        # Routed to one that the settings no longer name.
        ({"gone": "done"}, (), False, Hold.NEVER),
    ],
)
def test_held_by_all_that_it_was_routed_to(states, destinations, for_ever, hold) -> None:
    assert held_by_all(states, destinations, for_ever, routed=("a", "b")) is hold
