"""TLS for the receiver (PS3.15 B.12, BCP 195): the handshake, and certificates that are renewed."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from detector.console import UsageError
from qc_daemon.dicom.certificates import fingerprint
from qc_daemon.dicom.tls import CIPHERS, MINIMUM, check_revocation, load_own
from qc_daemon.dicom.tls import reason as reason
from qc_daemon.observe import log
from qc_daemon.settings import TLSSettings

# A handshake takes a few round trips; who needs longer holds a thread for nothing.
HANDSHAKE_SECONDS = 10.0
_VERIFY = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
# What tells one version of a file from the next: inode, modification time, size.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Encrypted(ssl.SSLSocket):
    """A connection that knows whose it is: the SHA-256 of the peer's verified certificate.

    Kept from the handshake, for later another thread is reading from it.
    """

    certificate: str | None = None


class Handshake:
    """The server's side of TLS. Safe to use from many threads.

    Certificates that change on the disk count for connections from then on; ones that cannot be
    used are told once and leave the last good ones in place. Without good ones no connection is
    taken until they come: a receiver that starts again must not fail over them.
    """

    def __init__(self, settings: TLSSettings) -> None:
        self.log = log.get(role="receive")
        self._settings = settings
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._seen = self._stamp()
        self._load("certificate loaded")

    def __call__(self, plain: socket.socket) -> Encrypted:
        """The connection, encrypted. Raises OSError; then it is closed.

        It waits for the peer, so it has no place in a loop that accepts connections.
        """
        current = self._current()
        if current is None:
            plain.close()
            raise ConnectionError
        before = plain.gettimeout()
        plain.settimeout(HANDSHAKE_SECONDS)
        # It takes the plain socket's descriptor over, and closes it where the handshake fails.
        wrapped = current.wrap_socket(plain, server_side=True)
        assert isinstance(wrapped, Encrypted)
        if wrapped.version() is None:
            # The peer has gone already, so that there was no handshake to fail.
            wrapped.close()
            raise ConnectionError
        shown = wrapped.getpeercert(binary_form=True)
        wrapped.certificate = None if shown is None else fingerprint(shown)
        wrapped.settimeout(before)
        return wrapped

    def _current(self) -> ssl.SSLContext | None:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                # Also where it fails: a broken file is told once, and tried again when it changes.
                self._seen = stamp
                self._load("certificate reloaded")
            return self._context

    def _load(self, told: str) -> None:
        path = str(self._settings.certificate)
        try:
            self._context = context(self._settings)
        except (OSError, ValueError) as error:
            self.log.critical("certificate not usable", path=path, reason=reason(error))
        else:
            self.log.info(told, path=path)

    def _stamp(self) -> _Stamp:
        files = (self._settings.certificate, self._settings.key, self._settings.ca)
        return tuple(None if file is None else _version(file) for file in files)


def check_tls(settings: TLSSettings) -> None:
    """Raises UsageError with one line if the files cannot be used."""
    for name in ("certificate", "key", "ca"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise UsageError(f"receive.tls.{name}: {path} does not exist")
    try:
        context(settings)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"receive.tls: certificate, key or ca cannot be used: {reason(error)};"
            f" see {settings.certificate}"
        ) from None


def context(settings: TLSSettings) -> ssl.SSLContext:
    """A server's context of these files. Raises OSError (ssl.SSLError is one) or ValueError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.sslsocket_class = Encrypted
    made.minimum_version = MINIMUM[settings.minimum]
    made.set_ciphers(CIPHERS)
    made.options |= (
        ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_CIPHER_SERVER_PREFERENCE
        # Every association shows its certificate anew: none outlives its end in a ticket.
        | ssl.OP_NO_TICKET
    )
    made.num_tickets = 0
    load_own(made, settings.certificate, settings.key)
    if settings.ca is not None and settings.mutual != "none":
        made.load_verify_locations(settings.ca)
        check_revocation(made, settings.ca)
        made.verify_mode = _VERIFY[settings.mutual]
    return made


def certificate_of(association: Any) -> str | None:
    """SHA-256 of the certificate that the peer of an association showed and OpenSSL verified."""
    connection = association.dul.socket.socket
    return connection.certificate if isinstance(connection, Encrypted) else None


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
