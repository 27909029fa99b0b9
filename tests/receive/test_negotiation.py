"""Associations that are asked for oddly: tolerated, or turned away with a line, a count and a name
on the list."""

import contextlib
import io
import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.observe import counters, log
from qc_daemon.records.received import peers
from qc_daemon.records.received.peers import RefusedCaller
from tests.support import fuzzing, raw_dimse
from tests.support.dicom_objects import US, ultrasound
from tests.support.raw_dimse import USER_INFORMATION, associate_request
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

COUNTERS = ("rejected_unknown", "rejected_called", "rejected_protocol")


@contextlib.contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """The lines of the log, there once the block is left."""
    stream, lines = io.StringIO(), []
    log.configure("debug", stream)
    try:
        yield lines
    finally:
        log.configure("critical")
        lines += map(json.loads, stream.getvalue().splitlines())


def _counts() -> list[float]:
    return [counters.shared().total(name) for name in COUNTERS]


def _refused(receiver: RunningReceiver) -> list[RefusedCaller]:
    def now() -> list[RefusedCaller]:
        receiver.scp.access_policy._write_due = 0.0
        receiver.scp.access_policy.record_callers()
        with receiver.store.read() as session:
            return peers.refused_callers(session)

    callers: list[RefusedCaller] = eventually(now)
    return callers


@pytest.mark.parametrize(
    ("pdu", "answer", "counter", "called", "reason"),
    [
        (
            associate_request(called=b"NOTOURS         "),
            "1/1/7",
            1,
            "NOTOURS",
            "our AE title is QCDAEMON",
        ),
        (associate_request(calling=b" " * 16), "1/1/3", 0, "QCDAEMON", "no calling AE title"),
        (associate_request(version=2), "1/2/2", 2, "QCDAEMON", "another protocol version"),
        (
            associate_request(application=b"1.2.3"),
            "1/1/2",
            2,
            "QCDAEMON",
            "another application context",
        ),
        (
            associate_request(called=b"NOT\x1b[2JOURS     "),
            "1/1/7",
            1,
            "NOT?[2JOURS",
            "no called AE title, or one of characters that none may hold",
        ),
    ],
    ids=["called", "blank", "version", "application", "control"],
)
def test_a_rejected_association_is_logged_counted_and_listed(
    receiver: RunningReceiver, pdu: bytes, answer: str, counter: int, called: str, reason: str
) -> None:
    before = _counts()
    with logged() as lines, raw_dimse.peer(receiver.port) as peer:
        peer.connection.sendall(pdu)
        kind, body = peer.pdu()
        assert kind == 0x03
        assert "/".join(map(str, body[1:4])) == answer
        (caller,) = _refused(receiver)
    assert (caller.called_ae, caller.reason) == (called, reason)
    calling = "" if reason == "no calling AE title" else "MODALITY"
    assert caller.ae_title == (calling or "?")
    (line,) = [each for each in lines if each["level"] == "warning"]
    assert line["event"] == ("caller refused" if counter == 0 else "association rejected")
    assert (line["calling_ae"], line["called_ae"]) == (calling, called)
    assert (line["address"], line["reason"], line["status"]) == ("127.0.0.1", reason, answer)
    assert [now - then for now, then in zip(_counts(), before, strict=True)] == [
        float(position == counter) for position in range(3)
    ]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no A-ASSOCIATE-RQ"),
        (b"\x16\x03\x01\x02\x00\x01", "a TLS handshake, and this port is the plain one"),
        (fuzzing.pdu(0x01, bytes(40)), "an A-ASSOCIATE PDU is cut off"),
        (
            associate_request(contexts=raw_dimse.item(0x20, b"\0\0\0\0")),
            "a presentation context has no odd ID",
        ),
    ],
    ids=["http", "tls", "short", "even"],
)
def test_what_is_no_request_is_logged_and_counted(
    receiver: RunningReceiver, sent: bytes, reason: str
) -> None:
    before = _counts()
    with logged() as lines, raw_dimse.peer(receiver.port) as peer:
        peer.connection.sendall(sent)
        with pytest.raises(raw_dimse.AbortedError):
            peer.pdu()
        eventually(lambda: _counts() != before)
    (line,) = [each for each in lines if each["level"] == "warning"]
    assert (line["event"], line["reason"]) == ("association rejected", reason)
    assert line["address"] == "127.0.0.1"
    assert [now - then for now, then in zip(_counts(), before, strict=True)] == [0, 0, 1]


