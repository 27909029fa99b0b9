"""Finds the fragments of encapsulated pixel data, and those of each frame (PS3.5 A.4)."""

import io
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO

from detector.errors import ErrorCode, QCError

Span = tuple[int, int]
"""Offset and length of a fragment's value in the stream."""

_ITEM = 0xFFFEE000
_SEQUENCE_DELIMITER = 0xFFFEE0DD
_STARTS = (
    b"\xff\xd8\xff",  # SOI of JPEG and JPEG-LS and the next marker, T.81 B.1.1.3
    b"\xff\x4f\xff\x51",  # SOC and SIZ of JPEG 2000, T.800 A.4
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",  # the signature box of JP2, T.800 I.5.1
)
_MAX_RLE_SEGMENTS = 15
_LONGEST_LONE_TABLE = 1024
"""A single item with more bytes is a fragment; with fewer it may be a lone Basic Offset Table."""
_RLE_HEADER_BYTES = 64


def fragments(stream: BinaryIO, offset: int) -> tuple[Span, ...]:
    """The fragments after the Basic Offset Table, found by their item lengths alone.

    A missing sequence delimiter is forgiven, since the items say what they hold; so is a missing
    Basic Offset Table, where the first item begins as a frame does.
    Raises QCError: TRUNCATED when an item reaches past the end, DECODE_FAILED when there are none.
    """
    items = _items(stream, offset)
    if items and starts_frame(stream, items[0]):
        return items
    if len(items) == 1 and items[0][1] > _LONGEST_LONE_TABLE:
        # The table is missing: this is a stream of video, which may begin with anything.
        return items
    return items[1:]


def _items(stream: BinaryIO, offset: int) -> tuple[Span, ...]:
    size = stream.seek(0, io.SEEK_END)
    items: list[Span] = []
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
        items.append((at + 8, length))
        at += 8 + length
    return tuple(items)


def starts_frame(stream: BinaryIO, span: Span) -> bool:
    """Whether a fragment begins as the codestream of a frame does."""
    stream.seek(span[0])
    head = stream.read(min(span[1], _RLE_HEADER_BYTES))
    return head.startswith(_STARTS) or _is_rle_header(head)


def _is_rle_header(head: bytes) -> bool:
    """A count of segments and their ascending offsets, the rest zero (PS3.5 G.5)."""
    if len(head) < _RLE_HEADER_BYTES:
        return False
    count, *offsets = struct.unpack("<16L", head)
    used, unused = offsets[:count], offsets[count:]
    return (
        1 <= count <= _MAX_RLE_SEGMENTS
        and used[0] == _RLE_HEADER_BYTES
        and used == sorted(set(used))
        and not any(unused)
    )


def frame_fragments(
    stream: BinaryIO,
    spans: Sequence[Span],
    count: int,
    tables: Sequence[Sequence[int]] = (),
) -> list[tuple[Span, ...]]:
    """The fragments of each frame; more than `count` frames where there are more.

    As many fragments as frames settle it (A.4: a frame has at least one). Else the codestreams
    say where a frame begins, and only then one of the offset `tables`, each the offsets of the
    frames' first items from the first fragment's item: many writers fill it wrongly.
    Raises QCError TRUNCATED for fewer fragments or frames than `count`.
    """
    if len(spans) == count:
        return [(span,) for span in spans]
    starts = [index for index, span in enumerate(spans) if starts_frame(stream, span)]
    if starts[:1] == [0] and len(starts) >= count:
        return _cut(spans, starts)
    if count == 1:
        return [tuple(spans)]
    offsets = {span[0] - spans[0][0]: index for index, span in enumerate(spans)}
    for table in tables:
        is_ascending = all(one < next_ for one, next_ in pairwise(table))
        if len(table) >= count and table[0] == 0 and is_ascending and offsets.keys() >= set(table):
            return _cut(spans, [offsets[offset] for offset in table])
    raise QCError(ErrorCode.TRUNCATED, "the file has fewer frames than its header says")


def _cut(spans: Sequence[Span], starts: Sequence[int]) -> list[tuple[Span, ...]]:
    ends = [*starts[1:], len(spans)]
    return [tuple(spans[start:end]) for start, end in zip(starts, ends, strict=True)]


def basic_offset_table(stream: BinaryIO, offset: int) -> tuple[int, ...]:
    """The entries of the first item; none where it cannot be a table."""
    items = _items(stream, offset)
    if not items or items[0][1] % 4 or starts_frame(stream, items[0]):
        return ()
    stream.seek(items[0][0])
    return struct.unpack(f"<{items[0][1] // 4}L", stream.read(items[0][1]))


def extended_offset_table(value: bytes | None) -> tuple[int, ...]:
    """The entries of Extended Offset Table (7FE0,0001); none where it cannot be one."""
    if not value or len(value) % 8:
        return ()
    return struct.unpack(f"<{len(value) // 8}Q", value)
