"""The connection listener: who sends nothing, too little or nonsense costs nothing that lasts."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qc_daemon.receive import listener
from tests.support.dicom_objects import ultrasound
from tests.support.peers import association, store
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

ASSOCIATE_RQ = b"\x01\x00\x00\x00\x01\x00"
A_ABORT = b"\x07\x00\x00\x00\x00\x04"


@contextlib.contextmanager
def crowd(port: int, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say only this."""
    callers = []
    try:
        for _ in range(count):
            callers.append(socket.create_connection(("127.0.0.1", port)))
            callers[-1].sendall(say)
        yield callers
    finally:
        for caller in callers:
            caller.close()


def hung_up(caller: socket.socket) -> bool:
    """Whether the receiver has closed the connection."""
    caller.settimeout(60)
    try:
        while caller.recv(64):
            pass
    except ConnectionResetError:
        pass
    return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("say", [b"", ASSOCIATE_RQ + b"half"])
def test_silent_ones_hold_up_nobody_and_are_dropped(
    start_receiver: Callable[..., RunningReceiver], say: bytes
) -> None:
    receiver = start_receiver(artim_timeout=3.0)
    assert store(receiver.port, ultrasound()) == [0x0000]
    eventually(lambda: not receiver.scp._associations)
    threads, files = threading.active_count(), descriptors()
    with crowd(receiver.port, 500, say) as callers:
        assert store(receiver.port, ultrasound()) == [0x0000]
        assert threading.active_count() < threads + 5
        assert all(hung_up(caller) for caller in callers)
    eventually(lambda: not receiver.scp._associations)
    assert receiver.scp._listeners[0].waiting == 0
    eventually(lambda: threading.active_count() <= threads and descriptors() <= files)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_request_that_came_in_time_is_served_by_a_listener_that_is_late(encrypted: bool) -> None:
    served, is_late = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = listener.ConnectionListener(
            server,
            lambda connection, _address, data: served.append((connection, data)),
            seconds=0.2,
            encrypted=encrypted,
            # Called before each connection is accepted: at the second one, until the time is over.
            has_more_than_others=lambda: bool(connections.waiting) and not is_late.wait(60),
        )
        connections.open()
        with crowd(server.getsockname()[1], 1) as (caller,), contextlib.ExitStack() as callers:
            eventually(lambda: connections.waiting == 1)
            callers.enter_context(crowd(server.getsockname()[1], 1))
            caller.sendall(ASSOCIATE_RQ + bytes(0x100))
            time.sleep(0.3)
            is_late.set()
            eventually(lambda: bool(served))
        connections.close()
    served[0][0].close()


def test_the_longest_silent_goes_when_too_many_wait(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_WAITING", 3)
    with crowd(receiver.port, 5) as callers:
        assert all(hung_up(caller) for caller in callers[:2])
        eventually(lambda: receiver.scp._listeners[0].waiting == 3)
        assert store(receiver.port, ultrasound()) == [0x0000]


def test_requests_that_wait_take_bounded_memory(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_REQUESTS_WAITING", 10_000)
    incomplete_request = b"\x01\x00\x00\x01\x00\x00" + bytes(6_000)
    with crowd(receiver.port, 2, incomplete_request) as callers:
        assert hung_up(callers[0])
        eventually(lambda: receiver.scp._listeners[0].waiting == 1)


@pytest.mark.parametrize(
    "say", [b"GET / HTTP/1.0\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\x04\x00\x00\x00\x00\x00"]
)
def test_what_is_no_request_is_aborted_at_once(receiver: RunningReceiver, say: bytes) -> None:
    with crowd(receiver.port, 1, say) as (caller,):
        caller.settimeout(60)
        assert caller.recv(64).startswith(A_ABORT)
        assert hung_up(caller)


def test_a_request_in_pieces_is_one_request(receiver: RunningReceiver) -> None:
    """A relay that passes an association on a byte at a time."""
    relay = socket.create_server(("127.0.0.1", 0))

    def pass_on() -> None:
        there, _ = relay.accept()
        onward = socket.create_connection(("127.0.0.1", receiver.port))
        onward.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def back() -> None:
            while chunk := onward.recv(4096):
                there.sendall(chunk)
            there.close()

        threading.Thread(target=back).start()
        while chunk := there.recv(4096):
            for byte in chunk:
                onward.sendall(bytes((byte,)))
        onward.close()

    threading.Thread(target=pass_on).start()
    with association(relay.getsockname()[1]) as assoc:
        assert assoc.is_established
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
    relay.close()
