"""The connection of an association: few system calls; bytes read ahead wait in memory."""

import queue
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Protocol

from pynetdicom.transport import AssociationSocket

# Bytes read ahead at most: heads, commands, and some small PDUs whole come with one call.
READ_AHEAD = 32 << 10


class InvalidPDUError(Exception):
    """The peer sent what is no PDU, or one that is none of a kind and size that we read.

    The message is a reason for the log, without any value of the PDU.
    """


class CutOffError(InvalidPDUError):
    """Too much came of an object that cannot be kept."""


class Source(Protocol):
    """Where the bytes of a fragment are read from."""

    def read(self, count: int) -> bytes: ...

    def read_into(self, buffer: memoryview) -> None: ...


class NotifyingQueue(queue.Queue):  # type: ignore[type-arg]
    """A queue that calls `notify` when something is put in."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._notify = notify

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._notify()


class Connection(AssociationSocket):  # type: ignore[misc]
    """A connection read with few calls, whose first bytes may have been read already."""

    socket: Any

    def __init__(self, association: Any, client_socket: socket.socket, first_bytes: bytes) -> None:
        super().__init__(association, client_socket=client_socket)
        # Bytes read from the socket before anybody needed them.
        self._read_ahead = memoryview(first_bytes)
        self._buffer = memoryview(bytearray(READ_AHEAD))
        # A TLS socket takes no flags.
        self._recv_flags = 0 if isinstance(client_socket, ssl.SSLSocket) else socket.MSG_WAITALL

    @property
    def waiting(self) -> bool:
        """Whether bytes are here that no poll of the socket shows."""
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
        """Exactly so many bytes. Raises ConnectionError if the peer left first, or OSError."""
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
    if count == 0:
        raise ConnectionError
    return count


def set_timeouts(connection: socket.socket, seconds: float) -> None:
    """How long one call may wait for the peer; the system's limit saves Python a poll each time."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(seconds)
        return
    connection.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)
