"""Associations that we ask for: pynetdicom's, with its races mended.

A peer that rejects at once has closed the connection before whoever asked looks whether there is
one: pynetdicom (3.0.4) then aborts, and the rejection lies unread.

Before a `send_*` pynetdicom stops its thread (`_reactor_checkpoint`) and waits until it says so
(`_is_paused`). A thread that was let go a moment ago but has not run since still says so: it then
takes the answer for a message of its own, and the sender waits in vain until its timeout. So does a
sender whose association ends between its look at `is_established` and the stop.

An N-EVENT-REPORT is served in a thread of its own, which says the same of the other thread, rightly
or not: a sender may wait for ever. And its response can come between a request and the request's
data set, which no receiver need put up with.

What the peer asks for over such an association is served as over one that it opened: only what we
have a handler for, on the presentation context of its SOP class.
"""

import functools
import queue
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

# How often whoever waits looks whether there still is a connection.
_LOOK_SECONDS = 0.05
# How long the thread that asked for an association may take to read that it is accepted.
_NEGOTIATION_SECONDS = 5.0


class _Checkpoint:
    """Where the association's thread stops; cleared by a sender, set when that has its answer.

    Between two sends the thread has its turn, or it would never learn that the association has
    ended. Neither waits for the other once the association's provider, which brings every answer,
    has ended.
    """

    def __init__(self, association: Any) -> None:
        self._association = association
        self._news = threading.Condition()
        self._open = True
        # Of the thread: whether it stands here, and whether it has gone on since the last `set`.
        self._stopped = self._passed = False

    def set(self) -> None:
        with self._news:
            self._open, self._passed = True, False
            self._news.notify_all()

    def clear(self) -> None:
        with self._news:
            # A handler that sends in the thread itself stops it by that.
            if threading.current_thread() is not self._association:
                self._until(lambda: self._passed)
                self._open = False
                self._until(lambda: self._stopped)

    def wait(self) -> None:
        with self._news:
            self._stopped = True
            self._news.notify_all()
            # Without a provider the thread goes on, finds that, and ends.
            self._until(lambda: self._open)
            self._stopped, self._passed = False, True
            self._news.notify_all()

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition() and _lives(self._association):
            self._news.wait(_LOOK_SECONDS)


def _lives(association: Any) -> bool:
    return bool(association.is_alive() and association.dul.is_alive())


class _Steady:
    """What is put over an association's class."""

    @property
    def _is_paused(self) -> bool:
        """Senders look once `clear` has come back, and that has waited for it."""
        return True

    @_is_paused.setter
    def _is_paused(self, value: bool) -> None:
        """Nobody needs to say so; pynetdicom's threads say it of one another."""


@functools.cache
def _steady(kind: type) -> type:
    return type(kind.__name__, (_Steady, kind), {})


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
    """The association that `AE.associate` makes of the same arguments, established or not.

    Over it the peer may ask for what `evt_handlers` has a handler for: C-STORE of the SOP classes
    that we are SCP of by role selection, N-EVENT-REPORT of storage commitment.
    """
    served = _served(evt_handlers, options.get("ext_neg") or ())
    rejections: list[A_ASSOCIATE_RJ] = []

    def received(event: Any) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    handlers = [
        *evt_handlers,
        (evt.EVT_PDU_RECV, received),
        # Before the peer can send its first byte.
        (evt.EVT_CONN_OPEN, lambda event: _guard(event.assoc, served)),
    ]
    try:
        association = ae.associate(host, port, evt_handlers=handlers, **options)
    except OSError:
        # The name of the host has no address (yet): a peer that is away like any other.
        association = Association(ae, MODE_REQUESTOR)
        association.is_aborted = True
        return association
    if rejections and not association.is_rejected:
        association.is_rejected, association.is_aborted = True, False
        association.acceptor.primitive = rejections[0].to_primitive()
    return steady(association)


def steady(association: Any) -> Any:
    """An association whose threads neither steal answers nor mix messages; give it before the
    first `send_*`."""
    if not isinstance(association, _Steady):
        association._reactor_checkpoint = _Checkpoint(association)
        association.__class__ = _steady(association.__class__)
        association.dimse.send_msg = _one_at_a_time(association.dimse.send_msg)
        association.dimse.get_msg = _while_alive(association)
    return association


def _served(handlers: Sequence[Any], roles: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """The SOP classes of each operation that these handlers are for."""
    handled = {each[0] for each in handlers}
    served: dict[str, tuple[str, ...]] = {}
    if evt.EVT_N_EVENT_REPORT in handled:
        served["N-EVENT-REPORT"] = (PUSH_MODEL,)
    if evt.EVT_C_STORE in handled:
        ours = (each.sop_class_uid for each in roles if getattr(each, "scp_role", False))
        served["C-STORE"] = tuple(str(each) for each in ours)
    return served


def _guard(association: Any, served: Mapping[str, tuple[str, ...]]) -> None:
    """Let the peer's requests through to their handlers only where `dimse_request` has nothing
    against it; the others are answered with a status. Read its A-ASSOCIATE-AC as `associate_pdu`
    does."""
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
        # A peer may ask for something as soon as it has accepted, before the thread that asked for
        # the association has read so and knows its contexts.
        until = time.monotonic() + _NEGOTIATION_SECONDS
        while not association._accepted_cx and time.monotonic() < until:
            if association.is_aborted or association.is_rejected:
                return
            time.sleep(0.001)
        message = association.dimse.message
        if isinstance(message, N_EVENT_REPORT_RQ) and message.data_set.tell() > MAX_BYTES:
            # One that is too long to be parsed, and goes on.
            association.dul.event_queue.put("Evt19")
            return
        receive(primitive)

    def decode_pdu(encoded: bytearray) -> Any:
        if encoded[0] in (associate_pdu.ACCEPT, associate_pdu.REJECT):
            encoded = bytearray(associate_pdu.read_answer(bytes(encoded)))
        return decode(encoded)

    association.dul._decode_pdu = decode_pdu
    association.dimse.receive_primitive = receive_primitive
    association.refusal = refusal
    association._serve_request = serve_request
    # A C-STORE in the course of a C-GET does not come through the former.
    association._c_store_scp = store_object


def _while_alive(association: Any) -> Callable[..., Any]:
    """`get_msg` that waits no longer than an answer can come: an association may end at any moment
    after a sender has looked, and pynetdicom's would then wait for the DIMSE timeout."""
    dimse = association.dimse

    def get_message(block: bool = False) -> Any:
        timeout = dimse.dimse_timeout
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            # Asked before the queue is: what came before the end is in it then.
            is_over = not (association.is_established and _lives(association))
            try:
                return dimse.msg_queue.get(block and not is_over, _LOOK_SECONDS)
            except queue.Empty:
                if not block or is_over or (until is not None and time.monotonic() > until):
                    return None, None

    return get_message


def _one_at_a_time(send: Callable[..., None]) -> Callable[..., None]:
    lock = threading.Lock()

    def one(*args: Any) -> None:
        with lock:
            send(*args)

    return one
