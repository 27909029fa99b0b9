"""The DIMSE provider: writes the data sets of C-STORE requests from the socket into the spool."""

import contextlib
import io
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom import evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, C_STORE
from pynetdicom.pdu_primitives import P_DATA

from qc_daemon.dicom import data_set_size
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.receive.identifiers import file_head
from qc_daemon.receive.presentation_contexts import SOP_CLASSES
from qc_daemon.receive.upper_layer import c_store_command
from qc_daemon.receive.upper_layer.transport import (
    READ_AHEAD,
    CutOffError,
    InvalidPDUError,
    NotifyingQueue,
    Source,
)
from qc_daemon.spool.spool import Incoming, Spool

# Bytes of a command set, which pynetdicom parses in memory; a usual one has a few hundred.
MAX_COMMAND = 16 << 10
# Bytes in memory of all data sets that are not a C-STORE's, in the whole process.
MAX_DATA_SETS_IN_MEMORY = 4 * data_set_size.MAX_BYTES
# Requests of an association in its queue; one at a time is what is negotiated.
MAX_REQUESTS = 64
# Bytes of an object that cannot be stored. Up to this its sender gets the status at the object's
# end; beyond it the association is aborted.
MAX_DISCARDED = 16 << 20
# Bits of a message control header (PS3.8 E.2): a command, the last fragment.
_COMMAND, _LAST = 0x01, 0x02


class DimseProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """pynetdicom's DIMSE provider, with the data sets of C-STORE requests in the spool."""

    message: Any

    def __init__(
        self,
        association: Any,
        spool: Spool,
        has_room: Callable[[], bool],
        wake_user: Callable[[], None],
    ) -> None:
        super().__init__(association)
        self.msg_queue = NotifyingQueue(wake_user)
        self._spool = spool
        self._has_room = has_room
        # The usual C-STORE that is coming in.
        self._storing: _StoreInProgress | None = None
        # Of the data set of another request: bytes in memory, and bytes beyond the limit.
        self._bytes_in_memory = self._excess = 0

    @property
    def is_storing(self) -> bool:
        """Whether a C-STORE's data set is coming in."""
        return self._storing is not None

    def receive_fragment(self, context_id: int, control: int, count: int, source: Source) -> None:
        """Read one fragment (PS3.8 E.2) from the connection.

        Raises InvalidPDUError, OSError (the connection failed).
        """
        if control & _COMMAND:
            self._receive_command(context_id, control, count, source)
        elif self._storing is not None:
            if self._storing.context_id != context_id:
                raise InvalidPDUError
            try:
                _write_to_spool(self._storing.incoming, count, source)
            except CutOffError:
                storing, self._storing = self._storing, None
                self._answer(storing)
                raise
            if control & _LAST:
                storing, self._storing = self._storing, None
                self._on_stored(storing)
        else:
            self._receive_data(context_id, control, count, source)

    def _receive_command(self, context_id: int, control: int, count: int, source: Source) -> None:
        message = self.message
        before = 0 if message is None else message.encoded_command_set.tell()
        if self._storing is not None or before + count > MAX_COMMAND:
            raise InvalidPDUError("a command set where none may be, or too long")
        encoded = source.read(count)
        if message is None and control & _LAST:
            request = c_store_command.parse_store_request(encoded)
            if request is not None and self._is_storable(request, context_id):
                incoming = self._open(context_id, request.sop_class_uid, request.sop_instance_uid)
                self._storing = _StoreInProgress(context_id, request, incoming)
                return
        self._decode_fragment(context_id, control, encoded)
        if isinstance(self.message, C_STORE_RQ) and self.message._data_set_file is None:
            self.message._data_set_file = _DataSetFile(self._open_unusual(context_id, self.message))

    def _open_unusual(self, context_id: int, message: Any) -> Incoming:
        """The spool file for an unusual C-STORE; if that is refused, one that stores nothing."""
        context = self.assoc._accepted_cx.get(context_id)
        try:
            request = message.message_to_primitive()
        except Exception as error:
            # pynetdicom's setters raise almost anything on invalid values.
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
            self._decode_fragment(context_id, control, self._collect(count, source))
            return
        _write_to_spool(message._data_set_file.incoming, count, source)
        if control & _LAST:
            self._decode_fragment(context_id, control, b"")

    def _is_storable(self, request: c_store_command.StoreRequest, context_id: int) -> bool:
        """Whether pynetdicom need not parse the request; the handler checks it again."""
        context = self.assoc._accepted_cx.get(context_id)
        return (
            context is not None
            and context.abstract_syntax == request.sop_class_uid
            and request.sop_class_uid in SOP_CLASSES
        )

    def _on_stored(self, storing: "_StoreInProgress") -> None:
        """Answer in this thread, if the association is established and has no other message."""
        max_pdu = self.maximum_pdu_size
        # In this order: the association's thread is no longer paused when it takes a message.
        is_idle = self.msg_queue.empty() and self.assoc._is_paused
        if self.assoc.is_established and is_idle and not 0 < max_pdu < c_store_command.MAX_RESPONSE:
            self.dul.serve(lambda: self._answer(storing))
        else:
            self.msg_queue.put((storing.context_id, storing.primitive()))

    def _answer(self, storing: "_StoreInProgress") -> None:
        """Call the handler and send its response."""
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
            answer = c_store_command.encode_store_response(storing.request, code, comment)
            self.dul.send_now(c_store_command.encode_pdu(storing.context_id, answer))

    def abandon(self) -> None:
        """Drop the object that is coming in and every message in the queue."""
        if self._storing is not None:
            self._storing.incoming.discard()
        _close_file(getattr(self.message, "_data_set_file", None))
        memory_budget.release(self._bytes_in_memory)
        self._bytes_in_memory = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self.release(self.msg_queue.get_nowait()[1])

    def _collect(self, count: int, source: Source) -> bytes:
        """Read a fragment of a data set that is parsed; empty from the limit on."""
        fits = self._bytes_in_memory + count <= data_set_size.MAX_BYTES
        if not self._excess and fits and memory_budget.reserve(count):
            self._bytes_in_memory += count
            return source.read(count)
        self._excess += count
        if self._excess > MAX_DISCARDED:
            raise InvalidPDUError("a data set too long to be held goes on")
        _skip(count, source)
        return b""

    def _decode_fragment(self, context_id: int, control: int, data: bytes) -> None:
        """Do what pynetdicom's `receive_primitive` does, with two differences.

        An error raises InvalidPDUError, where that only logs it; and no request is served in a
        thread of its own, because the association's thread is free for it.
        """
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + data))
        self.message = self.message or DIMSEMessage()
        try:
            if not self.message.decode_msg(primitive, self.assoc):
                return
            request = self.message.message_to_primitive()
        except Exception as error:
            # pydicom raises almost anything on bytes that are no command set.
            raise InvalidPDUError("a command set that cannot be read") from error
        self.message = None
        request.bytes_in_memory, self._bytes_in_memory = self._bytes_in_memory, 0
        excess, self._excess = self._excess, 0
        if excess:
            request.excess = "the data set is too long, or too much is held already"
        if isinstance(request, C_CANCEL):
            # No operation here lasts long enough to be cancelled.
            self.release(request)
            return
        if self.msg_queue.qsize() >= MAX_REQUESTS:
            self.release(request)
            raise InvalidPDUError("more requests at once than negotiated")
        self.msg_queue.put((context_id, request))

    def release(self, message: Any) -> None:
        """Free memory and file of a message that was served or dropped."""
        _close_file(getattr(message, "_dataset_file", None))
        memory_budget.release(getattr(message, "bytes_in_memory", 0))
        with contextlib.suppress(AttributeError):
            message.bytes_in_memory = 0

    def _open(self, context_id: int, sop_class: str, sop_instance: str) -> Incoming:
        """A new spool file that begins with the meta group. Raises InvalidPDUError."""
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
class _StoreInProgress:
    """A C-STORE whose data set is coming in."""

    context_id: int
    request: c_store_command.StoreRequest
    incoming: Incoming

    def primitive(self) -> C_STORE:
        """The request as one of pynetdicom's primitives."""
        request = C_STORE()
        request.MessageID = self.request.message_id
        request.Priority = self.request.priority
        request.AffectedSOPClassUID = self.request.sop_class_uid
        request.AffectedSOPInstanceUID = self.request.sop_instance_uid
        request.DataSet = io.BytesIO()
        request._context_id = self.context_id
        request._dataset_file = _DataSetFile(self.incoming)
        return request


