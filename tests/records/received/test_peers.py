"""Approved peers and refused callers in both databases."""

from dataclasses import replace
from datetime import timedelta

import pytest

from qc_daemon.records.received import peers
from qc_daemon.records.received.peers import ApprovedPeer, RefusedCaller
from qc_daemon.records.store import Store
from tests.support.records import START

CALLER = RefusedCaller("US1", "10.0.0.1", None, 1, START, START)


def note(store: Store, *callers: RefusedCaller) -> None:
    with store.begin() as session:
        peers.record_refusals(session, callers)


def refused(store: Store) -> list[RefusedCaller]:
    with store.read() as session:
        return peers.refused_callers(session)


def later(seconds: float, **changes: object) -> RefusedCaller:
    moment = START + timedelta(seconds=seconds)
    return replace(CALLER, first_seen_at=moment, last_seen_at=moment, **changes)


def test_peer_is_approved_and_removed(store: Store) -> None:
    with store.begin() as session:
        peers.approve(session, "US1", "10.0.0.0/8", None, START)
        peers.approve(session, "US1", "10.0.0.1", "a" * 64, START)
        peers.approve(session, "US2", "10.0.0.1", None, START)
        # The same again with a renewed certificate.
        peers.approve(session, "US1", "10.0.0.1", "b" * 64, START)
    with store.read() as session:
        assert peers.approved_peers(session) == [
            ApprovedPeer("US1", "10.0.0.0/8", None, START),
            ApprovedPeer("US1", "10.0.0.1", "b" * 64, START),
            ApprovedPeer("US2", "10.0.0.1", None, START),
        ]
    with store.begin() as session:
        assert peers.remove(session, "US1", "10.9.9.9") == 0
        assert peers.remove(session, "US1", "10.0.0.0/8") == 1
        assert peers.remove(session, "US1", None) == 1
        assert [each.ae_title for each in peers.approved_peers(session)] == ["US2"]


def test_a_caller_is_counted_and_keeps_its_certificate(store: Store) -> None:
    note(store, CALLER)
    note(store, later(5, certificate="a" * 64, attempts=7), later(6, ae_title="US2"))
    note(store, later(9))
    assert refused(store) == [
        RefusedCaller("US1", "10.0.0.1", "a" * 64, 9, START, START + timedelta(seconds=9)),
        later(6, ae_title="US2"),
    ]
    with store.begin() as session:
        peers.remove_caller(session, "US1", "10.0.0.1")
    assert [each.ae_title for each in refused(store)] == ["US2"]


def test_a_flood_from_one_address_drops_none_but_its_own(store: Store) -> None:
    note(store, CALLER)
    flood = [later(n + 1, ae_title=f"X{n}", address="10.0.0.2") for n in range(64)]
    note(store, *flood)
    note(store, *(replace(each, ae_title=f"Y{n}") for n, each in enumerate(flood)))
    callers = refused(store)
    assert callers[-1] == CALLER
    assert len(callers) == peers.MAX_CALLERS_PER_ADDRESS + 1
    assert {each.ae_title for each in callers[:2]} == {"X63", "Y63"}


def test_the_list_is_bounded_and_the_oldest_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MAX_CALLERS", 10)
    note(store, *(later(n, address=f"10.0.0.{n}") for n in range(25)))
    assert [each.address for each in refused(store)] == [f"10.0.0.{n}" for n in range(24, 14, -1)]
