"""The connection of an association, read with few system calls and ahead of need."""

import queue
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Protocol

from pynetdicom.transport import AssociationSocket

# Bytes that are read ahead at most, so that headers, commands and small PDUs come with one call.
READ_AHEAD = 32 << 10


class InvalidPDUError(Exception):
    """The peer sent no PDU, or one of a type or size that we do not accept.

    The message is a reason for the log, without any value of the PDU.
    """


class CutOffError(InvalidPDUError):
    """Too many bytes came of an object that cannot be stored."""


class Source(Protocol):
    """Where the bytes of a fragment are read from."""

    def read(self, count: int) -> bytes: ...

    def read_into(self, buffer: memoryview) -> None: ...


class NotifyingQueue(queue.Queue):  # type: ignore[type-arg]
    """A queue that calls `notify` after each `put`."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._notify = notify

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._notify()


class Connection(AssociationSocket):  # type: ignore[misc]
    """pynetdicom's connection; its first bytes may have been read already."""

    socket: Any

    def __init__(self, association: Any, client_socket: socket.socket, first_bytes: bytes) -> None:
        super().__init__(association, client_socket=client_socket)
        # Bytes that were read from the socket and are not used yet.
        self._read_ahead = memoryview(first_bytes)
        self._buffer = memoryview(bytearray(READ_AHEAD))
        # A TLS socket takes no flags.
        self._recv_flags = 0 if isinstance(client_socket, ssl.SSLSocket) else socket.MSG_WAITALL

    @property
    def waiting(self) -> bool:
        """Whether there are bytes in memory, which a poll of the socket does not show."""
        return bool(self._read_ahead) or (
            isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0
        )

    @property
    def ready(self) -> bool:
        # select() fails for descriptors from 1,024 on; poll() takes any.
        if self.waiting:
            return True
        if self.socket is None:
            return False
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises ConnectionError if the peer closed first, or OSError."""
        if not self._read_ahead and count <= len(self._buffer):
            self._read_ahead = self._buffer[: check_received(self.socket.recv_into(self._buffer))]
        if count <= len(self._read_ahead):
            data, self._read_ahead = bytes(self._read_ahead[:count]), self._read_ahead[count:]
            return data
        buffer = bytearray(count)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def read_into(self, buffer: memoryview) -> None:
        """Fill the buffer; raises as `read` does."""
        if self._read_ahead:
            count = min(len(buffer), len(self._read_ahead))
            buffer[:count] = self._read_ahead[:count]
            self._read_ahead, buffer = self._read_ahead[count:], buffer[count:]
        while buffer:
            buffer = buffer[check_received(self.socket.recv_into(buffer, 0, self._recv_flags)) :]


def check_received(count: int) -> int:
    """The number of bytes that were received. Raises ConnectionError for 0, the peer's end."""
    if count == 0:
        raise ConnectionError
    return count


def set_timeouts(connection: socket.socket, seconds: float) -> None:
    """Limit each call's wait for the peer; the system's own limit saves a poll for each call."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(seconds)
        return
    connection.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)
