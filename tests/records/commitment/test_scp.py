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


def ask(lab, *uids: str, transaction: str = "1.9", by: str = "MODALITY", over: str = "a") -> bool:
    references = tuple(Reference(US, uid) for uid in uids)
    with lab.store.begin() as session:
        return scp.request(
            session, Request(transaction, by, "127.0.0.1", over, references), lab.now
        )


def claim(lab, state: CommitmentState, over: str | None = None, owner: str = "w") -> Claim | None:
    with lab.store.begin() as session:
        return scp.claim(session, state, owner, lab.now, 60, association=over)


def claimed(lab, state: CommitmentState, over: str | None = None) -> Claim:
    found = claim(lab, state, over)
    assert found is not None
    return found


def standings(lab, mine: Claim, *destinations: str, for_ever: bool = False):
    with lab.store.read() as session:
        return scp.standings(session, mine, destinations, kept_for_ever=for_ever)


def decide(lab, mine: Claim, failures: dict[int, int]) -> bool:
    with lab.store.begin() as session:
        return scp.decide(session, mine, failures, lab.now, 60)


def settle(lab, mine: Claim, after: float = 5) -> bool:
    with lab.store.begin() as session:
        return scp.settle(session, mine, lab.now + timedelta(seconds=after))


def association_ended(lab, association: str) -> None:
    with lab.store.begin() as session:
        scp.association_ended(session, association, lab.now)


def ready(lab, *uids: str, **asked: str) -> None:
    """A request with all its objects committed."""
    ask(lab, *uids, **asked)
    mine = claimed(lab, WAITING)
    assert decide(lab, mine, dict.fromkeys(range(len(uids)), COMMITTED))
    assert settle(lab, mine)


def row(lab) -> Commitment:
    with lab.store.read() as session:
        return session.scalars(select(Commitment)).one()


def test_looked_at_by_one_at_a_time_and_again_later(lab) -> None:
    assert ask(lab, "1.1")
    mine = claimed(lab, WAITING)
    assert claim(lab, WAITING) is None
    assert not settle(lab, mine, after=5)
    assert claim(lab, WAITING) is None
    lab.wait(5)
    assert claimed(lab, WAITING).id == mine.id


def test_who_dies_with_it_loses_it_when_the_lease_ends(lab) -> None:
    ask(lab, "1.1")
    dead = claimed(lab, WAITING)
    lab.wait(59)
    assert claim(lab, WAITING) is None
    lab.wait(1)
    assert claimed(lab, WAITING).id == dead.id
    assert not decide(lab, dead, {0: COMMITTED})
    with lab.store.begin() as session:
        assert not scp.reported(session, dead, lab.now)
        assert scp.not_reported(session, dead, "", lab.now, POLICY, random.Random()) is None


def test_a_clock_set_back_an_hour_holds_nothing_up(lab) -> None:
    ask(lab, "1.1")
    dead = claimed(lab, WAITING)
    lab.wait(-3600)
    mine = claimed(lab, WAITING)
    assert mine.id == dead.id
    assert not settle(lab, mine)
    lab.wait(-3600)
    assert claim(lab, WAITING) is not None


def test_deciding_keeps_the_lease_and_what_was_decided(lab) -> None:
    ask(lab, "1.1", "1.2")
    mine = claimed(lab, WAITING)
    lab.wait(50)
    assert decide(lab, mine, {1: 0x0110})
    lab.wait(50)
    assert claim(lab, WAITING) is None
    assert [each.position for each in standings(lab, mine, "pacs")] == [0]


def test_left_to_its_association_for_a_while(lab) -> None:
    ready(lab, "1.1")
    assert claim(lab, READY) is None
    assert claimed(lab, READY, over="a").transaction_uid == "1.9"
    assert claim(lab, READY, over="b") is None
    lab.wait(max(60, WATCH_SECONDS))
    assert claim(lab, READY) is not None


def test_due_at_once_when_its_association_ends(lab) -> None:
    ready(lab, "1.1")
    association_ended(lab, "a")
    assert claim(lab, READY, over="a") is None
    assert claim(lab, READY) is not None


def test_due_at_once_when_ready_after_its_association_ended(lab) -> None:
    ask(lab, "1.1")
    mine = claimed(lab, WAITING)
    association_ended(lab, "a")
    decide(lab, mine, {0: COMMITTED})
    settle(lab, mine)
    assert claim(lab, READY) is not None


def test_under_way_over_an_association_until_reported(lab) -> None:
    def under_way(association: str) -> set[CommitmentState]:
        with lab.store.read() as session:
            return scp.under_way(session, association)

    assert not under_way("a")
    ready(lab, "1.1")
    assert under_way("a") == {READY}
    ask(lab, "1.1", transaction="1.8")
    assert under_way("a") == {READY, WAITING}
    assert not under_way("b")
    mine = claimed(lab, READY, over="a")
    with lab.store.begin() as session:
        assert scp.reported(session, mine, lab.now)
    assert under_way("a") == {WAITING}


