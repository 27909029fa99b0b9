"""The acceptor's side of an association: pynetdicom's, without its polling and its copies.

pynetdicom reads its socket in 4,096-byte pieces, copies a data set five times, and has two threads
an association that wake up a thousand times a second. The subclasses here wait for what they need,
let the bytes of a C-STORE go from the socket straight into the spool's buffer, and answer it in the
thread that has read it. Everything else (state machine, negotiation, DIMSE, services, and any
C-STORE that is not the usual one) stays pynetdicom's; nothing of it is changed for others in the
process. What we override is pinned by tests/receive/test_upper_layer.py.
"""

import contextlib
import io
import os
import queue
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation, AssociationSocket

from qc_daemon.dicom import associate_pdu, data_set_size, dimse_request
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.observe import log
from qc_daemon.receive import c_store_command
from qc_daemon.receive.identifiers import file_head
from qc_daemon.receive.presentation_contexts import SOP_CLASSES
from qc_daemon.spool.spool import Incoming, Spool

ASSOCIATE_RQ, P_DATA_TF = 0x01, 0x04
_PDU_TYPES = range(0x01, 0x08)
# A PDU that is no P-DATA is held in memory; an A-ASSOCIATE-RQ takes some kilobytes, 200 at most.
MAX_PDU_IN_MEMORY = 1 << 20
# So is a command set, which pynetdicom parses: some hundred bytes.
MAX_COMMAND = 16 << 10
# And data sets other than a C-STORE's, each and those of all associations of the process together.
MAX_DATA_SETS_IN_MEMORY = 4 * data_set_size.MAX_BYTES
# Requests of an association that wait for their turn; one at a time is what is negotiated.
MAX_REQUESTS = 64
# What may come of an object that cannot be kept: less than this, and its sender hears the status at
# its end; more, and the association is aborted.
MAX_LOST = 16 << 20
# How long a thread waits before it looks at its timers.
_LOOK_SECONDS = 0.5
# Read at once where few bytes are asked for: heads, commands, and some small PDUs whole.
_AHEAD = 32 << 10

_COMMAND, _LAST = 0x01, 0x02
_CONNECTED, _CLOSING = "Sta6", "Sta13"
_CLOSED, _INVALID = "Evt17", "Evt19"


class InvalidPDUError(Exception):
    """The peer sent what is no PDU, or one that is none of ours to keep in memory.

    The message is a reason for the log, without any value of the PDU.
    """


class CutOffError(InvalidPDUError):
    """Too much came of an object that cannot be kept."""


class Source(Protocol):
    """Where the bytes of a fragment are read from."""

    def read(self, count: int) -> bytes: ...

    def read_into(self, buffer: memoryview) -> None: ...


class _Ringing(queue.Queue):  # type: ignore[type-arg]
    """A queue that tells when something is put in."""

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__()
        self._ring = ring

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._ring()


class Connection(AssociationSocket):  # type: ignore[misc]
    """A connection read with few calls, whose first bytes may have been read already."""

    socket: Any

    def __init__(self, association: Any, client_socket: socket.socket, begun: bytes) -> None:
        super().__init__(association, client_socket=client_socket)
        # What was read ahead and not asked for yet.
        self._ahead = memoryview(begun)
        self._space = memoryview(bytearray(_AHEAD))
        # A TLS socket takes no flags.
        self._whole = 0 if isinstance(client_socket, ssl.SSLSocket) else socket.MSG_WAITALL

    @property
    def waiting(self) -> bool:
        """Whether bytes lie here that no poll of the socket would tell of."""
        return bool(self._ahead) or (
            isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0
        )

    @property
    def ready(self) -> bool:
        # select() fails for descriptors from 1,024 on; poll() takes any.
        if self.waiting:
            return True
        if self.socket is None:
            return False
        look = select.poll()
        look.register(self.socket, select.POLLIN)
        return bool(look.poll(0))

    def read(self, count: int) -> bytes:
        """Exactly so many bytes. Raises ConnectionError if the peer left first, or OSError."""
        if not self._ahead and count <= len(self._space):
            self._ahead = self._space[: _some(self.socket.recv_into(self._space))]
        if count <= len(self._ahead):
            taken, self._ahead = bytes(self._ahead[:count]), self._ahead[count:]
            return taken
        buffer = bytearray(count)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def read_into(self, buffer: memoryview) -> None:
        """Fill the buffer; raises as `read` does."""
        if self._ahead:
            taken = min(len(buffer), len(self._ahead))
            buffer[:taken] = self._ahead[:taken]
            self._ahead, buffer = self._ahead[taken:], buffer[taken:]
        while buffer:
            buffer = buffer[_some(self.socket.recv_into(buffer, 0, self._whole)) :]


