"""Pseudonyms and UIDs by a keyed hash: the same each time, and without the key nobody's.

Action U of PS3.15 E.1.1: a UID is replaced by one that is consistent within the whole that a store
gives away. A plain hash would not do, since whoever has the original UIDs could try them all.
"""

import hmac
from uuid import UUID

_HEX_DIGITS = 12
# A random UUID's version, since its other bits follow from no name that could be repeated.
_UUID_VERSION = 4


def replacement_uid(key: bytes, kind: str, *parts: str) -> str:
    """The UID in place of the one that `kind` and `parts` name (PS3.5 B.2)."""
    digest = _digest(key, f"{kind} uid", parts)
    return f"2.25.{UUID(bytes=digest[:16], version=_UUID_VERSION).int}"


def pseudonym(key: bytes, kind: str, *parts: str) -> str:
    """Twelve hexadecimal digits in place of what `kind` and `parts` name."""
    return _digest(key, kind, parts).hex()[:_HEX_DIGITS]


def _digest(key: bytes, kind: str, parts: tuple[str, ...]) -> bytes:
    # Lengths before the parts, so that no two lists of parts are the same bytes.
    text = "".join(f"{len(part)}:{part}" for part in (kind, *parts))
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
