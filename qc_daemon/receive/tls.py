"""TLS for the receiver (PS3.15 B.12, BCP 195): the handshake, and certificates that are renewed."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from detector.console import UsageError
from qc_daemon.dicom.certificates import fingerprint
from qc_daemon.dicom.tls import CIPHERS, MINIMUM_VERSIONS, check_revocation, load_certificate
from qc_daemon.dicom.tls import reason as reason
from qc_daemon.observe import log
from qc_daemon.settings import ServerTLSSettings

# Seconds for a handshake, which takes a few round trips and a thread.
HANDSHAKE_SECONDS = 10.0
_VERIFY = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
# Inode, modification time and size of each file; None for one that cannot be read.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class EncryptedConnection(ssl.SSLSocket):
    """A TLS connection, with the SHA-256 of the certificate that the peer was verified by.

    It is kept from the handshake, because another thread reads from the connection later.
    """

    certificate: str | None = None


class Handshake:
    """The server's side of TLS. Safe to use from many threads.

    Certificates that change on disk are used for connections from then on. New ones that cannot be
    used are logged once, and the last good ones remain. While there are no good ones every
    connection is closed: a receiver that starts again must not fail over them.
    """

    def __init__(self, settings: ServerTLSSettings, role: str = "receive") -> None:
        self.log = log.get(role=role)
        self._settings = settings
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._loaded_stamp = self._stamp()
        self._load("certificate loaded")

    def __call__(self, plain: socket.socket) -> EncryptedConnection:
        """The connection, encrypted. Raises OSError; then it is closed.

        It waits for the peer, so it must not be called in a loop that accepts connections.
        """
        context = self._current_context()
        if context is None:
            plain.close()
            raise ConnectionError
        before = plain.gettimeout()
        plain.settimeout(HANDSHAKE_SECONDS)
        # It takes over the plain socket's descriptor, and closes it if the handshake fails.
        wrapped = context.wrap_socket(plain, server_side=True)
        assert isinstance(wrapped, EncryptedConnection)
        if wrapped.version() is None:
            # The peer has gone already, so that there was no handshake to fail.
            wrapped.close()
            raise ConnectionError
        certificate = wrapped.getpeercert(binary_form=True)
        wrapped.certificate = None if certificate is None else fingerprint(certificate)
        wrapped.settimeout(before)
        return wrapped

    def _current_context(self) -> ssl.SSLContext | None:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._loaded_stamp:
                # Also if loading fails: a broken file is logged once, and tried when it changes.
                self._loaded_stamp = stamp
                self._load("certificate reloaded")
            return self._context

    def _load(self, event: str) -> None:
        path = str(self._settings.certificate)
        try:
            self._context = server_context(self._settings)
        except (OSError, ValueError) as error:
            self.log.critical("certificate not usable", path=path, reason=reason(error))
        else:
            self.log.info(event, path=path)

    def _stamp(self) -> _Stamp:
        files = (self._settings.certificate, self._settings.key, self._settings.ca)
        return tuple(None if file is None else _version(file) for file in files)


def check_tls(settings: ServerTLSSettings, section: str = "receive.tls") -> None:
    """Raises UsageError with one line if the files cannot be used."""
    for name in ("certificate", "key", "ca"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise UsageError(f"{section}.{name}: {path} does not exist")
    try:
        server_context(settings)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{section}: certificate, key or ca cannot be used: {reason(error)};"
            f" see {settings.certificate}"
        ) from None


def server_context(settings: ServerTLSSettings) -> ssl.SSLContext:
    """A server's context of these files. Raises OSError (ssl.SSLError is one) or ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = EncryptedConnection
    context.minimum_version = MINIMUM_VERSIONS[settings.minimum]
    context.set_ciphers(CIPHERS)
    context.options |= (
        ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_CIPHER_SERVER_PREFERENCE
        # Every connection shows its certificate anew: no ticket stands for one that has expired.
        | ssl.OP_NO_TICKET
    )
    context.num_tickets = 0
    load_certificate(context, settings.certificate, settings.key)
    if settings.ca is not None and settings.mutual != "none":
        context.load_verify_locations(settings.ca)
        check_revocation(context, settings.ca)
        context.verify_mode = _VERIFY[settings.mutual]
    return context


def certificate_of(association: Any) -> str | None:
    """SHA-256 of the certificate that an association's peer was verified by; None without one."""
    connection = association.dul.socket.socket
    return connection.certificate if isinstance(connection, EncryptedConnection) else None


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
