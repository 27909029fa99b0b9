"""Parses A-ASSOCIATE PDUs (PS3.8 9.3.2, 9.3.3, 9.3.4), tolerant of peers that break small rules.

pynetdicom raises on an unknown item, which the Standard says to ignore (PS3.8 9.3.1), and on text
that has no effect, as an implementation version name. So a PDU is parsed here first, and encoded
anew with what negotiation needs, in the form that pynetdicom accepts. For a request that must be
rejected the reason is given, with the titles to log.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

REQUEST, ACCEPT, REJECT = 0x01, 0x02, 0x03
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
# Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21); result 2 is transient, so that
# the requestor may try again.
Rejection = tuple[int, int, int]
CONTEXT_NAME_NOT_SUPPORTED: Rejection = (0x01, 0x01, 0x02)
CALLING_NOT_RECOGNISED: Rejection = (0x01, 0x01, 0x03)
CALLED_NOT_RECOGNISED: Rejection = (0x01, 0x01, 0x07)
PROTOCOL_NOT_SUPPORTED: Rejection = (0x01, 0x02, 0x02)
NO_REASON: Rejection = (0x01, 0x01, 0x01)
TEMPORARY_CONGESTION: Rejection = (0x02, 0x03, 0x01)
LOCAL_LIMIT_EXCEEDED: Rejection = (0x02, 0x03, 0x02)

_FIXED = struct.Struct(">HH16s16s32s")
_ITEM = struct.Struct(">BxH")
_APPLICATION, _PROPOSED, _ANSWERED, _USER = 0x10, 0x20, 0x21, 0x50
_ABSTRACT, _TRANSFER = 0x30, 0x40
_MAXIMUM_LENGTH, _IMPLEMENTATION, _ROLE, _VERSION_NAME = 0x51, 0x52, 0x54, 0x55
# Bytes of a P-DATA-TF where the peer has no limit: a Maximum Length of 0, or none. DCMTK's own
# limit is no higher. Fragments have an even length (PS3.8 annex E).
_NO_LIMIT = 128 << 10
# A higher limit is reduced to the first; a lower one than the second is refused.
_MAX_FRAGMENT = 1 << 20
_MIN_FRAGMENT = 128
# Items of a PDU at most; 128 contexts of 50 transfer syntaxes are 6,500.
_MAX_ITEMS = 20_000
_UID = re.compile(rb"[0-9.]{1,64}")
# Stands for a UID that is invalid or absent. It is no SOP class and no transfer syntax, so that its
# presentation context is refused and the others are negotiated.
_NO_UID = b"0.0"
_NO_TRANSFER_SYNTAX = 4
_PLACEHOLDER = b"?"
# The reasons that exist, by source (PS3.8 table 9-21).
_REASONS = {1: (1, 2, 3, 7), 2: (1, 2), 3: (1, 2)}


class MalformedError(ValueError):
    """The bytes are no A-ASSOCIATE PDU; the message quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ; `pdu` is what pynetdicom parses. The titles are as sent, without padding.

    With a rejection, `pdu` has placeholders for values that pynetdicom does not accept.
    """

    pdu: bytes
    calling_ae: str
    called_ae: str
    rejection: Rejection | None = None
    reason: str = ""


def parse_request(pdu: bytes) -> AssociateRequest:
    """Parse a complete A-ASSOCIATE-RQ. Raises MalformedError."""
    version, called, calling, items = _parse(pdu)
    application, contexts, user = b"", [], b""
    for kind, value in items:
        if kind == _APPLICATION:
            application = value.strip(b" \0")
        elif kind == _PROPOSED:
            contexts.append(_item(_PROPOSED, _proposed_context(value)))
        elif kind == _USER:
            user += value
    rejection, reason = _find_rejection(version, application, calling, called)
    return AssociateRequest(
        _pdu(
            REQUEST,
            _title_or_placeholder(called),
            _title_or_placeholder(calling),
            contexts,
            _user_information(user),
        ),
        _printable(calling),
        _printable(called),
        rejection,
        reason,
    )


def titles(pdu: bytes) -> tuple[str, str]:
    """Calling and called AE title of a possibly incomplete A-ASSOCIATE-RQ; empty if unknown."""
    return _printable(_strip(pdu[26:42])), _printable(_strip(pdu[10:26]))


def parse_answer(pdu: bytes) -> bytes:
    """An A-ASSOCIATE-AC or -RJ in the form that pynetdicom parses. Raises MalformedError."""
    if pdu[0] == REJECT:
        return _rejection(pdu)
    _, _, _, items = _parse(pdu)
    contexts, user = [], b""
    for kind, value in items:
        if kind == _ANSWERED and len(value) >= 4 and value[0] % 2:
            contexts.append(_item(_ANSWERED, _answered_context(value)))
        elif kind == _USER:
            user += value
    # The titles of an answer are not tested (PS3.8 table 9-17).
    return _pdu(ACCEPT, _PLACEHOLDER, _PLACEHOLDER, contexts, _user_information(user))


def _parse(pdu: bytes) -> tuple[int, bytes, bytes, list[tuple[int, bytes]]]:
    """Protocol version, called and calling title without padding, and the items."""
    if len(pdu) < 6 + _FIXED.size:
        raise MalformedError("an A-ASSOCIATE PDU is cut off")
    version, _, called, calling, _ = _FIXED.unpack_from(pdu, 6)
    return version, _strip(called), _strip(calling), list(_items(pdu[6 + _FIXED.size :]))


def _find_rejection(
    version: int, application: bytes, calling: bytes, called: bytes
) -> tuple[Rejection | None, str]:
    """The rejection of a request and its reason, whoever sends it; None if there is none."""
    if not version & 1:
        return PROTOCOL_NOT_SUPPORTED, "another protocol version"
    if application != APPLICATION_CONTEXT:
        return CONTEXT_NAME_NOT_SUPPORTED, "another application context"
    if not calling:
        return CALLING_NOT_RECOGNISED, "no calling AE title"
    if not _is_title(calling):
        return CALLING_NOT_RECOGNISED, "the calling AE title holds characters that none may hold"
    if not _is_title(called):
        return CALLED_NOT_RECOGNISED, "no called AE title, or one of characters that none may hold"
    return None, ""


def _proposed_context(value: bytes) -> bytes:
    """A presentation context of a request (PS3.8 9.3.2.2)."""
    if len(value) < 4 or not value[0] % 2:
        raise MalformedError("a presentation context has no odd ID")
    subs = list(_items(value[4:]))
    abstract = [each for kind, raw in subs if kind == _ABSTRACT for each in _uids(raw)]
    transfer = [each for kind, raw in subs if kind == _TRANSFER for each in _uids(raw)]
    return (
        bytes((value[0], 0, 0, 0))
        + _item(_ABSTRACT, abstract[0] if abstract else _NO_UID)
        + b"".join(_item(_TRANSFER, each) for each in transfer or [_NO_UID])
    )


def _answered_context(value: bytes) -> bytes:
    """A presentation context of an answer (PS3.8 9.3.3.2); without a syntax it is refused."""
    transfer = [e for kind, raw in _items(value[4:]) if kind == _TRANSFER for e in _uids(raw)]
    result = value[2] if transfer or value[2] else _NO_TRANSFER_SYNTAX
    return bytes((value[0], 0, min(result, _NO_TRANSFER_SYNTAX), 0)) + _item(
        _TRANSFER, transfer[0] if transfer else _NO_UID
    )


def _user_information(value: bytes) -> bytes:
    """The user information that negotiation uses (PS3.7 D.3.3), always with a Maximum Length.

    Extended negotiation, user identity and operations windows are left out and so not answered,
    which means that they are not supported.
    """
    limit, sub_items = 0, b""
    for kind, raw in _items(value):
        if kind == _MAXIMUM_LENGTH:
            if len(raw) != 4:
                raise MalformedError("a Maximum Length has not 4 bytes")
            limit = int.from_bytes(raw, "big")
        elif kind == _IMPLEMENTATION:
            sub_items += b"".join(_item(kind, each) for each in _uids(raw))
        elif kind == _VERSION_NAME:
            name = bytes(c if 0x20 < c < 0x7F and c != 0x5C else 0x3F for c in _strip(raw))[:16]
            sub_items += _item(kind, name) if name else b""
        elif kind == _ROLE:
            sub_items += _item(kind, raw) if _is_role(raw) else b""
    return _item(_MAXIMUM_LENGTH, struct.pack(">I", _limit(limit))) + sub_items


def _limit(maximum_length: int) -> int:
    """The longest P-DATA-TF to send, even and within our limits. Raises MalformedError."""
    if maximum_length == 0:
        return _NO_LIMIT
    if maximum_length < _MIN_FRAGMENT:
        raise MalformedError("a Maximum Length that no message fits in")
    return min(maximum_length, _MAX_FRAGMENT) & ~1


def _is_role(value: bytes) -> bool:
    """Whether it is an SCP/SCU Role Selection (PS3.7 D.3.3.4)."""
    length = int.from_bytes(value[:2], "big")
    return (
        len(value) == length + 4
        and _UID.fullmatch(value[2:-2]) is not None
        and max(value[-2:]) <= 1
    )


def _rejection(pdu: bytes) -> bytes:
    """An A-ASSOCIATE-RJ; a reason that does not exist becomes "no reason given"."""
    if len(pdu) < 10:
        raise MalformedError("an A-ASSOCIATE-RJ is cut off")
    result, source, reason = pdu[7:10]
    source = source if source in _REASONS else 1
    reason = reason if reason in _REASONS[source] else 1
    return struct.pack(">BxIxBBB", REJECT, 4, 2 if result == 2 else 1, source, reason)


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values of items or sub-items. Raises MalformedError."""
    at = 0
    for _ in range(_MAX_ITEMS):
        if at == len(encoded):
            return
        if at + _ITEM.size > len(encoded):
            raise MalformedError("an item of an A-ASSOCIATE PDU is cut off")
        kind, length = _ITEM.unpack_from(encoded, at)
        at += _ITEM.size
        if at + length > len(encoded):
            raise MalformedError("an item of an A-ASSOCIATE PDU is longer than the PDU")
        yield kind, encoded[at : at + length]
        at += length
    raise MalformedError("too many items in an A-ASSOCIATE PDU")


def _pdu(kind: int, called: bytes, calling: bytes, contexts: list[bytes], user: bytes) -> bytes:
    body = b"".join(
        (
            _FIXED.pack(1, 0, called.ljust(16), calling.ljust(16), b""),
            _item(_APPLICATION, APPLICATION_CONTEXT),
            *contexts,
            _item(_USER, user),
        )
    )
    return struct.pack(">BxI", kind, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _uids(raw: bytes) -> list[bytes]:
    """The UID without padding, in a list; an empty list if it is invalid."""
    stripped = raw.strip(b" \0")
    return [stripped] if _UID.fullmatch(stripped) else []


def _strip(raw: bytes) -> bytes:
    return raw.strip(b" \0")


def _is_title(title: bytes) -> bool:
    """Characters of the default repertoire but backslash and control ones (PS3.5 6.2)."""
    return bool(title) and all(0x20 <= c < 0x7F and c != 0x5C for c in title)


def _title_or_placeholder(title: bytes) -> bytes:
    return title if _is_title(title) else _PLACEHOLDER


def _printable(title: bytes) -> str:
    """A title for a log or a list, other characters as question marks."""
    return "".join(chr(c) if 0x20 <= c < 0x7F and c != 0x5C else "?" for c in title)
