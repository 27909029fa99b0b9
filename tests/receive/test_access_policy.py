"""Who may store: deny by default."""

import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text
from structlog.testing import capture_logs

from qc_daemon.dicom import associate_pdu
from qc_daemon.operations.doctor import examine
from qc_daemon.receive import access
from qc_daemon.receive.access import Caller, PeerRule, is_allowed, is_doctor, printable
from qc_daemon.records.received import peers
from qc_daemon.settings import PeerSettings, Settings
from qc_daemon.spool import service_lock
from tests.support.peers import association
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

FIRST, SECOND = "1" * 64, "2" * 64
VOLUSON = PeerRule.of("VOLUSON1", "10.0.0.0/8", None)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_no_peers_accept_loopback(address: str) -> None:
    assert is_allowed(Caller("ANYONE", address), [], [])


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.2", "fe80::1%eth0", "nonsense", ""])
def test_no_peers_refuse_the_rest(address: str) -> None:
    assert not is_allowed(Caller("ANYONE", address), [], [])


@pytest.mark.parametrize(
    ("title", "address", "answer"),
    [
        ("VOLUSON1", "10.1.2.3", True),
        ("VOLUSON1 ", "10.1.2.3", True),
        ("VOLUSON1", "::ffff:10.1.2.3", True),
        ("VOLUSON2", "10.1.2.3", False),
        ("voluson1", "10.1.2.3", False),
        ("VOLUSON1", "11.1.2.3", False),
        # With peers named, loopback is nothing special.
        ("VOLUSON1", "127.0.0.1", False),
        ("VOLUSON1", "2001:db8::1", False),
        ("VOLUSON1", "nonsense", False),
    ],
)
def test_peers_by_title_and_address(title: str, address: str, answer: bool) -> None:
    assert is_allowed(Caller(title, address), [VOLUSON], []) is answer
    assert is_allowed(Caller(title, address), [], [VOLUSON]) is answer


def test_one_of_several_peers_is_enough() -> None:
    other = PeerRule.of("VOLUSON1", "2001:db8::/32", None)
    assert is_allowed(Caller("VOLUSON1", "2001:db8::7"), [VOLUSON, other], [])
    assert is_allowed(Caller("VOLUSON1", "2001:db8::7"), [VOLUSON], [other])


@pytest.mark.parametrize(("certificate", "answer"), [(FIRST, True), (SECOND, False), (None, False)])
def test_a_bound_peer_must_show_its_certificate(certificate: str | None, answer: bool) -> None:
    bound = PeerRule.of("VOLUSON1", "10.1.0.0/16", FIRST)
    caller = Caller("VOLUSON1", "10.1.2.3", certificate)
    assert is_allowed(caller, [bound], []) is answer
    # Neither a wider peer without a certificate nor an approval makes it weaker.
    assert is_allowed(caller, [bound, VOLUSON], []) is answer
    assert is_allowed(caller, [], [VOLUSON, bound]) is answer
    assert is_allowed(caller, [bound], [PeerRule.of("VOLUSON1", "10.1.2.3", None)]) is answer
    assert is_allowed(Caller("VOLUSON1", "10.2.0.1", None), [VOLUSON, bound], [])


def test_old_and_new_certificate_may_stand_side_by_side() -> None:
    rules = [PeerRule.of("VOLUSON1", "10.0.0.0/8", each) for each in (FIRST, SECOND)]
    assert is_allowed(Caller("VOLUSON1", "10.1.2.3", SECOND), rules, [])


ADDRESSES = st.ip_addresses()


@given(
    address=ADDRESSES,
    network=ADDRESSES.flatmap(
        lambda a: st.integers(0, a.max_prefixlen).map(
            lambda bits: ipaddress.ip_network((a, bits), strict=False)
        )
    ),
)
def test_a_range_covers_exactly_its_addresses(address: Any, network: Any) -> None:
    caller = address.ipv4_mapped or address if address.version == 6 else address
    inside = caller.version == network.version and (
        int(network.network_address) <= int(caller) <= int(network.broadcast_address)
    )
    rule = PeerRule.of("US1", str(network), None)
    assert is_allowed(Caller("US1", str(address)), [rule], []) is inside
    assert not is_allowed(Caller("US2", str(address)), [rule], [])


@example(network="10.1.0.7", title="a title of over 16")
@example(network="10.1.0.7", title="fifteen letters and more")
@given(network=ADDRESSES.map(str), title=st.text(max_size=20))
def test_any_calling_title_is_printed_as_one_ae_title(network: str, title: str) -> None:
    text = printable(title)
    assert 1 <= len(text) <= 16
    assert text.isascii()
    assert text.isprintable()
    assert "\\" not in text
    # What is shown can be approved, and stays itself.
    assert PeerSettings(ae_title=text, address=network).ae_title == text == printable(text)


