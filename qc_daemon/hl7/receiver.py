"""Receives messages over MLLP: a thread a connection, a few connections at once."""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence

from qc_daemon.hl7.frames import Frame, FrameReader, write_frame
from qc_daemon.observe import log

MAX_CONNECTIONS = 16
"""A hospital has one or two senders of ADT messages."""
_IDLE_SECONDS = 3600.0  # A sender keeps its connection between messages; then it connects again.
_POLL_SECONDS = 0.5
_READ_BYTES = 64 << 10

Handshake = Callable[[socket.socket], socket.socket]
Handle = Callable[[Frame, str], bytes | None]
"""Gives the acknowledgement of a frame from an address; what it returns is on disk by then. None:
there is none, and the connection is closed."""


class _Place:
    """A connection's place among the few; `idle_since` (monotonic) is None while it has a message
    or its handshake."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.idle_since: float | None = None
        self.is_withdrawn = False


class MessageReceiver:
    """Accepts connections of one listening socket until `close`.

    `seconds` is what a message may take from its first byte to its last. `allowed` are networks.
    """

    def __init__(
        self,
        listener: socket.socket,
        handle: Handle,
        allowed: Sequence[str],
        seconds: float,
        handshake: Handshake | None = None,
    ) -> None:
        self._listener = listener
        self._handle = handle
        self._allowed = [ipaddress.ip_network(each, strict=False) for each in allowed]
        self._seconds = seconds
        self._handshake = handshake
        self._stop = threading.Event()
        self._log = log.get(role="schedule")
        self._places: dict[threading.Thread, _Place] = {}
        self._accepting = threading.Thread(target=self._accept, name="hl7-listener", daemon=True)

    def open(self) -> None:
        """Start to accept."""
        self._listener.settimeout(_POLL_SECONDS)
        self._accepting.start()

    def close(self) -> None:
        """Stop to accept, and wait until what was being handled is acknowledged."""
        self._stop.set()
        self._accepting.join()
        for thread in self._places:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                # No descriptor is left, or the caller has gone.
                self._stop.wait(_POLL_SECONDS)
                continue
            self._places = {
                thread: place for thread, place in self._places.items() if thread.is_alive()
            }
            caller = str(address[0])
            refusal = None
            if not self._is_allowed(caller):
                refusal = "its address is not in hl7.allow"
            elif not self._make_place():
                refusal = "too many connections"
            if refusal is not None:
                self._log.warning("hl7 caller refused", address=caller, reason=refusal)
                connection.close()
                continue
            # A sender that was switched off leaves its connection open.
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            place = _Place(caller)
            thread = threading.Thread(
                target=self._serve, args=(connection, place), name="hl7", daemon=True
            )
            self._places[thread] = place
            thread.start()

    def _make_place(self) -> bool:
        """Whether there is a place; where all are taken, the connection that is idle longest gives
        up its own."""
        taken = [each for each in self._places.values() if not each.is_withdrawn]
        if len(taken) < MAX_CONNECTIONS:
            return True
        # Threads set it to None meanwhile.
        idle = [(since, each) for each in taken if (since := each.idle_since) is not None]
        if not idle:
            return False
        _, longest = min(idle, key=lambda pair: pair[0])
        longest.is_withdrawn = True
        self._log.warning(
            "hl7 connection lost", address=longest.caller, reason="another one needs its place"
        )
        return True

    def _is_allowed(self, caller: str) -> bool:
        address = ipaddress.ip_address(caller.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._allowed)

    def _serve(self, plain: socket.socket, place: _Place) -> None:
        caller = place.caller
        try:
            connection = plain if self._handshake is None else self._handshake(plain)
        except OSError:
            self._log.warning(
                "hl7 caller refused", address=caller, reason="the TLS handshake failed"
            )
            return
        with contextlib.closing(connection):
            try:
                self._converse(connection, place)
            except OSError as error:
                reason = (error.strerror or "it broke off").lower()
                self._log.warning("hl7 connection lost", address=caller, reason=reason)
            except Exception as error:
                # One connection's failure is not the others'.
                self._log.error(
                    "hl7 connection failed",
                    address=caller,
                    error_type=type(error).__name__,
                    error_at=log.where(error),
                )

    def _converse(self, connection: socket.socket, place: _Place) -> None:
        reader, caller = FrameReader(), place.caller
        place.idle_since = time.monotonic()
        connection.settimeout(_POLL_SECONDS)
        until = time.monotonic() + _IDLE_SECONDS
        while not self._stop.is_set():
            try:
                received = connection.recv(_READ_BYTES)
            except TimeoutError:
                received = None
            if received is None:
                if place.is_withdrawn and not reader.is_inside:
                    return
                if time.monotonic() > until:
                    if reader.is_inside:
                        self._log.warning(
                            "hl7 connection lost", address=caller, reason="a message did not end"
                        )
                    return
                continue
            if not received:
                if reader.is_inside:
                    self._log.warning(
                        "hl7 connection lost", address=caller, reason="a message did not end"
                    )
                return
            place.idle_since = None
            was_inside = reader.is_inside
            has_ended = False
            for frame in reader.feed(received):
                has_ended = True
                answer = self._handle(frame, caller)
                if answer is None:
                    return
                connection.settimeout(self._seconds)
                connection.sendall(write_frame(answer))
                connection.settimeout(_POLL_SECONDS)
                if frame.is_last:
                    return
            if not reader.is_inside:
                if place.is_withdrawn:
                    return
                place.idle_since = time.monotonic()
                until = place.idle_since + _IDLE_SECONDS
            elif has_ended or not was_inside:
                until = time.monotonic() + self._seconds
            elif time.monotonic() > until:
                # It comes byte by byte, and holds a place.
                self._log.warning(
                    "hl7 connection lost", address=caller, reason="a message did not end"
                )
                return
