"""Accepts TCP connections, and holds each without a thread until its A-ASSOCIATE-RQ is complete.

Until then a connection costs a descriptor and a few bytes. One that sends nothing is closed after
the ARTIM time (PS3.8 9.1.5), or earlier if too many wait; one that sends something else at once. So
probes, port scans and many silent connections delay no sender, which sends its request as soon as
it is connected.
"""

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qc_daemon.receive.upper_layer.dul import ASSOCIATE_RQ

# Connections without a complete request, in one process; the oldest goes when one more comes.
MAX_WAITING = 128
# Bytes of an A-ASSOCIATE-RQ; 128 presentation contexts of 50 transfer syntaxes each take 200 kB.
MAX_REQUEST = 512 << 10
# Bytes of all incomplete requests in one process.
MAX_REQUESTS_WAITING = 8 << 20
# Seconds a busier receiver waits, so that an idle one accepts first.
ACCEPT_DELAY_SECONDS = 0.004
# Seconds to wait when no file descriptor is left.
_NO_DESCRIPTOR_SECONDS = 0.1
# The first byte of a TLS record with a ClientHello (RFC 8446 5.1).
_HANDSHAKE = 0x16
# A-ABORT by the service provider, unexpected PDU (PS3.8 9.3.8).
_ABORT = struct.pack(">BxLxxBB", 0x07, 4, 0x02, 0x02)

OnRequest = Callable[[socket.socket, Any, bytes], None]


@dataclass
class _WaitingConnection:
    """A connection whose A-ASSOCIATE-RQ is not complete."""

    connection: socket.socket
    address: Any
    until: float
    first_bytes: bytearray = field(default_factory=bytearray)


