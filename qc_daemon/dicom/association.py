"""Associations that we request: pynetdicom's (3.0.4), without its races between threads.

A peer that rejects at once may close the connection before pynetdicom checks whether there is one:
pynetdicom then aborts, and the rejection is lost. `associate` keeps it.

Before a `send_*` pynetdicom stops the association's thread (`_reactor_checkpoint`) and waits until
that is paused (`_is_paused`). A thread that was released but has not run since still counts as
paused: it then takes the answer for a request, and the sender waits until its timeout. So does a
sender whose association ends between its check of `is_established` and the stop.

An N-EVENT-REPORT is served in a thread of its own, which sets the same flag of the other thread: a
sender may wait for ever. Its response can also come between a request and the request's data set,
which no receiver must accept.

What the peer requests over such an association is served as over one that it opened: only what we
have a handler for, on the presentation context of its SOP class.
"""

import contextlib
import functools
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import MODE_REQUESTOR, Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ
from pynetdicom.pdu import A_ASSOCIATE_RJ

from qc_daemon.dicom import associate_pdu, dimse_request
from qc_daemon.dicom.data_set_size import MAX_BYTES
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.dicom.storage_commitment import PUSH_MODEL
from qc_daemon.observe import log

# Seconds between two checks, while waiting, whether the association still lives.
_POLL_SECONDS = 0.05
# Seconds that the requesting thread may take to process the acceptance of its association.
_NEGOTIATION_SECONDS = 5.0


class _Checkpoint:
    """Where the association's thread stops: `clear` by a sender stops it, `set` releases it.

    Between two sends the thread runs once, or it would never notice the end of the association.
    Neither waits for the other once the association's provider, which brings every answer, has
    ended.
    """

    def __init__(self, association: Any) -> None:
        self._association = association
        self._condition = threading.Condition()
        self._is_open = True
        # Of the thread: whether it is stopped here, and whether it has run since the last `set`.
        self._is_stopped = self._has_passed = False

    def set(self) -> None:
        """Release the thread."""
        with self._condition:
            self._is_open, self._has_passed = True, False
            self._condition.notify_all()

    def clear(self) -> None:
        """Stop the thread, and wait until it is stopped."""
        with self._condition:
            # A handler that sends in the thread itself has stopped it.
            if threading.current_thread() is not self._association:
                self._wait_until(lambda: self._has_passed)
                self._is_open = False
                self._wait_until(lambda: self._is_stopped)

    def wait(self) -> None:
        """Stop here until released; called by the thread itself."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()
            # Without a provider the thread goes on, notices that, and ends.
            self._wait_until(lambda: self._is_open)
            self._is_stopped, self._has_passed = False, True
            self._condition.notify_all()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition() and _is_alive(self._association):
            self._condition.wait(_POLL_SECONDS)


def _is_alive(association: Any) -> bool:
    return bool(association.is_alive() and association.dul.is_alive())


class _ThreadSafe:
    """Overrides of an association's class."""

    @property
    def _is_paused(self) -> bool:
        """Always True: senders read it after `clear`, which has waited for the thread."""
        return True

    @_is_paused.setter
    def _is_paused(self, value: bool) -> None:
        """Nothing is set: pynetdicom's threads set it for one another."""


@functools.cache
def _thread_safe_class(kind: type) -> type:
    """A subclass of an association's class, with our overrides."""
    return type(kind.__name__, (_ThreadSafe, kind), {})


def requestor(calling_ae: str, timeout: float) -> AE:
    """An application entity that opens associations under our identification (PS3.7 D.3.3.2).

    `timeout` in seconds is the limit of the connection, of ACSE, of DIMSE and of the network.
    """
    ae = AE(calling_ae)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = timeout
    return ae


def associate(
    ae: AE, host: str, port: int, *, evt_handlers: Sequence[Any] = (), **options: Any
) -> Any:
    """Request an association, as `AE.associate` does; returns it, established or not.

    Over it the peer may request what `evt_handlers` has a handler for: C-STORE of the SOP classes
    that we are SCP of by role selection, N-EVENT-REPORT of storage commitment.
    """
    served_classes = _served_classes(evt_handlers, options.get("ext_neg") or ())
    rejections: list[A_ASSOCIATE_RJ] = []

    def keep_rejection(event: Any) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    def prepare(event: Any) -> None:
        _restrict_requests(event.assoc, served_classes)
        # A command and its data set are two writes, of which the second would wait for the peer's
        # acknowledgement of the first, mostly delayed by 40 ms (RFC 1122 4.2.3.4).
        with contextlib.suppress(OSError):
            event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    handlers = [
        *evt_handlers,
        (evt.EVT_PDU_RECV, keep_rejection),
        # This event comes before the peer can send its first byte.
        (evt.EVT_CONN_OPEN, prepare),
    ]
    try:
        association = ae.associate(host, port, evt_handlers=handlers, **options)
    except OSError:
        # The name of the host has no address (yet): the peer is unreachable like any other.
        association = Association(ae, MODE_REQUESTOR)
        association.is_aborted = True
        return association
    if rejections and not association.is_rejected:
        association.is_rejected, association.is_aborted = True, False
        association.acceptor.primitive = rejections[0].to_primitive()
    return make_thread_safe(association)


