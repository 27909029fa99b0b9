"""TLS (PS3.15 B.12, BCP 195): what both sides share, and the client's side."""

import ssl
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.settings import ClientTLSSettings, DestinationSettings

# RFC 9325 4.2: forward secrecy and authenticated encryption only. TLS 1.3 has no others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_REVOCATIONS = "-----BEGIN X509 CRL-----"
MINIMUM_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_args(destination: DestinationSettings) -> tuple[ssl.SSLContext, str] | None:
    """pynetdicom's `tls_args` for an association with a destination; None for a plain one.

    The context is made each time, so that renewed files are used. Raises QCError if they cannot be.
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
    context = ssl.create_default_context(cafile=settings.ca)
    if settings.ca is not None:
        check_revocation(context, settings.ca)
    context.minimum_version = MINIMUM_VERSIONS[settings.minimum]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    if settings.certificate is not None and settings.key is not None:
        load_certificate(context, settings.certificate, settings.key)
    return context


def has_revocations(ca: Path) -> bool:
    """Whether a file of authorities holds a certificate revocation list (RFC 5280 5). Raises
    OSError."""
    return _REVOCATIONS in ca.read_text("ascii", "replace")


def check_revocation(context: ssl.SSLContext, ca: Path) -> None:
    """Refuse revoked certificates, where the file of the authorities holds a revocation list.

    OpenSSL loads such a list with the file, and uses it only if told to. Then each certificate
    needs a list of its issuer that has not expired. Raises OSError.
    """
    if has_revocations(ca):
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


class CertificateFileError(ValueError):
    """A certificate or key file that cannot be used; the message says which and why."""


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Let the context present this certificate. Raises CertificateFileError, OSError."""
    try:
        # An empty password, or OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        # OpenSSL says "PEM lib", whatever is wrong with the files.
        raise CertificateFileError(_describe_files(certificate, key) or reason(error)) from error


def _describe_files(certificate: Path, key: Path) -> str | None:
    """What is wrong with the two files by their PEM headers; None if that is unknown."""
    certificate_text, key_text = (path.read_text("ascii", "replace") for path in (certificate, key))
    has_certificate, has_key = "BEGIN CERTIFICATE" in certificate_text, "PRIVATE KEY" in key_text
    if (
        not has_certificate
        and not has_key
        and "PRIVATE KEY" in certificate_text
        and "BEGIN CERTIFICATE" in key_text
    ):
        return "certificate and key are swapped"
    if not has_certificate:
        return f"{certificate.name} holds no certificate in PEM form"
    if not has_key:
        return f"{key.name} holds no private key in PEM form"
    if "ENCRYPTED" in key_text:
        return f"{key.name} is encrypted; give the key without a password"
    return None


def reason(error: Exception) -> str:
    """Why TLS failed, in OpenSSL's or the system's words, which carry no value of the peer's."""
    if isinstance(error, CertificateFileError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no handshake in time"
    if isinstance(error, OSError):
        return (error.strerror or "connection closed").lower()
    return "unusable"