class ConnectionListener:
    """Accepts the connections of one socket in a thread; passes on each that sent its request.

    `on_request` gets the connection, its address and the bytes of the A-ASSOCIATE-RQ; with
    `encrypted` it gets the connection when the first byte is there, unread. `has_more_than_others`
    says whether another process has fewer associations. `on_invalid_request` gets the address of a
    connection that sent something else, and a reason; one that sent nothing (a probe) is not
    reported. The socket may be shared with other processes.
    """

    def __init__(
        self,
        listener: socket.socket,
        on_request: OnRequest,
        seconds: float,
        *,
        encrypted: bool = False,
        has_more_than_others: Callable[[], bool] = lambda: False,
        on_invalid_request: Callable[[Any, str], None] = lambda _address, _reason: None,
    ) -> None:
        self.listener = listener
        self._on_request = on_request
        self._seconds = seconds
        self._encrypted = encrypted
        self._has_more_than_others = has_more_than_others
        self._on_invalid_request = on_invalid_request
        # In the order they came, and so in the order of their time.
        self._waiting: dict[int, _WaitingConnection] = {}
        self._bytes_in_memory = 0
        self._selector = selectors.DefaultSelector()
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="connection-listener", daemon=True)

    def open(self) -> None:
        """Start to accept connections."""
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup_fd, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting; connections without a complete request are closed."""
        os.eventfd_write(self._wakeup_fd, 1)
        self._thread.join()
        for waiting in list(self._waiting.values()):
            self._close(waiting)
        self._selector.close()
        os.close(self._wakeup_fd)
        # It is closed, not shut down: other processes may share it.
        self.listener.close()

    @property
    def waiting(self) -> int:
        """How many connections have sent no complete request."""
        return len(self._waiting)

    def _serve(self) -> None:
        while True:
            self._close_expired()
            for key, _ in self._selector.select(self._seconds_to_expiry()):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fd == self._wakeup_fd:
                    return
                else:
                    self._read_bytes(key.data)

    def _seconds_to_expiry(self) -> float | None:
        first = next(iter(self._waiting.values()), None)
        return None if first is None else max(0.0, first.until - time.monotonic())

    def _close_expired(self) -> None:
        now = time.monotonic()
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            if len(self._waiting) > MAX_WAITING or not self._is_within_memory():
                self._close(oldest)
            elif oldest.until > now:
                return
            else:
                # On a busy machine this comes late: a request that came in time is still unread.
                if _has_bytes(oldest.connection):
                    self._read_bytes(oldest)
                if self._is_waiting(oldest):
                    self._close(oldest)

    def _is_within_memory(self) -> bool:
        return self._bytes_in_memory <= MAX_REQUESTS_WAITING

    def _accept(self) -> None:
        if self._has_more_than_others():
            time.sleep(ACCEPT_DELAY_SECONDS)
        try:
            connection, address = self.listener.accept()
        except BlockingIOError:
            # Another process was quicker.
            return
        except OSError:
            # The peer has gone, or no descriptor is left: the oldest connection gives its own.
            if self._waiting:
                self._close(next(iter(self._waiting.values())))
            else:
                time.sleep(_NO_DESCRIPTOR_SECONDS)
            return
        connection.setblocking(False)
        waiting = _WaitingConnection(connection, address, time.monotonic() + self._seconds)
        self._waiting[connection.fileno()] = waiting
        self._selector.register(connection, selectors.EVENT_READ, waiting)

    def _read_bytes(self, waiting: _WaitingConnection) -> None:
        if not self._is_waiting(waiting):
            # It was closed after `select` had returned it.
            return
        if self._encrypted:
            if _has_bytes(waiting.connection):
                self._pass_on(waiting)
            else:
                # Nothing came: a test whether the port is open, as of a load balancer or doctor.
                self._close(waiting)
            return
        try:
            data = waiting.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(waiting)
            return
        waiting.first_bytes += data
        self._bytes_in_memory += len(data)
        size = _request_size(waiting.first_bytes)
        if size is None:
            with contextlib.suppress(OSError):
                waiting.connection.send(_ABORT)
            self._close(waiting, _describe_invalid(waiting.first_bytes))
        elif len(waiting.first_bytes) >= size:
            self._pass_on(waiting)

    def _is_waiting(self, waiting: _WaitingConnection) -> bool:
        return self._waiting.get(waiting.connection.fileno()) is waiting

    def _pass_on(self, waiting: _WaitingConnection) -> None:
        self._remove(waiting)
        try:
            self._on_request(waiting.connection, waiting.address, bytes(waiting.first_bytes))
        except (OSError, RuntimeError):
            # The peer has gone, or no thread can be started.
            waiting.connection.close()

    def _close(
        self, waiting: _WaitingConnection, reason: str = "an A-ASSOCIATE-RQ that never became whole"
    ) -> None:
        self._remove(waiting)
        waiting.connection.close()
        if waiting.first_bytes:
            self._on_invalid_request(waiting.address, reason)

    def _remove(self, waiting: _WaitingConnection) -> None:
        self._selector.unregister(waiting.connection)
        del self._waiting[waiting.connection.fileno()]
        self._bytes_in_memory -= len(waiting.first_bytes)


def _has_bytes(connection: socket.socket) -> bool:
    """Whether the peer has sent bytes that nobody has read."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _describe_invalid(first_bytes: bytearray) -> str:
    """Why the bytes are no acceptable A-ASSOCIATE-RQ, for the log."""
    if first_bytes[0] == _HANDSHAKE:
        return "a TLS handshake, and this port is the plain one"
    return "an A-ASSOCIATE-RQ too long" if first_bytes[0] == ASSOCIATE_RQ else "no A-ASSOCIATE-RQ"


def _request_size(first_bytes: bytearray) -> int | None:
    """The size in bytes of the A-ASSOCIATE-RQ that begins so, at least; None if it is none."""
    if first_bytes[0] != ASSOCIATE_RQ:
        return None
    if len(first_bytes) < 6:
        return 6
    (length,) = struct.unpack(">L", first_bytes[2:6])
    return None if length > MAX_REQUEST else 6 + int(length)
