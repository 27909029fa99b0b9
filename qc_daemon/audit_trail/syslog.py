"""Syslog messages (RFC 5424), and their way over TLS (RFC 5425) or UDP (RFC 5426).

PS3.15 A.6 and A.7: facility 10, severity 5 (4 for a failure), MSGID DICOM+RFC3881, and the audit
message in UTF-8 after a byte order mark. SD-ID meta has `sequenceId` (RFC 5424 7.3.1), the number
of the record, by which the server can see what it lacks.
"""

import fcntl
import re
import select
import socket
import ssl
import struct
import termios
import time
from typing import Protocol

from qc_daemon.settings.observe import AuditServerSettings

TIMEOUT_SECONDS = 10.0
"""To connect, and for the server to take what was sent."""
ANSWER_SECONDS = 1.0
"""For what a server may say after the handshake; many say nothing."""
MSG_ID = "DICOM+RFC3881"
APP_NAME = "qc-daemon"
_SECURITY, _NOTICE, _WARNING = 10, 5, 4
_BOM = b"\xef\xbb\xbf"
# A longer one no server has to take (PS3.15 A.7); a datagram has room for 65,507.
MAX_DATAGRAM = 32_768
# sequenceId starts anew after this one.
_MAX_SEQUENCE_ID = 2**31 - 1
_NOT_PRINTED = re.compile(r"[^\x21-\x7e]")


class SyslogError(Exception):
    """The server cannot be reached, or has not taken what was sent; the reason in words."""


def make_syslog(message: bytes, *, at: str, host: str, sequence: int, is_success: bool) -> bytes:
    """The syslog message of an audit message; `at` is ISO 8601 with a zone."""
    priority = 8 * _SECURITY + (_NOTICE if is_success else _WARNING)
    name = _NOT_PRINTED.sub("-", host)[:255] or "-"
    number = (sequence - 1) % _MAX_SEQUENCE_ID + 1
    header = f'<{priority}>1 {at} {name} {APP_NAME} - {MSG_ID} [meta sequenceId="{number}"] '
    return header.encode("ascii") + _BOM + message


class SyslogTransport(Protocol):
    """A way to a server; `send` returns once the other side has all of it, as far as its protocol
    can tell."""

    def send(self, messages: list[bytes]) -> None:
        """Raises SyslogError; then any of them may have arrived."""

    def close(self) -> None: ...


def transport_to(server: AuditServerSettings) -> SyslogTransport:
    """The way to a server that its settings name."""
    return UdpTransport(server) if server.protocol == "udp" else TlsTransport(server)


class TlsTransport:
    """TLS with octet counting (RFC 5425 4.3): `LENGTH SP SYSLOG-MSG`.

    Syslog has no acknowledgement. A batch counts as sent when the server's TCP has all of its bytes
    and has not closed; what a server loses after that, its own queue is for.
    """

    def __init__(self, server: AuditServerSettings) -> None:
        self._server = server
        self._connection: ssl.SSLSocket | None = None

    def send(self, messages: list[bytes]) -> None:
        try:
            connection = self._connection or self._connect()
            self._connection = connection
            _require_open(connection)
            connection.sendall(b"".join(b"%d %b" % (len(each), each) for each in messages))
            _wait_for_acknowledgement(connection)
        except (OSError, ValueError) as error:
            self.close()
            raise SyslogError(_reason(error)) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> ssl.SSLSocket:
        server = self._server
        context = ssl.create_default_context(cafile=None if server.ca is None else str(server.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if server.certificate is not None:
            context.load_cert_chain(server.certificate, server.key)
        plain = socket.create_connection((server.host, server.port), TIMEOUT_SECONDS)
        try:
            secure = context.wrap_socket(plain, server_hostname=server.server_name or server.host)
        except (OSError, ValueError):
            plain.close()
            raise
        if secure.version() == "TLSv1.3":
            # The handshake ends here before the server has looked at our certificate; what it
            # thinks of it comes next: an alert, or session tickets.
            select.select([secure], [], [], ANSWER_SECONDS)
        return secure


class UdpTransport:
    """A datagram a message (RFC 5426), which may be lost without a sign."""

    def __init__(self, server: AuditServerSettings) -> None:
        self._server = server
        self._socket: socket.socket | None = None

    def send(self, messages: list[bytes]) -> None:
        try:
            if self._socket is None:
                self._socket = self._connect()
            for message in messages:
                self._socket.send(message[:MAX_DATAGRAM])
        except OSError as error:
            self.close()
            raise SyslogError(_reason(error)) from error

    def close(self) -> None:
        used, self._socket = self._socket, None
        if used is not None:
            used.close()

    def _connect(self) -> socket.socket:
        server = self._server
        family, kind, protocol, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_DGRAM
        )[0]
        used = socket.socket(family, kind, protocol)
        used.settimeout(TIMEOUT_SECONDS)
        used.connect(address)
        return used


def _require_open(connection: ssl.SSLSocket) -> None:
    """Raises OSError if the server has closed: a syslog server never sends anything else."""
    connection.settimeout(0)
    try:
        while select.select([connection], [], [], 0)[0] or connection.pending():
            # Records of TLS itself, as session tickets, give no bytes.
            if not connection.recv(4096):
                raise ConnectionResetError(104, "the server has closed the connection")
    except (ssl.SSLWantReadError, BlockingIOError):
        pass
    finally:
        connection.settimeout(TIMEOUT_SECONDS)


def _wait_for_acknowledgement(connection: ssl.SSLSocket) -> None:
    """Wait until the server's TCP has acknowledged every byte (SIOCOUTQ, tcp(7))."""
    until = time.monotonic() + TIMEOUT_SECONDS
    pause = 0.001
    while _unacknowledged(connection):
        if time.monotonic() > until:
            raise TimeoutError(110, "the server does not take what is sent")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    _require_open(connection)


def _unacknowledged(connection: ssl.SSLSocket) -> int:
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or "error").lower()