@pytest.mark.parametrize("user", [None, b"", USER_INFORMATION], ids=["none", "no-limit", "usual"])
def test_an_object_without_user_information_is_stored(
    receiver: RunningReceiver, user: bytes | None
) -> None:
    inner = raw_dimse.item(0x30, US.encode()) + raw_dimse.item(0x40, raw_dimse.IMPLICIT.encode())
    contexts = raw_dimse.item(0x20, bytes((1, 0, 0, 0)) + inner)
    dataset = ultrasound()
    del dataset.file_meta
    with raw_dimse.peer(receiver.port) as peer:
        peer.associate(
            associate_request(contexts=contexts, user=user, more=raw_dimse.item(0x99, b"x"))
        )
        command = raw_dimse.command("C-STORE", US, str(dataset.SOPInstanceUID), has_data=True)
        assert peer.ask(1, command, raw_dimse.encode_dataset(dataset)) == 0x0000


def test_a_context_without_transfer_syntax_is_refused_and_others_are_not(
    receiver: RunningReceiver,
) -> None:
    abstract = raw_dimse.item(0x30, VERIFICATION.encode())
    contexts = raw_dimse.item(0x20, bytes((1, 0, 0, 0)) + abstract)
    contexts += raw_dimse.item(
        0x20, bytes((3, 0, 0, 0)) + abstract + raw_dimse.item(0x40, raw_dimse.IMPLICIT.encode())
    )
    with raw_dimse.peer(receiver.port) as peer:
        peer.associate(associate_request(contexts=contexts))
        assert peer.results == {1: 4, 3: 0}
        assert peer.ask(3, raw_dimse.command("C-ECHO", VERIFICATION, None)) == 0x0000


def test_a_crowd_of_wrong_callers_leaves_a_list_of_bounded_length(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    receiver = start_receiver()
    for number in range(24):
        with raw_dimse.peer(receiver.port) as peer:
            peer.connection.sendall(associate_request(called=f"X{number}".encode().ljust(16)))
            assert peer.pdu()[0] == 0x03
    (caller,) = _refused(receiver)
    assert caller.attempts == 24
    assert caller.called_ae == "X23"


def test_a_connection_that_says_nothing_is_no_news(receiver: RunningReceiver) -> None:
    before = _counts()
    with logged() as lines:
        socket.create_connection(("127.0.0.1", receiver.port)).close()
        with raw_dimse.association(receiver.port, [VERIFICATION]) as peer:
            assert peer.ask(1, raw_dimse.command("C-ECHO", VERIFICATION, None)) == 0x0000
    assert [each for each in lines if each["level"] == "warning"] == []
    assert _counts() == before


def test_messages_to_a_peer_with_an_odd_maximum_are_of_even_fragments(
    receiver: RunningReceiver,
) -> None:
    """PS3.8 annex E; a response is longer than this peer takes at once."""
    user = raw_dimse.item(0x51, struct.pack(">I", 129)) + raw_dimse.item(0x52, b"1.2.3.4")
    with raw_dimse.peer(receiver.port) as peer:
        peer.associate(associate_request(user=user))
        peer.connection.sendall(
            fuzzing.p_data(1, raw_dimse.command("C-STORE", US, "1." + "2" * 60), b"")[0]
        )
        whole = b""
        while True:
            kind, body = peer.pdu()
            assert kind == 0x04
            assert len(body) <= 129
            assert len(body) % 2 == 0
            whole += body[6:]
            if body[5] & 2:
                break
    assert len(whole) > 129
