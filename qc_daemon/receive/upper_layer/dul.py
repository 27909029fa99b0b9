"""The upper layer service provider: reads PDUs, and sleeps while nobody sends."""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.dul import DULServiceProvider

from qc_daemon.dicom import associate_pdu
from qc_daemon.receive.upper_layer.transport import InvalidPDUError, NotifyingQueue

ASSOCIATE_RQ, P_DATA_TF = 0x01, 0x04
_PDU_TYPES = range(0x01, 0x08)
# Bytes of a PDU other than P-DATA-TF; an A-ASSOCIATE-RQ has kilobytes, 200 at most.
MAX_PDU_IN_MEMORY = 1 << 20
# Seconds between two checks of the timers, at most.
TIMER_SECONDS = 0.5
# States and events of the state machine (PS3.8 9.2).
_CONNECTED, _CLOSING = "Sta6", "Sta13"
_CLOSED, _INVALID = "Evt17", "Evt19"


class UpperLayerProvider(DULServiceProvider):  # type: ignore[misc]
    """pynetdicom's upper layer service provider, awake only when peer or user sends something."""

    socket: Any

    def __init__(self, association: Any, wake_user: Callable[[], None]) -> None:
        super().__init__(association)
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wakeup_lock = threading.Lock()
        self.to_provider_queue = NotifyingQueue(self.wake)
        self.to_user_queue = NotifyingQueue(wake_user)
        # We wait in _is_transport_event.
        self._run_loop_delay = 0
        self._poll: tuple[int, select.poll] | None = None
        self._reading = self._serving = False
        self._last_read = time.monotonic()

    def wake(self) -> None:
        """Wake the provider's thread."""
        with self._wakeup_lock:
            if self._wakeup_fd >= 0:
                os.eventfd_write(self._wakeup_fd, 1)

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception as error:
            # The state machine has no transition for the order of the PDUs, or for the source of an
            # abort: this association ends, and nothing else.
            self.assoc.report_broken("PDUs that nobody has an answer to", error)
        finally:
            with self._wakeup_lock:
                os.close(self._wakeup_fd)
                self._wakeup_fd = -1
            # If the association still waits for a request, none will come.
            self.to_user_queue.put(None)

    def kill_dul(self) -> None:
        super().kill_dul()
        self.wake()

    def stop_dul(self) -> bool:
        if self.state_machine.current_state != "Sta1":
            return False
        self._kill_thread = True
        self.wake()
        if threading.current_thread() is not self:
            self.join()
        return True

    def stop_reading(self) -> None:
        """End the reading of a PDU, whose rest may never come."""
        connection = self.socket.socket
        if self._reading and connection is not None:
            with contextlib.suppress(OSError):
                # The plain socket's method, which a TLS socket overrides.
                socket.socket.shutdown(connection, socket.SHUT_RD)

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == _CLOSING:
            event: bool = super()._is_transport_event()
            return event
        if self.socket is None or self.socket.socket is None:
            return False
        has_read = False
        # In mid-object the next PDU is coming, and a poll costs as much as the read.
        while self.event_queue.empty() and (self.assoc.dimse.is_storing or self._readable()):
            has_read = True
            self._read_pdu_data()
            self._restart_idle_timer()
            if self._kill_thread or self.to_provider_queue.queue:
                break
        return has_read

    def idle_timer_expired(self) -> bool:
        # While we write to disk and database, the peer is not idle but waits for us.
        return not self._serving and bool(super().idle_timer_expired())

    def idle_seconds(self) -> float:
        """Seconds since the peer has sent something; 0 while it sends or waits for our answer."""
        is_busy = self._reading or self._serving
        return 0.0 if is_busy else time.monotonic() - self._last_read

    def _restart_idle_timer(self) -> None:
        self._idle_timer.restart()
        self._last_read = time.monotonic()

    def _readable(self) -> bool:
        """Wait for the peer; returns whether it has sent something before our user or a timer."""
        connection = self.socket
        if connection.waiting:
            return True
        try:
            events = dict(self._poll_object(connection.socket.fileno()).poll(TIMER_SECONDS * 1000))
        except (AttributeError, ValueError):
            # Closed meanwhile, by an abort from another thread.
            self.event_queue.put(_CLOSED)
            return False
        if events.pop(self._wakeup_fd, 0):
            os.eventfd_read(self._wakeup_fd)
        return bool(events)

    def _poll_object(self, descriptor: int) -> select.poll:
        if self._poll is None or self._poll[0] != descriptor:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.register(self._wakeup_fd, select.POLLIN)
            self._poll = (descriptor, poll)
        return self._poll[1]

    def serve(self, work: Callable[[], None]) -> None:
        """Run `work` in the provider's own thread, which reads nothing meanwhile."""
        self._serving = True
        try:
            work()
        finally:
            self._restart_idle_timer()
            self._serving = False

    def send_now(self, pdu: bytes) -> None:
        """Send a P-DATA-TF; in the provider's own thread only."""
        self.socket.send(pdu)

    def _read_pdu_data(self) -> None:
        """Read one PDU; fragments of a data set go straight into the spool."""
        self._reading = True
        try:
            head = self.socket.read(6)
            kind, length = struct.unpack(">BxL", head)
            if kind == P_DATA_TF and self.state_machine.current_state == _CONNECTED:
                self._read_fragments(length)
                return
            if kind not in _PDU_TYPES or length > MAX_PDU_IN_MEMORY:
                raise InvalidPDUError
            pdu, event = self._read_and_decode(head, length)
        except InvalidPDUError as error:
            self.assoc.report_broken(str(error) or "a PDU that is none of the Standard")
            self.event_queue.put(_INVALID)
        except (OSError, AttributeError):
            # AttributeError: an abort from another thread took the socket away.
            self.event_queue.put(_CLOSED)
        else:
            self.event_queue.put(event)
            self._recv_pdu.put(pdu)
        finally:
            self._reading = False

    def _read_and_decode(self, head: bytes, length: int) -> tuple[Any, str]:
        pdu = head + self.socket.read(length)
        if pdu[0] == ASSOCIATE_RQ and self.assoc.associate_request is None:
            pdu = self._parse_request(pdu)
        try:
            decoded: tuple[Any, str] = self._decode_pdu(bytearray(pdu))
        except Exception as error:
            # pynetdicom's decoders raise almost anything on invalid bytes.
            raise InvalidPDUError from error
        return decoded

    def _parse_request(self, pdu: bytes) -> bytes:
        """An A-ASSOCIATE-RQ as pynetdicom parses it; the association gets the request."""
        try:
            request = self.assoc.associate_request = associate_pdu.parse_request(pdu)
        except associate_pdu.MalformedError as error:
            self.assoc.associate_request = associate_pdu.AssociateRequest(
                b"", *associate_pdu.titles(pdu)
            )
            raise InvalidPDUError(str(error)) from error
        return request.pdu

    def _read_fragments(self, length: int) -> None:
        """Read the presentation data values of a P-DATA-TF (PS3.8 9.3.5)."""
        while length:
            if length < 6:
                raise InvalidPDUError
            size, context_id, control = struct.unpack(">LBB", self.socket.read(6))
            if size < 2 or size + 4 > length:
                raise InvalidPDUError
            self.assoc.dimse.receive_fragment(context_id, control, size - 2, self.socket)
            length -= size + 4
