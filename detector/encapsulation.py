"""The fragments of encapsulated pixel data (PS3.5 A.4)."""

import io
import struct
from typing import BinaryIO

from detector.codes import ErrorCode, QCError

Span = tuple[int, int]
"""Offset and length of a fragment's value in the stream."""

_ITEM = 0xFFFEE000
_SEQUENCE_DELIMITER = 0xFFFEE0DD


def fragments(stream: BinaryIO, offset: int) -> tuple[Span, ...]:
    """The fragments after the Basic Offset Table, found by their item lengths alone.

    A missing sequence delimiter is forgiven, since the items say what they hold.
    Raises QCError: TRUNCATED when an item reaches past the end, DECODE_FAILED when there are none.
    """
    size = stream.seek(0, io.SEEK_END)
    found: list[Span] = []
    at = offset
    while at + 8 <= size:
        stream.seek(at)
        group, element, length = struct.unpack("<HHL", stream.read(8))
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITER:
            break
        if tag != _ITEM:
            raise QCError(ErrorCode.DECODE_FAILED, "the pixel data are not in items")
        if at + 8 + length > size:
            raise QCError(ErrorCode.TRUNCATED, "the file ends inside its pixel data")
        found.append((at + 8, length))
        at += 8 + length
    return tuple(found[1:])