def test_the_report_says_what_is_committed_and_why_not(lab) -> None:
    ask(lab, "1.1", "1.2", "1.3")
    mine = claimed(lab, WAITING)
    decide(lab, mine, {0: COMMITTED, 1: 0x0112, 2: COMMITTED})
    settle(lab, mine)
    with lab.store.read() as session:
        told = scp.report(session, claimed(lab, READY, over="a"))
    assert told.transaction_uid == "1.9"
    assert told.committed == (Reference(US, "1.1"), Reference(US, "1.3"))
    assert told.failed == ((Reference(US, "1.2"), 0x0112),)


def test_attempts_are_counted_until_it_is_dead_and_requeued(lab) -> None:
    ready(lab, "1.1")
    association_ended(lab, "a")
    for state in (READY, CommitmentState.DEAD):
        mine = claimed(lab, READY)
        with lab.store.begin() as session:
            assert (
                scp.not_reported(session, mine, "down", lab.now, POLICY, random.Random(1)) is state
            )
        assert claim(lab, READY) is None
        lab.wait(60)
    assert (row(lab).attempts, row(lab).error_message) == (2, "down")
    with lab.store.begin() as session:
        assert scp.requeue(session, [row(lab).id, 99], lab.now) == 1
        assert scp.requeue(session, [row(lab).id], lab.now) == 0
    assert claimed(lab, READY).attempts == 0


def test_reported_is_told_with_its_moment(lab) -> None:
    ready(lab, "1.1")
    mine = claimed(lab, READY, over="a")
    lab.wait(1)
    with lab.store.begin() as session:
        assert scp.reported(session, mine, lab.now)
    assert (row(lab).state, row(lab).reported_at) == ("reported", lab.now)


def test_one_requester_is_not_another(lab) -> None:
    assert ask(lab, "1.1")
    assert ask(lab, "1.2", by="OTHER")
    assert not ask(lab, "1.1")
    with pytest.raises(ValueError, match="other objects"):
        ask(lab, "1.3")


def test_asked_again_over_another_association_it_is_told_there(lab) -> None:
    ready(lab, "1.1")
    mine = claimed(lab, READY, over="a")
    with lab.store.begin() as session:
        scp.reported(session, mine, lab.now)
    assert not ask(lab, "1.1", over="b")
    assert claim(lab, READY) is None
    assert claimed(lab, READY, over="b").id == mine.id


def test_asked_by_many_at_once_it_is_one_request(lab) -> None:
    start = threading.Barrier(4)
    new: list[bool] = []

    def run() -> None:
        start.wait()
        new.append(ask(lab, "1.1", "1.2"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, False, False, True]
    assert len(standings(lab, claimed(lab, WAITING), "pacs")) == 2


def test_taken_by_one_of_many_claimers(lab) -> None:
    ask(lab, "1.1")
    start = threading.Barrier(4)
    taken: list[Claim | None] = []

    def run(number: int) -> None:
        start.wait()
        taken.append(claim(lab, WAITING, owner=f"w{number}"))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in taken if each is not None]) == 1


def test_standing_of_each_object(lab) -> None:
    one = lab.receive("pacs", "archive", sop_instance_uid="1.1", sha256="1" * 64)
    lab.receive("pacs", sop_instance_uid="1.2", sha256="2" * 64, sop_class_uid="1.2.3")
    lab.receive("pacs", sop_instance_uid="1.3", sha256="3" * 64)
    ask(lab, "1.1", "1.2", "1.3", "1.4")
    mine = claimed(lab, WAITING)
    first, conflict, never_sent, unknown = standings(lab, mine, "pacs", "archive")
    assert (first.failure, first.hold) == (None, Hold.WAITING)
    assert [(file.revision_id, file.sha256) for file in first.files] == [
        (one.revision_id, "1" * 64)
    ]
    assert conflict.failure == 0x0119
    # Received before the archive was in the settings.
    assert (never_sent.failure, never_sent.hold) == (0x0110, Hold.NEVER)
    assert unknown.failure == 0x0112
    with lab.store.begin() as session:
        session.execute(update(JobRow).where(JobRow.kind == JobKind.DELIVER).values(state="done"))
    assert standings(lab, mine, "pacs", "archive")[0].hold is Hold.ALL


def test_a_dropped_file_is_not_looked_for(lab) -> None:
    lab.receive("pacs", sop_instance_uid="1.1")
    ask(lab, "1.1")
    mine = claimed(lab, WAITING)
    (before,) = standings(lab, mine, "pacs")
    with lab.store.begin() as session:
        assert scp.still_kept(session, before.files[0])
        session.execute(update(Revision).values(dropped_at=lab.now))
        assert not scp.still_kept(session, before.files[0])
    (after,) = standings(lab, mine, "pacs")
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