def _some(count: int) -> int:
    if count == 0:
        raise ConnectionError
    return count


class Provider(DULServiceProvider):  # type: ignore[misc]
    """The upper layer service provider, awake only when the peer or its user wants something."""

    socket: Any

    def __init__(self, association: Any, wake_user: Callable[[], None]) -> None:
        super().__init__(association)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell_lock = threading.Lock()
        self.to_provider_queue = _Ringing(self.ring)
        self.to_user_queue = _Ringing(wake_user)
        # We wait in _is_transport_event.
        self._run_loop_delay = 0
        self._poll: tuple[int, select.poll] | None = None
        self._reading = self._serving = False

    def ring(self) -> None:
        """Wake the provider's thread."""
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception as error:
            # PDUs in an order, or an abort from a source, that the state machine has no answer to:
            # this association is over, and nothing else.
            self.assoc.broken("PDUs that nobody has an answer to", error)
        finally:
            with self._bell_lock:
                os.close(self._bell)
                self._bell = -1
            # If the association still waits for a request, none will come.
            self.to_user_queue.put(None)

    def kill_dul(self) -> None:
        super().kill_dul()
        self.ring()

    def stop_dul(self) -> bool:
        if self.state_machine.current_state != "Sta1":
            return False
        self._kill_thread = True
        self.ring()
        if threading.current_thread() is not self:
            self.join()
        return True

    def hang_up(self) -> None:
        """Give up a PDU that is being read: its rest may never come."""
        connection = self.socket.socket
        if self._reading and connection is not None:
            with contextlib.suppress(OSError):
                # The plain socket's, which a TLS one hides.
                socket.socket.shutdown(connection, socket.SHUT_RD)

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == _CLOSING:
            event: bool = super()._is_transport_event()
            return event
        if self.socket is None or self.socket.socket is None:
            return False
        found = False
        # In mid-object the next PDU is on its way, and to ask whether it has come costs as much.
        while self.event_queue.empty() and (self.assoc.dimse.is_storing or self._readable()):
            found = True
            self._read_pdu_data()
            self._idle_timer.restart()
            if self._kill_thread or self.to_provider_queue.queue:
                break
        return found

    def idle_timer_expired(self) -> bool:
        # To wait for our own disk and database is no idleness of the peer.
        return not self._serving and bool(super().idle_timer_expired())

    def _readable(self) -> bool:
        """Wait until the peer has sent something; False if our user, or a timer, comes first."""
        connection = self.socket
        if connection.waiting:
            return True
        try:
            told = dict(self._waits_for(connection.socket.fileno()).poll(_LOOK_SECONDS * 1000))
        except (AttributeError, ValueError):
            # Closed meanwhile, by an abort from another thread.
            self.event_queue.put(_CLOSED)
            return False
        if told.pop(self._bell, 0):
            os.eventfd_read(self._bell)
        return bool(told)

    def _waits_for(self, descriptor: int) -> select.poll:
        if self._poll is None or self._poll[0] != descriptor:
            made = select.poll()
            made.register(descriptor, select.POLLIN)
            made.register(self._bell, select.POLLIN)
            self._poll = (descriptor, made)
        return self._poll[1]

    def serve(self, work: Callable[[], None]) -> None:
        """Do what was asked for in the provider's own thread, which reads nothing meanwhile."""
        self._serving = True
        try:
            work()
        finally:
            self._idle_timer.restart()
            self._serving = False

    def send_now(self, pdu: bytes) -> None:
        """Send a P-DATA-TF; in the provider's own thread only."""
        self.socket.send(pdu)

    def _read_pdu_data(self) -> None:
        """Read one PDU; a fragment of a data set goes straight to where it is kept."""
        self._reading = True
        try:
            head = self.socket.read(6)
            kind, length = struct.unpack(">BxL", head)
            if kind == P_DATA_TF and self.state_machine.current_state == _CONNECTED:
                self._read_fragments(length)
                return
            if kind not in _PDU_TYPES or length > MAX_PDU_IN_MEMORY:
                raise InvalidPDUError
            pdu, event = self._decoded(head, length)
        except InvalidPDUError as error:
            self.assoc.broken(str(error) or "a PDU that is none of the Standard")
            self.event_queue.put(_INVALID)
        except (OSError, AttributeError):
            # AttributeError: an abort from another thread took the socket away.
            self.event_queue.put(_CLOSED)
        else:
            self.event_queue.put(event)
            self._recv_pdu.put(pdu)
        finally:
            self._reading = False

    def _decoded(self, head: bytes, length: int) -> tuple[Any, str]:
        pdu = head + self.socket.read(length)
        if pdu[0] == ASSOCIATE_RQ and self.assoc.asked is None:
            pdu = self._read_request(pdu)
        try:
            decoded: tuple[Any, str] = self._decode_pdu(bytearray(pdu))
        except Exception as error:
            # pynetdicom's decoders raise what rubbish leads them to.
            raise InvalidPDUError from error
        return decoded

    def _read_request(self, pdu: bytes) -> bytes:
        """An A-ASSOCIATE-RQ as pynetdicom takes it; the association keeps what was asked."""
        try:
            asked = self.assoc.asked = associate_pdu.read_request(pdu)
        except associate_pdu.MalformedError as error:
            self.assoc.asked = associate_pdu.Request(b"", *associate_pdu.titles(pdu))
            raise InvalidPDUError(str(error)) from error
        return asked.pdu

    def _read_fragments(self, length: int) -> None:
        """The presentation data values of a P-DATA-TF (PS3.8 9.3.5)."""
        while length:
            if length < 6:
                raise InvalidPDUError
            size, context_id, control = struct.unpack(">LBB", self.socket.read(6))
            if size < 2 or size + 4 > length:
                raise InvalidPDUError
            self.assoc.dimse.receive_fragment(context_id, control, size - 2, self.socket)
            length -= size + 4


