"""Fingerprint and end of validity of X.509 certificates.

Only the validity (RFC 5280 4.1.2.5) is parsed, from the DER; OpenSSL decides whether a certificate
is trusted.
"""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_INTEGER, _SEQUENCE, _VERSION = 0x02, 0x30, 0xA0
# A warning is logged this long before a certificate expires.
WARN_BEFORE = timedelta(days=30)
_TIME_FORMATS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate as `openssl x509 -fingerprint -sha256` has it, without colons."""
    return hashlib.sha256(der).hexdigest()


def earliest_expiry(path: Path) -> datetime:
    """The moment, in UTC, at which the first of a PEM file's certificates expires.

    Raises OSError where the file cannot be read, ValueError where it holds no certificate.
    """
    try:
        return min(not_after(der) for der in _certificates(path.read_text("ascii")))
    except IndexError:
        raise ValueError("a certificate that is cut short") from None


def not_after(der: bytes) -> datetime:
    """The end of a certificate's validity. Raises ValueError or IndexError for other bytes."""
    certificate, _ = _content(der, _SEQUENCE)
    fields, _ = _content(certificate, _SEQUENCE)
    if fields[0] == _VERSION:
        _, fields = _content(fields, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):
        # Serial number, signature algorithm, issuer.
        _, fields = _content(fields, tag)
    validity, _ = _content(fields, _SEQUENCE)
    _, end = _content(validity, validity[0])
    moment, _ = _content(end, end[0])
    if end[0] not in _TIME_FORMATS:
        raise ValueError("not a certificate")
    # Two-digit years pivot at 1950 (RFC 5280 4.1.2.5.1), Python's at 1969.
    expiry = datetime.strptime(moment.decode("ascii"), _TIME_FORMATS[end[0]]).replace(tzinfo=UTC)
    is_last_century = expiry.year >= 2050 and end[0] == 0x17
    return expiry.replace(year=expiry.year - 100) if is_last_century else expiry


def _content(der: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the element at the start, and what follows it (X.690 8.1)."""
    if der[0] != tag:
        raise ValueError("not a certificate")
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if start + length > len(der):
        raise ValueError("a certificate that is cut short")
    return der[start : start + length], der[start + length :]


def _certificates(pem: str) -> list[bytes]:
    blocks = [block.partition(_END)[0] for block in pem.split(_BEGIN)[1:]]
    if not blocks:
        raise ValueError("no certificate in PEM form")
    return [ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{block}{_END}") for block in blocks]
