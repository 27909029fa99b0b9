"""The associations that peers open to us, and the server that accepts them."""

import contextlib
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation

from qc_daemon.dicom import associate_pdu, dimse_request
from qc_daemon.observe import log
from qc_daemon.receive.upper_layer.dimse import DimseProvider
from qc_daemon.receive.upper_layer.dul import TIMER_SECONDS, UpperLayerProvider
from qc_daemon.receive.upper_layer.transport import Connection, set_timeouts
from qc_daemon.spool.spool import Spool


class MessageInterceptor(Protocol):
    """Sees each message of an association before it is served as a request."""

    def intercept(self, message: Any, context_id: int) -> bool:
        """Whether it has dealt with the message; called in the association's thread."""
        ...


class Acceptor(Association):  # type: ignore[misc]
    """An association that a peer opened to us; its server is called at its end."""

    is_established: bool
    # The operations that the caller may ask for, by the names of dimse_request; none until the
    # access policy has decided.
    permitted: Collection[str] = ()
    # The A-ASSOCIATE-RQ; None until it has arrived.
    associate_request: associate_pdu.AssociateRequest | None = None
    # Takes what is no request from the association's queue: reports that are to be sent over it,
    # and the answers to them.
    interceptor: MessageInterceptor | None = None

    def __init__(self, server: "Server", client_socket: socket.socket, first_bytes: bytes) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self._message_event = threading.Event()
        self._server = server
        self.dul = UpperLayerProvider(self, self.wake)
        self.dimse = DimseProvider(self, server.spool, server.has_room, self.wake)
        # The setters hand these on to the provider, which is a new one.
        self.acse_timeout, self.network_timeout = server.ae.acse_timeout, server.ae.network_timeout
        # By this name pynetdicom tells acceptors from other threads.
        self.name = f"AcceptorThread@{client_socket.fileno()}"
        self.set_socket(Connection(self, client_socket, first_bytes))

    def _bind_defaults(self) -> None:
        # Not the loggers of every PDU and message, which quote values; the server binds the rest.
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def wake(self) -> None:
        """Wake the association's thread to check for messages and for its end."""
        self._message_event.set()

    def kill(self) -> None:
        """End the association's thread, even while it reads."""
        self.wake()
        self.dul.stop_reading()
        super().kill()

    def idle_seconds(self) -> float:
        """Seconds since the peer has sent something; 0 while it sends or waits for our answer."""
        # Paused: it waits for a message; else it serves one.
        return self.dul.idle_seconds() if self._is_paused else 0.0

    def disconnect(self) -> None:
        """Close the connection at once, whatever the peer still has to say."""
        connection = self.dul.socket.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def run_reactor(self) -> None:
        """Run until the association ends; then tell the server."""
        try:
            super().run_reactor()
        finally:
            self.wake()
            self._close()
            self._server.on_thread_end(self)

    def _close(self) -> None:
        """Close connection, file and provider, whatever ended the thread."""
        self.dul._kill_thread = True
        self.dul.wake()
        connection = self.dul.socket.socket
        self.disconnect()
        if self._started_dul:
            self.dul.join()
        if connection is not None:
            connection.close()
        self.dimse.abandon()

    def report_broken(self, reason: str, error: Exception | None = None) -> None:
        """Log a PDU that ends the association, or that came instead of an A-ASSOCIATE-RQ."""
        if not self.permitted and not self.is_rejected:
            self._server.on_invalid_request(self, reason)
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
        """Why a request over a context of this abstract syntax is not served; None if it may be."""
        return dimse_request.refusal(request, abstract_syntax, self._server.served, self.permitted)

    def _serve_request(self, message: Any, context_id: int) -> None:
        """Serve a request or answer it with a failure: a sender waits for one of the two.

        pynetdicom chooses the service by the SOP class that the request names, whatever its
        presentation context was accepted for, and ignores a request that is not whole.
        """
        if self.interceptor is not None and self.interceptor.intercept(message, context_id):
            return
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
        """The requestor's AE title without padding; empty before its request."""
        return "" if self.associate_request is None else self.associate_request.calling_ae

    def _run_reactor(self) -> None:
        while not self._kill:
            # Others may send on this association while we wait (N-EVENT-REPORT).
            self._is_paused = True
            self._message_event.wait(TIMER_SECONDS)
            self._message_event.clear()
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
    """Accepts associations as pynetdicom's server does, without a socket or thread of its own."""

    def __init__(
        self,
        ae: Any,
        spool: Spool,
        contexts: list[Any],
        handlers: list[tuple[Any, Callable[[Any], Any]]],
        on_thread_end: Callable[[Any], None],
        served: Mapping[str, Collection[str]],
        has_room: Callable[[], bool] = lambda: True,
        on_invalid_request: Callable[[Any, str], None] = lambda _association, _reason: None,
    ) -> None:
        self.ae = ae
        self.spool = spool
        self.contexts = contexts
        self.on_thread_end = on_thread_end
        # The SOP classes of each operation that handlers serve.
        self.served = served
        # Whether objects in mid-receipt may go on to fill the disk.
        self.has_room = has_room
        # Called with an association that ended before a valid request for it, and the reason.
        self.on_invalid_request = on_invalid_request
        self._handlers = handlers

    def accept(self, client_socket: socket.socket, address: Any, first_bytes: bytes) -> Acceptor:
        """An association on a new connection, not started; as pynetdicom's RequestHandler does.

        Raises OSError if the connection is lost.
        """
        set_timeouts(client_socket, self.ae.network_timeout)
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association = Acceptor(self, client_socket, first_bytes)
        acceptor, requestor = association.acceptor, association.requestor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.ae.ae_title
        acceptor.address_info = AddressInformation.from_tuple(client_socket.getsockname())
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        # Not copies, as pynetdicom has: negotiation changes none of these 1,700 pairs.
        acceptor.supported_contexts = list(self.contexts)
        requestor.address_info = AddressInformation.from_tuple(address)
        for event, handler in self._handlers:
            association.bind(event, handler)
        return association

    def shutdown_request(self, request: Any) -> None:
        """pynetdicom is done with a connection; the association closes it itself."""