def make_thread_safe(association: Any) -> Any:
    """Let several threads send over an association; call it before the first `send_*`.

    Returns the association.
    """
    if not isinstance(association, _ThreadSafe):
        association._reactor_checkpoint = _Checkpoint(association)
        association.__class__ = _thread_safe_class(association.__class__)
        association.dimse.send_msg = _with_lock(association.dimse.send_msg)
        association.dimse.get_msg = _get_message_while_alive(association)
    return association


def _served_classes(handlers: Sequence[Any], roles: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """The SOP classes of each operation that the handlers serve."""
    handled = {each[0] for each in handlers}
    served: dict[str, tuple[str, ...]] = {}
    if evt.EVT_N_EVENT_REPORT in handled:
        served["N-EVENT-REPORT"] = (PUSH_MODEL,)
    if evt.EVT_C_STORE in handled:
        ours = (each.sop_class_uid for each in roles if getattr(each, "scp_role", False))
        served["C-STORE"] = tuple(str(each) for each in ours)
    return served


def _restrict_requests(association: Any, served: Mapping[str, tuple[str, ...]]) -> None:
    """Pass on the peer's requests only if `dimse_request` permits them, and answer the others.

    Its A-ASSOCIATE-AC is parsed by `associate_pdu`.
    """
    decode = association.dul._decode_pdu
    receive = association.dimse.receive_primitive
    serve, store = association._serve_request, association._c_store_scp

    def refusal(request: Any, abstract_syntax: str) -> dimse_request.Refusal | None:
        return dimse_request.refusal(request, abstract_syntax, served, served)

    def is_refused(request: Any, context_id: int) -> bool:
        if not dimse_request.is_request(request):
            return False
        context = association._accepted_cx.get(context_id)
        if context is not None:
            dimse_request.measure(request, str(context.transfer_syntax[0]))
        answer = None if context is None else refusal(request, str(context.abstract_syntax))
        if context is not None and answer is None:
            return False
        log.get().warning(
            "request refused",
            reason="no such presentation context" if answer is None else answer.reason,
            status=None if answer is None else f"{answer.status:04X}",
            called_ae=association.acceptor.ae_title,
        )
        response = None if answer is None else dimse_request.response(request, answer)
        if response is None:
            association.abort()
        else:
            association.dimse.send_msg(response, context_id)
        return True

    def serve_request(request: Any, context_id: int) -> None:
        if not is_refused(request, context_id):
            serve(request, context_id)

    def store_object(request: Any) -> None:
        if not is_refused(request, request._context_id):
            store(request)

    def receive_primitive(primitive: Any) -> None:
        # A peer may send a request as soon as it has accepted, before the requesting thread has
        # processed the acceptance and knows the contexts.
        until = time.monotonic() + _NEGOTIATION_SECONDS
        while not association._accepted_cx and time.monotonic() < until:
            if association.is_aborted or association.is_rejected:
                return
            time.sleep(0.001)
        message = association.dimse.message
        if isinstance(message, N_EVENT_REPORT_RQ) and message.data_set.tell() > MAX_BYTES:
            # It is already too long to be parsed, and goes on.
            association.dul.event_queue.put("Evt19")
            return
        receive(primitive)

    def decode_pdu(encoded: bytearray) -> Any:
        if encoded[0] in (associate_pdu.ACCEPT, associate_pdu.REJECT):
            encoded = bytearray(associate_pdu.parse_answer(bytes(encoded)))
        return decode(encoded)

    association.dul._decode_pdu = decode_pdu
    association.dimse.receive_primitive = receive_primitive
    association.refusal = refusal
    association._serve_request = serve_request
    # A C-STORE during a C-GET does not go through `_serve_request`.
    association._c_store_scp = store_object


def _get_message_while_alive(association: Any) -> Callable[..., Any]:
    """A `get_msg` that waits no longer than an answer can come.

    An association may end at any moment after a sender's check; pynetdicom's `get_msg` would then
    wait for the DIMSE timeout.
    """
    dimse = association.dimse

    def get_message(block: bool = False) -> Any:
        timeout = dimse.dimse_timeout
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            # This is checked before the queue, which then has all that came before the end.
            is_over = not (association.is_established and _is_alive(association))
            try:
                return dimse.msg_queue.get(block and not is_over, _POLL_SECONDS)
            except queue.Empty:
                if not block or is_over or (until is not None and time.monotonic() > until):
                    return None, None

    return get_message


def _with_lock(send: Callable[..., None]) -> Callable[..., None]:
    """`send`, called by one thread at a time."""
    lock = threading.Lock()

    def send_locked(*args: Any) -> None:
        with lock:
            send(*args)

    return send_locked