NOW = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers are read, and callers written down, at once."""
    monkeypatch.setattr(access, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(access, "WRITE_SECONDS", 0)


def approve(receiver: RunningReceiver, title: str, address: str = "127.0.0.0/8") -> None:
    with receiver.store.begin() as session:
        peers.approve(session, title, address, None, NOW)


def accepted(receiver: RunningReceiver, title: str) -> bool:
    with association(receiver.port, calling=title) as assoc:
        return bool(assoc.is_established)


def answer(receiver: RunningReceiver, title: str) -> tuple[int, int, int]:
    """Result, source and reason of the rejection."""
    with association(receiver.port, calling=title) as assoc:
        assert assoc.is_rejected
        rejection = assoc.acceptor.primitive
        return rejection.result, rejection.result_source, rejection.diagnostic


def refused(receiver: RunningReceiver) -> list[peers.RefusedCaller]:
    with receiver.store.read() as session:
        return peers.refused_callers(session)


def test_an_approved_peer_may_store_without_a_restart(
    hurried: None, receiver: RunningReceiver
) -> None:
    approve(receiver, "OTHER")
    assert answer(receiver, "US1") == associate_pdu.CALLING_NOT_RECOGNISED
    approve(receiver, "US1")
    assert accepted(receiver, "US1")
    with receiver.store.begin() as session:
        assert peers.remove(session, "US1", None) == 1
    assert not accepted(receiver, "US1")


def test_approved_peers_are_not_read_at_every_association(receiver: RunningReceiver) -> None:
    assert accepted(receiver, "US1")
    approve(receiver, "OTHER")
    # It would be refused if the list were read again so soon.
    assert accepted(receiver, "US1")


def test_refused_callers_are_written_down(
    hurried: None, start_receiver: Callable[..., RunningReceiver]
) -> None:
    receiver = start_receiver(peer=[PeerSettings(ae_title="US1")])
    for _ in range(3):
        assert answer(receiver, "US2") == associate_pdu.CALLING_NOT_RECOGNISED
    eventually(lambda: refused(receiver) and refused(receiver)[0].attempts == 3)
    (caller,) = refused(receiver)
    assert (caller.ae_title, caller.address, caller.certificate) == ("US2", "127.0.0.1", None)
    assert caller.first_seen_at < caller.last_seen_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert accepted(receiver, "US1")


def test_doctor_leaves_no_trace_among_the_callers(
    hurried: None, start_receiver: Callable[..., RunningReceiver]
) -> None:
    receiver = start_receiver(peer=[PeerSettings(ae_title="US1")])
    here = Settings(
        store={"url": f"sqlite:///{receiver.database}", "spool": receiver.spool.root},
        receive={"port": receiver.port},
    )
    with service_lock.shared(receiver.spool.root), capture_logs() as log:
        (result,) = [each for each in examine(here) if each.name == "receiver"]
    assert result.is_healthy
    assert "we are none of its peers" in result.message
    # Its own title from elsewhere is a stranger's.
    assert is_doctor(Caller("QCDOCTOR", "10.0.0.7"), "10.0.0.7")
    assert not is_doctor(Caller("QCDOCTOR", "10.0.0.8"), "10.0.0.7")
    assert not is_doctor(Caller("US2", "127.0.0.1"), "127.0.0.1")
    assert answer(receiver, "US2") == associate_pdu.CALLING_NOT_RECOGNISED
    eventually(lambda: refused(receiver))
    assert [caller.ae_title for caller in refused(receiver)] == ["US2"]
    assert [each["event"] for each in log if each.get("calling_ae") == "QCDOCTOR"] == [
        "doctor answered"
    ]


def test_a_burst_is_written_in_few_transactions(
    start_receiver: Callable[..., RunningReceiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "WRITE_SECONDS", 3600)
    writes = []
    note = peers.record_refusals
    monkeypatch.setattr(peers, "record_refusals", lambda *args: writes.append(1) or note(*args))
    receiver = start_receiver(peer=[PeerSettings(ae_title="US1")])
    for _ in range(5):
        assert not accepted(receiver, "US2")
    assert len(writes) == 1
    # What waits is written by the receiver's regular round.
    receiver.scp.access_policy._write_due = 0.0
    receiver.scp.renew_holds()
    assert len(writes) == 2
    assert refused(receiver)[0].attempts == 5


def test_without_the_database_the_last_peers_remain(
    hurried: None, receiver: RunningReceiver
) -> None:
    approve(receiver, "US1")
    assert accepted(receiver, "US1")
    with receiver.store.begin() as session:
        session.execute(text("ALTER TABLE peer RENAME TO away"))
    assert accepted(receiver, "US1")
    assert answer(receiver, "US2") == associate_pdu.CALLING_NOT_RECOGNISED
    with receiver.store.begin() as session:
        session.execute(text("ALTER TABLE away RENAME TO peer"))
        session.execute(text("DELETE FROM peer"))
    approve(receiver, "US2")
    assert accepted(receiver, "US2")
    assert not accepted(receiver, "US1")


def test_a_fault_of_ours_lets_nobody_in(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "is_allowed", lambda *_: 1 / 0)
    assert answer(receiver, "US1") == associate_pdu.TEMPORARY_CONGESTION
    monkeypatch.undo()
    assert accepted(receiver, "US1")


def test_a_row_that_is_no_peer_changes_nothing(hurried: None, receiver: RunningReceiver) -> None:
    approve(receiver, "US1")
    assert accepted(receiver, "US1")
    approve(receiver, "US2", "not an address")
    assert accepted(receiver, "US1")
    assert answer(receiver, "US2") == associate_pdu.CALLING_NOT_RECOGNISED


def test_while_peers_cannot_be_read_the_rejection_is_transient(
    start_receiver: Callable[..., RunningReceiver], hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    approved = peers.approved_peers

    def away(session: Any) -> Any:
        session.execute(text("SELECT * FROM not_there"))

    monkeypatch.setattr(peers, "approved_peers", away)
    receiver = start_receiver(peer=[PeerSettings(ae_title="US1")])
    assert accepted(receiver, "US1")
    assert answer(receiver, "US2") == associate_pdu.TEMPORARY_CONGESTION
    assert refused(receiver) == []
    monkeypatch.setattr(peers, "approved_peers", approved)
    approve(receiver, "US2")
    assert accepted(receiver, "US2")
