"""Why an association failed, in words, for the person who has to fix it.

pynetdicom tells only that it failed. So the peer's A-ASSOCIATE-RJ is read first (PS3.8 9.3.4); if
there is none, a second connection tests the network, TLS and the peer one after the other. It sends
one A-ASSOCIATE-RQ and ends with A-ABORT.
"""

import contextlib
import socket
import ssl
from typing import Any

from pynetdicom.pdu import A_ASSOCIATE_RQ

from qc_daemon.dicom.tls import reason

# Seconds for each step of the second connection; the first one has taken its own time.
_SECONDS = 5.0
_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_ACCEPT, _REJECT, _PEER_ABORT, _TLS_ALERT = 0x02, 0x03, 0x07, 0x15
# OpenSSL's X509_V_ERR_*.
_NOT_YET_VALID, _EXPIRED, _NAMES = 9, 10, (62, 63, 64)
_AUTHORITY = (2, 18, 19, 20, 21)
# OpenSSL's reasons for bytes that are no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
# PS3.8 table 9-21: (source, reason) to what is wrong and the fix.
_REJECTIONS = {
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know our AE title {calling}",
    (1, 7): "it does not know the AE title that it was called by, {called}",
    (2, 2): "it speaks another protocol version",
    (3, 1): "it is congested for the moment",
    (3, 2): "it has too many associations for the moment",
}


def cause(
    association: Any, host: str, port: int, tls_args: tuple[ssl.SSLContext, str] | None = None
) -> str:
    """Why `association`, requested at `host` and `port`, was not established: one phrase.

    It has no values that the peer chose, so that it may be logged.
    """
    if association.is_rejected:
        return rejection(association)
    if association.rejected_contexts and not association.accepted_contexts:
        return "it accepts none of our presentation contexts"
    return _network(association, host, port, tls_args)


def rejection(association: Any) -> str:
    """The reason in the A-ASSOCIATE-RJ, in words, with the AE title that it is about."""
    answer = association.acceptor.primitive
    words = _REJECTIONS.get((answer.result_source, answer.diagnostic), "no reason given")
    titles = {"calling": association.requestor.ae_title, "called": association.acceptor.ae_title}
    return f"association rejected: {words.format(**titles)}"


def is_calling_title_unknown(association: Any) -> bool:
    """Whether the peer rejected the association for our AE title."""
    return _is_rejected_for(association, (1, 3))


def is_called_title_unknown(association: Any) -> bool:
    """Whether the peer rejected the association for the AE title that it was called by."""
    return _is_rejected_for(association, (1, 7))


def _is_rejected_for(association: Any, key: tuple[int, int]) -> bool:
    answer = association.acceptor.primitive
    return association.is_rejected and (answer.result_source, answer.diagnostic) == key


def _network(
    association: Any, host: str, port: int, tls_args: tuple[ssl.SSLContext, str] | None
) -> str:
    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(socket.create_connection((host, port), _SECONDS))
        except OSError as error:
            return connection_failure(error)
        if tls_args is None:
            return _answer(association, plain, secure=False)
        context, name = tls_args
        try:
            encrypted = stack.enter_context(context.wrap_socket(plain, server_hostname=name))
        except (OSError, ValueError) as error:
            return tls_failure(error)
        return _answer(association, encrypted, secure=True)


def connection_failure(error: OSError) -> str:
    """Why there is no TCP connection."""
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, TimeoutError):
        return "no answer: connection timed out"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens at the port"
    return f"no connection: {(error.strerror or 'unknown').lower()}"


def tls_failure(error: Exception) -> str:
    """Why a TLS handshake failed, and where to fix it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {_certificate(error)}"
    if isinstance(error, ssl.SSLError):
        tls_reason = error.reason or ""
        if tls_reason in _NO_TLS:
            return "TLS: the port does not speak TLS"
        if "ALERT" in tls_reason or tls_reason in ("CERTIFICATE_REQUIRED",):
            return f"TLS: it refuses us: {_alert(tls_reason)}"
    if isinstance(error, ConnectionResetError | ssl.SSLEOFError):
        return "TLS: it closed the connection during the handshake; the port may not speak TLS"
    return f"TLS: {reason(error)}"


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _AUTHORITY:
        return "its certificate is of an authority that we do not know; name it as ca"
    if error.verify_code == _EXPIRED:
        return "its certificate has expired"
    if error.verify_code == _NOT_YET_VALID:
        return "its certificate is not valid yet; compare the clocks"
    if error.verify_code in _NAMES:
        return "its certificate is for another name; see server_name"
    return f"its certificate is not accepted: {error.verify_message}"


def _alert(reason: str) -> str:
    words = reason.lower().replace("_", " ")
    if "unknown ca" in words:
        return "it does not know the authority of our certificate"
    if "required" in words or "handshake failure" in words:
        return "it wants a certificate of ours, or other ciphers; see certificate and key"
    return words.rpartition("alert ")[2]


def _answer(association: Any, connection: socket.socket, *, secure: bool) -> str:
    """What the peer answers to an A-ASSOCIATE-RQ on the connection, in words."""
    if association.requestor.primitive is None:
        return "the name of the host had no address, though it has one now"
    try:
        connection.settimeout(_SECONDS)
        request = A_ASSOCIATE_RQ()
        request.from_primitive(association.requestor.primitive)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            # It may have said why before it hung up.
            connection.sendall(request.encode())
        kind = connection.recv(1)
        with contextlib.suppress(OSError):
            connection.sendall(_ABORT)
    except TimeoutError:
        return "connected, but it does not answer an association request in time"
    except ssl.SSLEOFError:
        # After the handshake: so the port does speak TLS.
        kind = b""
    except ssl.SSLError as error:
        return tls_failure(error)
    except OSError:
        kind = b""
    if not kind:
        hint = "it may want a certificate of ours" if secure else "if it speaks TLS, set tls"
        return f"it closes the connection without an answer; {hint}"
    if kind[0] in (_ACCEPT, _REJECT):
        return "it did not answer in time, though it does now"
    if kind[0] == _PEER_ABORT:
        return "it aborts the association"
    if kind[0] == _TLS_ALERT and not secure:
        return "the port speaks TLS; set tls"
    return "what answers at the port is not DICOM"