def _write_to_spool(incoming: Incoming, count: int, source: Source) -> None:
    while count:
        space = incoming.space(count)
        source.read_into(space)
        incoming.add(len(space))
        count -= len(space)
        if incoming.lost_bytes > MAX_DISCARDED:
            raise CutOffError("an object that cannot be kept goes on")


def _skip(count: int, source: Source) -> None:
    while count:
        count -= len(source.read(min(count, READ_AHEAD)))


class MemoryBudget:
    """The bytes that all associations of the process may have in memory together."""

    def __init__(self, limit: int) -> None:
        self._free_bytes = limit
        self._lock = threading.Lock()

    def reserve(self, count: int) -> bool:
        """Whether so many bytes are free; they are then reserved."""
        with self._lock:
            fits = count <= self._free_bytes
            self._free_bytes -= count if fits else 0
            return fits

    def release(self, count: int) -> None:
        """Free reserved bytes."""
        with self._lock:
            self._free_bytes += count


memory_budget = MemoryBudget(MAX_DATA_SETS_IN_MEMORY)


def _close_file(data_set_file: "_DataSetFile | None") -> None:
    if data_set_file is not None:
        data_set_file.close()


class _DataSetFile:
    """The data set's file, with the methods that pynetdicom calls."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.name = str(incoming.path)

    @property
    def file(self) -> "_DataSetFile":
        return self

    def write(self, data: bytes) -> None:
        """Nothing: the last fragment comes through pynetdicom without its bytes."""

    def flush(self) -> None:
        """Nothing: the handler asks for every byte at once, with `Incoming.finish`."""

    def close(self) -> None:
        self.incoming.discard()