class Messages(DIMSEServiceProvider):  # type: ignore[misc]
    """The DIMSE provider, with the data sets of C-STORE requests in the spool."""

    message: Any

    def __init__(
        self,
        association: Any,
        spool: Spool,
        has_room: Callable[[], bool],
        wake_user: Callable[[], None],
    ) -> None:
        super().__init__(association)
        self.msg_queue = _Ringing(wake_user)
        self._spool = spool
        self._has_room = has_room
        # The usual C-STORE that is coming in.
        self._storing: _Storing | None = None
        # Of the data set of another request: bytes that are held, and bytes that were too many.
        self._held = self._excess = 0

    @property
    def is_storing(self) -> bool:
        """Whether the rest of a C-STORE's data set is to come."""
        return self._storing is not None

    def receive_fragment(self, context_id: int, control: int, count: int, source: Source) -> None:
        """Take one fragment (PS3.8 E.2) from the connection.

        Raises InvalidPDUError, OSError (the connection failed).
        """
        if control & _COMMAND:
            self._receive_command(context_id, control, count, source)
        elif self._storing is not None:
            if self._storing.context_id != context_id:
                raise InvalidPDUError
            try:
                _fill(self._storing.incoming, count, source)
            except CutOffError:
                storing, self._storing = self._storing, None
                self._answer(storing)
                raise
            if control & _LAST:
                storing, self._storing = self._storing, None
                self._received(storing)
        else:
            self._receive_data(context_id, control, count, source)

    def _receive_command(self, context_id: int, control: int, count: int, source: Source) -> None:
        message = self.message
        before = 0 if message is None else message.encoded_command_set.tell()
        if self._storing is not None or before + count > MAX_COMMAND:
            raise InvalidPDUError("a command set where none may be, or too long")
        encoded = source.read(count)
        if message is None and control & _LAST:
            request = c_store_command.store_request(encoded)
            if request is not None and self._is_storable(request, context_id):
                incoming = self._open(context_id, request.sop_class_uid, request.sop_instance_uid)
                self._storing = _Storing(context_id, request, incoming)
                return
        self._deliver(context_id, control, encoded)
        if isinstance(self.message, C_STORE_RQ) and self.message._data_set_file is None:
            self.message._data_set_file = _Received(self._place(context_id, self.message))

    def _place(self, context_id: int, message: Any) -> Incoming:
        """Where the data set of a C-STORE goes that is not the usual one: nowhere, if refused."""
        context = self.assoc._accepted_cx.get(context_id)
        try:
            request = message.message_to_primitive()
        except Exception as error:
            # pynetdicom's setters raise what rubbish leads them to.
            raise InvalidPDUError("a command set cannot be read") from error
        if context is None or self.assoc.refusal(request, str(context.abstract_syntax)):
            return Incoming(None)
        return self._open(
            context_id, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        )

    def _receive_data(self, context_id: int, control: int, count: int, source: Source) -> None:
        message = self.message
        if message is None or message.context_id != context_id:
            # A data set that no command announced.
            raise InvalidPDUError
        if message._data_set_file is None:
            self._deliver(context_id, control, self._collect(count, source))
            return
        _fill(message._data_set_file.incoming, count, source)
        if control & _LAST:
            self._deliver(context_id, control, b"")

    def _is_storable(self, request: c_store_command.StoreRequest, context_id: int) -> bool:
        """Whether it is one that pynetdicom need not look at; the handler asks once more."""
        context = self.assoc._accepted_cx.get(context_id)
        return (
            context is not None
            and context.abstract_syntax == request.sop_class_uid
            and request.sop_class_uid in SOP_CLASSES
        )

    def _received(self, storing: "_Storing") -> None:
        """Answer at once where the association is up and nothing else waits for its answer."""
        most = self.maximum_pdu_size
        # In this order: the association's thread is at work before it takes a message.
        free = self.msg_queue.empty() and self.assoc._is_paused
        if self.assoc.is_established and free and not 0 < most < c_store_command.LONGEST_RESPONSE:
            self.dul.serve(lambda: self._answer(storing))
        else:
            self.msg_queue.put((storing.context_id, storing.primitive()))

    def _answer(self, storing: "_Storing") -> None:
        try:
            status = evt.trigger(
                self.assoc,
                evt.EVT_C_STORE,
                {
                    "request": storing.primitive(),
                    "context": self.assoc._accepted_cx[storing.context_id].as_tuple,
                },
            )
        finally:
            storing.incoming.discard()
        if self.assoc.is_established:
            code, comment = (
                (status, "") if isinstance(status, int) else (status.Status, status.ErrorComment)
            )
            answer = c_store_command.store_response(storing.request, code, comment)
            self.dul.send_now(c_store_command.in_one_pdu(storing.context_id, answer))

    def abandon(self) -> None:
        """Drop the object whose last byte will not come, and those that nobody will look at."""
        if self._storing is not None:
            self._storing.incoming.discard()
        _drop(getattr(self.message, "_data_set_file", None))
        _budget.give(self._held)
        self._held = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self.release(self.msg_queue.get_nowait()[1])

    def _collect(self, count: int, source: Source) -> bytes:
        """A fragment of a data set that is parsed; nothing from where it is too much on."""
        fits = self._held + count <= data_set_size.MAX_BYTES
        if not self._excess and fits and _budget.take(count):
            self._held += count
            return source.read(count)
        self._excess += count
        if self._excess > MAX_LOST:
            raise InvalidPDUError("a data set too long to be held goes on")
        _pass_over(count, source)
        return b""

    def _deliver(self, context_id: int, control: int, data: bytes) -> None:
        """What pynetdicom's receive_primitive does, but that nothing is logged and ignored there,
        and that no request is served in a thread of its own: the association's is free for it."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + data))
        self.message = self.message or DIMSEMessage()
        try:
            if not self.message.decode_msg(primitive, self.assoc):
                return
            made = self.message.message_to_primitive()
        except Exception as error:
            # A command set that is none; pydicom raises what rubbish leads it to.
            raise InvalidPDUError("a command set that cannot be read") from error
        self.message = None
        made.held, self._held, excess, self._excess = self._held, 0, self._excess, 0
        if excess:
            made.excess = "the data set is too long, or too much is held already"
        if isinstance(made, C_CANCEL):
            # Of what is served here nothing lasts long enough to be cancelled.
            self.release(made)
            return
        if self.msg_queue.qsize() >= MAX_REQUESTS:
            self.release(made)
            raise InvalidPDUError("more requests at once than negotiated")
        self.msg_queue.put((context_id, made))

    def release(self, message: Any) -> None:
        """Let go of what is held for a message that is served or dropped."""
        _drop(getattr(message, "_dataset_file", None))
        _budget.give(getattr(message, "held", 0))
        with contextlib.suppress(AttributeError):
            message.held = 0

    def _open(self, context_id: int, sop_class: str, sop_instance: str) -> Incoming:
        context = self.assoc._accepted_cx.get(context_id)
        if context is None:
            raise InvalidPDUError
        try:
            head = file_head(
                sop_class,
                sop_instance,
                str(context.transfer_syntax[0]),
                IMPLEMENTATION_CLASS_UID,
                IMPLEMENTATION_VERSION_NAME,
            )
        except ValueError as error:
            raise InvalidPDUError from error
        incoming = self._spool.open(self._has_room)
        incoming.write(head)
        incoming.data_set_offset = len(head)
        return incoming


@dataclass(frozen=True, slots=True)
class _Storing:
    """A C-STORE whose data set is coming in."""

    context_id: int
    request: c_store_command.StoreRequest
    incoming: Incoming

    def primitive(self) -> C_STORE:
        """The request as pynetdicom's handlers and services know it."""
        made = C_STORE()
        made.MessageID = self.request.message_id
        made.Priority = self.request.priority
        made.AffectedSOPClassUID = self.request.sop_class_uid
        made.AffectedSOPInstanceUID = self.request.sop_instance_uid
        made.DataSet = io.BytesIO()
        made._context_id = self.context_id
        made._dataset_file = _Received(self.incoming)
        return made


