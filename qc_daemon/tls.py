"""What both sides of TLS share (PS3.15 B.12, BCP 195), and the side that opens associations."""

import ssl

from detector.codes import ErrorCode, QCError
from qc_daemon.settings import ClientTLSSettings, DestinationSettings

# RFC 9325 4.2: forward secrecy and authenticated encryption only. TLS 1.3 has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_args(destination: DestinationSettings) -> tuple[ssl.SSLContext, str] | None:
    """pynetdicom's `tls_args` for an association with a destination; None for a plain one.

    Made anew each time, so that renewed files count. Raises QCError if they cannot be used.
    """
    tls = destination.tls
    if tls is None:
        return None
    try:
        return client_context(tls), tls.server_name or destination.host
    except (OSError, ValueError) as error:
        raise QCError(
            ErrorCode.DELIVERY_UNREACHABLE,
            f"destination {destination.name}: its tls files cannot be used: {reason(error)}",
        ) from error


def client_context(settings: ClientTLSSettings) -> ssl.SSLContext:
    """A context that verifies the server and its name. Raises OSError or ValueError."""
    made = ssl.create_default_context(cafile=settings.ca)
    made.minimum_version = MINIMUM[settings.minimum]
    made.set_ciphers(CIPHERS)
    made.options |= ssl.OP_NO_RENEGOTIATION
    if settings.certificate is not None:
        # An empty password, or OpenSSL would ask for one at the terminal.
        made.load_cert_chain(settings.certificate, settings.key, password="")
    return made


def reason(error: Exception) -> str:
    """Why TLS failed, in OpenSSL's or the system's words, which carry no value of the peer's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no handshake in time"
    if isinstance(error, OSError):
        return (error.strerror or "connection closed").lower()
    return "unusable"
