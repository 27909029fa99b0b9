"""The door to the port: connections wait here, without thread or object, until they ask something.

A connection costs a descriptor and a few bytes until its whole A-ASSOCIATE-RQ is there; who says
nothing, or something else, is dropped: after the ARTIM time (PS3.8 9.1.5), at once if it is no
A-ASSOCIATE-RQ, and earlier if too many wait. So probes, port scans and a crowd that is silent hold
up no sender, which sends its request as soon as it is connected.
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

from qc_daemon.receive.upper_layer import ASSOCIATE_RQ

# Connections that have not asked yet, in one process; the oldest goes when one more comes.
MAX_WAITING = 128
# 128 presentation contexts with 50 transfer syntaxes each take 200 kB.
MAX_REQUEST = 512 << 10
MAX_REQUESTS_WAITING = 8 << 20
# How long a process with more associations than another leaves a connection to that one.
_COURTESY_SECONDS = 0.004
_NO_DESCRIPTOR_SECONDS = 0.1
# The first byte of a TLS record with a ClientHello (RFC 8446 5.1).
_HANDSHAKE = 0x16
# A-ABORT by the service provider, unexpected PDU (PS3.8 9.3.8).
_ABORT = struct.pack(">BxLxxBB", 0x07, 4, 0x02, 0x02)

Opened = Callable[[socket.socket, Any, bytes], None]


@dataclass
class _Caller:
    """A connection that has not asked yet."""

    connection: socket.socket
    address: Any
    until: float
    begun: bytearray = field(default_factory=bytearray)


class Gate:
    """Accepts connections of one listening socket in a thread, and passes on those that ask.

    `opened` gets the connection, its address and the bytes of the A-ASSOCIATE-RQ. With `encrypted`
    it gets it when the first byte is there, unread. `busier` says whether another process has less
    to do. `not_asked` hears of those that sent something else, with their address and a reason; who
    said nothing at all (a probe) is no news. The socket may be shared with other processes.
    """

    def __init__(
        self,
        listener: socket.socket,
        opened: Opened,
        seconds: float,
        *,
        encrypted: bool = False,
        busier: Callable[[], bool] = lambda: False,
        not_asked: Callable[[Any, str], None] = lambda _address, _reason: None,
    ) -> None:
        self.listener = listener
        self._opened = opened
        self._seconds = seconds
        self._encrypted = encrypted
        self._busier = busier
        self._not_asked = not_asked
        # In the order they came, and so in the order of their time.
        self._waiting: dict[int, _Caller] = {}
        self._held = 0
        self._selector = selectors.DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)

    def open(self) -> None:
        """Begin to accept."""
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Accept nothing more; those that have not asked are dropped."""
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        for caller in list(self._waiting.values()):
            self._drop(caller)
        self._selector.close()
        os.close(self._bell)
        # Closed, not shut down: other processes may share it.
        self.listener.close()

    @property
    def waiting(self) -> int:
        """How many connections have not asked yet."""
        return len(self._waiting)

    def _serve(self) -> None:
        while True:
            self._expire()
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fd == self._bell:
                    return
                else:
                    self._listen(key.data)

    def _patience(self) -> float | None:
        first = next(iter(self._waiting.values()), None)
        return None if first is None else max(0.0, first.until - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            if oldest.until > now and len(self._waiting) <= MAX_WAITING and self._fits():
                return
            self._drop(oldest)

    def _fits(self) -> bool:
        return self._held <= MAX_REQUESTS_WAITING

    def _accept(self) -> None:
        if self._busier():
            time.sleep(_COURTESY_SECONDS)
        try:
            connection, address = self.listener.accept()
        except BlockingIOError:
            # Another process was quicker.
            return
        except OSError:
            # Gone already, or no descriptor left: the longest silent one gives its own.
            if self._waiting:
                self._drop(next(iter(self._waiting.values())))
            else:
                time.sleep(_NO_DESCRIPTOR_SECONDS)
            return
        connection.setblocking(False)
        caller = _Caller(connection, address, time.monotonic() + self._seconds)
        self._waiting[connection.fileno()] = caller
        self._selector.register(connection, selectors.EVENT_READ, caller)

    def _listen(self, caller: _Caller) -> None:
        if self._waiting.get(caller.connection.fileno()) is not caller:
            # Dropped a moment ago, with its turn already called.
            return
        if self._encrypted:
            self._pass_on(caller)
            return
        try:
            heard = caller.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            self._drop(caller)
            return
        caller.begun += heard
        self._held += len(heard)
        size = _size(caller.begun)
        if size is None:
            with contextlib.suppress(OSError):
                caller.connection.send(_ABORT)
            self._drop(caller, _instead(caller.begun))
        elif len(caller.begun) >= size:
            self._pass_on(caller)

    def _pass_on(self, caller: _Caller) -> None:
        self._forget(caller)
        try:
            self._opened(caller.connection, caller.address, bytes(caller.begun))
        except (OSError, RuntimeError):
            # Gone already, or no thread to be had.
            caller.connection.close()

    def _drop(
        self, caller: _Caller, reason: str = "an A-ASSOCIATE-RQ that never became whole"
    ) -> None:
        self._forget(caller)
        caller.connection.close()
        if caller.begun:
            self._not_asked(caller.address, reason)

    def _forget(self, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        del self._waiting[caller.connection.fileno()]
        self._held -= len(caller.begun)


def _instead(begun: bytearray) -> str:
    """What somebody sends who does not ask for an association."""
    if begun[0] == _HANDSHAKE:
        return "a TLS handshake, and this port is the plain one"
    return "an A-ASSOCIATE-RQ too long" if begun[0] == ASSOCIATE_RQ else "no A-ASSOCIATE-RQ"


def _size(begun: bytearray) -> int | None:
    """How many bytes the A-ASSOCIATE-RQ that begins so has, at least; None if it is none."""
    if begun[0] != ASSOCIATE_RQ:
        return None
    if len(begun) < 6:
        return 6
    (length,) = struct.unpack(">L", begun[2:6])
    return None if length > MAX_REQUEST else 6 + int(length)
