"""Bytes that broke the upper layer once, found by fuzzing: the association ends, nothing more."""

import socket
import struct
import threading

import pytest

from qc_daemon.receive.upper_layer import dimse
from tests.support import fuzzing
from tests.support.dicom_objects import ultrasound
from tests.support.peers import store
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

VERIFICATION = (fuzzing.VERIFICATION, "1.2.840.10008.1.2")


@pytest.fixture
def crashed(monkeypatch: pytest.MonkeyPatch) -> list[threading.ExceptHookArgs]:
    """Threads that died of an error."""
    caught: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", caught.append)
    return caught


@pytest.mark.parametrize(
    "last",
    [
        b"\x07\x00" + struct.pack(">I", 4) + b"\0\0\x24\0",
        fuzzing.ABORT[:6] + b"\0\0\x01\xff",
        fuzzing.pdu(0x06, bytes(4)) + fuzzing.RELEASE + fuzzing.ABORT,
        fuzzing.pdu(0x03, bytes(4)),
        fuzzing.pdu(0x02, bytes(80)),
        fuzzing.associate([VERIFICATION]) * 2,
        fuzzing.pdu(0x04, struct.pack(">IBB", 0xFFFFFFFF, 1, 3)),
        fuzzing.pdu(0x04, struct.pack(">IBB", 10, 1, 3) + b"\0\0\0\1\2\0\0\0"),
        fuzzing.pdu(0x04, struct.pack(">IBB", 2, 1, 2)),
        struct.pack(">BBI", 0x04, 0, 0xFFFFFFFF) + struct.pack(">IBB", 0xFFFFFFFB, 1, 3),
    ],
    ids=[
        "abort-source-24",
        "abort-reason",
        "release-response-first",
        "reject",
        "accept",
        "request-again",
        "value-longer-than-pdu",
        "command-that-is-none",
        "data-without-command",
        "longest-pdu",
    ],
)
def test_the_association_ends_and_the_receiver_goes_on(
    receiver: RunningReceiver, crashed: list[threading.ExceptHookArgs], last: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=60) as peer:
        peer.sendall(fuzzing.associate([VERIFICATION]))
        assert peer.recv(1) == b"\x02"
        peer.sendall(last)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(4096):
            pass
    eventually(lambda: not receiver.scp._ae.active_associations)
    assert crashed == []
    assert store(receiver.port, ultrasound()) == [0x0000]


def test_an_object_that_is_whole_when_its_sender_aborts_leaves_no_file(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abort and last byte arrive together, and the abort is seen first."""
    # As one that is not the usual C-STORE, it waits for the association's thread.
    monkeypatch.setattr(dimse.c_store_command, "parse_store_request", lambda _encoded: None)
    monkeypatch.setattr(dimse.DimseProvider, "get_msg", lambda *_: (None, None))
    seed = fuzzing.seeds(None, [ultrasound()])[0]
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=60) as peer:
        peer.sendall(fuzzing.associate([(seed.sop_class, seed.syntax)]))
        assert peer.recv(1) == b"\x02"
        message = fuzzing.p_data(1, fuzzing.c_store(seed.sop_class, seed.instance), seed.data)
        peer.sendall(b"".join(message) + fuzzing.ABORT)
        while peer.recv(4096):
            pass
    eventually(lambda: not receiver.scp._ae.active_associations)
    eventually(lambda: not receiver.files())
    assert receiver.nothing_recorded()