def _fill(incoming: Incoming, count: int, source: Source) -> None:
    while count:
        space = incoming.space(count)
        source.read_into(space)
        incoming.filled(len(space))
        count -= len(space)
        if incoming.lost > MAX_LOST:
            raise CutOffError("an object that cannot be kept goes on")


def _pass_over(count: int, source: Source) -> None:
    while count:
        count -= len(source.read(min(count, _AHEAD)))


class _Budget:
    """So many bytes that all associations of the process may hold together."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there is so much left; it is then taken."""
        with self._lock:
            fits = count <= self._left
            self._left -= count if fits else 0
            return fits

    def give(self, count: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._left += count


_budget = _Budget(MAX_DATA_SETS_IN_MEMORY)


def _drop(received: "_Received | None") -> None:
    if received is not None:
        received.close()


class _Received:
    """What pynetdicom wants of the file of a data set."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.name = str(incoming.path)

    @property
    def file(self) -> "_Received":
        return self

    def write(self, data: bytes) -> None:
        """Nothing: the last fragment comes through pynetdicom without its bytes."""

    def flush(self) -> None:
        """Nothing: the handler asks for every byte at once, with `Incoming.finish`."""

    def close(self) -> None:
        self.incoming.discard()


class Acceptor(Association):  # type: ignore[misc]
    """An association that somebody opened to us; its server hears of its end."""

    is_established: bool
    # What the caller may ask for, as dimse_request names operations; nothing until it is judged.
    permitted: Collection[str] = ()
    # What it asked for with its A-ASSOCIATE-RQ; None until that is there.
    asked: associate_pdu.Request | None = None

    def __init__(self, server: "Server", client_socket: socket.socket, begun: bytes) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self._news = threading.Event()
        self._server = server
        self.dul = Provider(self, self.wake)
        self.dimse = Messages(self, server.spool, server.has_room, self.wake)
        # The setters hand these on to the provider, which is a new one.
        self.acse_timeout, self.network_timeout = server.ae.acse_timeout, server.ae.network_timeout
        # By this name pynetdicom tells acceptors from other threads.
        self.name = f"AcceptorThread@{client_socket.fileno()}"
        self.set_socket(Connection(self, client_socket, begun))

    def _bind_defaults(self) -> None:
        # Not the loggers of every PDU and message, which quote values; the server binds the rest.
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def wake(self) -> None:
        """Let the association's thread look for news."""
        self._news.set()

    def kill(self) -> None:
        self.wake()
        self.dul.hang_up()
        super().kill()

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            self.wake()
            self._close()
            self._server.ended(self)

    def _close(self) -> None:
        """Whatever ended the thread: no descriptor, file or provider outlives it."""
        self.dul._kill_thread = True
        self.dul.ring()
        connection = self.dul.socket.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._started_dul:
            self.dul.join()
        if connection is not None:
            connection.close()
        self.dimse.abandon()

    def broken(self, reason: str, error: Exception | None = None) -> None:
        """Tell of a PDU that ends the association, or comes in the place of one."""
        if not self.permitted and not self.is_rejected:
            self._server.not_asked(self, reason)
            return
        log.get(role="receive").warning(
            "association broken",
            reason=reason,
            calling_ae=self.calling_ae,
            address=self.requestor.address_info.address,
            error_type=None if error is None else type(error).__name__,
            error_at=None if error is None else log.where(error),
        )

    def refusal(self, request: Any, abstract_syntax: str) -> dimse_request.Refusal | None:
        """Why a request over a context of this abstract syntax must not be served, if so."""
        return dimse_request.refusal(request, abstract_syntax, self._server.served, self.permitted)

    def _serve_request(self, message: Any, context_id: int) -> None:
        """Serve a request, or say why not: one that is left without an answer holds up its sender.

        pynetdicom chooses the service by the SOP class that the request names, whatever its
        presentation context was accepted for, and ignores a request that is not whole.
        """
        if not dimse_request.is_request(message):
            # An answer that nobody waits for any more, or C-CANCEL of what is done.
            return
        context = self._accepted_cx.get(context_id)
        if context is not None:
            dimse_request.measure(message, str(context.transfer_syntax[0]))
        refusal = None if context is None else self.refusal(message, str(context.abstract_syntax))
        if context is not None and refusal is None:
            super()._serve_request(message, context_id)
            return
        reason = "no such presentation context" if refusal is None else refusal.reason
        answer = None if refusal is None else dimse_request.response(message, refusal)
        log.get(role="receive").warning(
            "request refused",
            reason=reason,
            status=None if refusal is None else f"{refusal.status:04X}",
            calling_ae=self.calling_ae,
            address=self.requestor.address_info.address,
        )
        if answer is None:
            self.abort()
        else:
            self.dimse.send_msg(answer, context_id)

    @property
    def calling_ae(self) -> str:
        """The requestor's AE title without padding; empty before it has asked."""
        return "" if self.asked is None else self.asked.calling_ae

    def _run_reactor(self) -> None:
        while not self._kill:
            # Others may send on this association while we wait (N-EVENT-REPORT).
            self._is_paused = True
            self._news.wait(_LOOK_SECONDS)
            self._news.clear()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            if self._kill:
                return
            context_id, message = self.dimse.get_msg()
            while message:
                self._serve_request(message, context_id)
                # Also where it was a C-STORE that pynetdicom asks no handler about.
                self.dimse.release(message)
                context_id, message = self.dimse.get_msg()
            if self._is_over():
                self.kill()
                return

    def _is_over(self) -> bool:
        """Whether the peer released or aborted, or the connection is lost or idle too long."""
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            evt.trigger(self, evt.EVT_RELEASED, {})
            return True
        if self.acse.is_aborted():
            self.dul.receive_pdu(wait=False)
            self.is_aborted = True
            self.is_established = False
            evt.trigger(self, evt.EVT_ABORTED, {})
            return True
        if not self.dul.is_alive():
            return True
        if self.dul.idle_timer_expired():
            self.abort()
            return True
        return False


class Server:
    """What pynetdicom's acceptors want of their server: no socket, no thread of its own."""

    def __init__(
        self,
        ae: Any,
        spool: Spool,
        contexts: list[Any],
        handlers: list[tuple[Any, Callable[[Any], Any]]],
        ended: Callable[[Any], None],
        served: Mapping[str, Collection[str]],
        has_room: Callable[[], bool] = lambda: True,
        not_asked: Callable[[Any, str], None] = lambda _association, _reason: None,
    ) -> None:
        self.ae = ae
        self.spool = spool
        self.contexts = contexts
        self.ended = ended
        # The SOP classes of each operation that the handlers serve.
        self.served = served
        # Whether objects in mid-receipt may go on to fill the disk.
        self.has_room = has_room
        # Hears of an association that ended, and why, before it was asked for as the Standard says.
        self.not_asked = not_asked
        self._handlers = handlers

    def accept(self, client_socket: socket.socket, address: Any, begun: bytes) -> Acceptor:
        """An association on a new connection, as pynetdicom's RequestHandler makes one.

        Not started yet. Raises OSError if the connection is gone.
        """
        _limit(client_socket, self.ae.network_timeout)
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association = Acceptor(self, client_socket, begun)
        ours, theirs = association.acceptor, association.requestor
        ours.maximum_length = self.ae.maximum_pdu_size
        ours.ae_title = self.ae.ae_title
        ours.address_info = AddressInformation.from_tuple(client_socket.getsockname())
        ours.implementation_class_uid = self.ae.implementation_class_uid
        ours.implementation_version_name = self.ae.implementation_version_name
        # Not copies, as pynetdicom has: negotiation changes none of these 1,700 pairs.
        ours.supported_contexts = list(self.contexts)
        theirs.address_info = AddressInformation.from_tuple(address)
        for event, handler in self._handlers:
            association.bind(event, handler)
        return association

    def shutdown_request(self, request: Any) -> None:
        """pynetdicom is done with a connection; the association closes it itself."""


def _limit(connection: socket.socket, seconds: float) -> None:
    """How long one call may wait for the peer; the system's limit saves Python a poll each time."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(seconds)
        return
    connection.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)
