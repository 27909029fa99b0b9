"""Reads the elements of a data set (PS3.5 section 7) so that one odd element hides no other.

A parser that trusts every header loses the picture behind an element of an unknown value
representation, and one that trusts the order of the tags loses what stands behind the pixel data.
This walks the element headers, keeps what says what a picture is and how it is shown, and leaves
the pixel data where they are.
"""

import io
import struct
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
MAX_VALUE_BYTES = 64 * 2**20
"""Longer values are skipped: no element that describes a picture has one."""

_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_GROUPS = frozenset({0x0008, 0x0018, 0x0020, 0x0028})
_OFFSET_TABLES = frozenset({0x7FE00001, 0x7FE00002})
_OVERLAY_BITS = frozenset({0x0100, 0x0102})
_SEQUENCES = frozenset(
    {
        0x00186011,  # Sequence of Ultrasound Regions
        0x00283000,  # Modality LUT Sequence
        0x00283010,  # VOI LUT Sequence
        0x00289132,  # Frame VOI LUT Sequence
        0x00289145,  # Pixel Value Transformation Sequence
        0x52009229,  # Shared Functional Groups Sequence
        0x52009230,  # Per-Frame Functional Groups Sequence
    }
)
_IDENTIFICATIONS = frozenset(
    {
        0x00081072,  # Operator Identification Sequence
        0x00401101,  # Person Identification Code Sequence
    }
)
"""Sequences that say who made the picture: one that is none is as good as absent."""
_PATIENT = frozenset(
    {
        0x00101010,  # Patient's Age
        0x00101020,  # Patient's Size
        0x00101030,  # Patient's Weight
        0x001021D0,  # Last Menstrual Date
    }
)
_MAX_DEPTH = 8  # None of these sequences is nested deeper.
_LOOKAHEAD = 4  # Of so many elements behind a guessed length one must be sound.
_FIRST_GROUP = 0x0008  # Those before it are not of data sets.


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data lie: `length` is None when undefined (encapsulated)."""

    keyword: str
    vr: str | None
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class _Header:
    """One element: its value stands at `value`; `vr` is None where implicit or unknown."""

    tag: int
    vr: str | None
    length: int
    value: int

    @property
    def end(self) -> int:
        return self.value + self.length

    @property
    def is_undefined(self) -> bool:
        return self.length == UNDEFINED_LENGTH


class ElementReader:
    """Reads data sets of one byte order from a seekable stream, nested elements counted with the
    others at most `max_elements` of them."""

    def __init__(
        self, stream: BinaryIO, little_endian: bool = True, max_elements: int | None = None
    ) -> None:
        self._stream = stream
        self._remaining = max_elements
        self._little = little_endian
        order = "<" if little_endian else ">"
        self._tag = struct.Struct(f"{order}HH")
        self._u16 = struct.Struct(f"{order}H")
        self._u32 = struct.Struct(f"{order}L")
        self._size = stream.seek(0, io.SEEK_END)

    def data_set(self, start: int, implicit: bool) -> tuple[Dataset, PixelElement | None]:
        """The elements of the data set at `start` that describe its picture and who made it, and
        the position of its pixel data.

        Elements may stand in any order, also behind the pixel data; what stands before them
        counts more. Raises ValueError for a sequence that is none.
        """
        dataset = Dataset()
        pixels: PixelElement | None = None
        implicit = self._is_implicit(start, implicit)
        for header, _ in self._walk(start, implicit):
            if header.tag in PIXEL_KEYWORDS:
                length = None if header.is_undefined else header.length
                pixels = pixels or PixelElement(
                    PIXEL_KEYWORDS[header.tag], header.vr, header.value, length
                )
            elif self._is_needed(header.tag) and (pixels is None or header.tag not in dataset):
                self._keep(dataset, header, self._size, implicit, depth=0)
        return dataset, pixels

    def extract(
        self, start: int, implicit: bool, tags: Container[int], limit: int
    ) -> tuple[bytes, bool]:
        """The elements of these tags as they stand, but in the order of their tags, as a parser of
        DICOM expects them, at most `limit` bytes; and whether they are implicit.

        Raises ValueError for a sequence that is none, and beyond `max_elements`.
        """
        implicit = self._is_implicit(start, implicit)
        values: dict[int, bytes] = {}
        remaining_bytes = limit
        at = start
        for header, after in self._walk(start, implicit):
            is_sound = implicit or header.vr is not None
            is_new = header.tag in tags and header.tag not in values
            if is_new and is_sound and after is not None and after - at <= remaining_bytes:
                values[header.tag] = self._read(at, after - at)
                remaining_bytes -= after - at
            at = after or at
        return b"".join(values[tag] for tag in sorted(values)), implicit

    def _walk(self, start: int, implicit: bool) -> Iterator[tuple[_Header, int | None]]:
        """The top-level elements, and where the next begins: None after the last."""
        is_behind = False
        at: int | None = start
        while at is not None and (header := self._header(at, self._size, implicit)) is not None:
            if header.tag >> 16 == 0xFFFE or (is_behind and not self._is_element(header, implicit)):
                return
            is_pixels = header.tag in PIXEL_KEYWORDS
            is_behind = is_behind or is_pixels
            try:
                at = self._after(header, self._size, implicit)
            except ValueError:
                # Pixel data that are in no items end the header; what they are is asked later.
                if not is_pixels:
                    raise
                at = None
            yield header, at

    def group_end(self, start: int, group: int) -> tuple[int, Dataset]:
        """Where an explicit group at `start` ends, and its elements (File Meta Information)."""
        dataset = Dataset()
        at = start
        while (header := self._header(at, self._size, implicit=False)) is not None:
            if header.tag >> 16 != group or header.is_undefined or header.end > self._size:
                break
            self._keep(dataset, header, self._size, implicit=False, depth=0)
            at = header.end
        return at, dataset

    def _is_implicit(self, start: int, stated: bool) -> bool:
        """Whether elements have no VR, by their bytes, whatever the transfer syntax says."""
        head = self._read(start, 8)
        if head[4:6] in _SHORT or head[4:6] in _LONG:
            return False
        if stated or len(head) < 8:
            return True
        at = start
        for _ in range(_LOOKAHEAD):
            head = self._read(at, 8)
            if len(head) < 8 or not dictionary_has_tag(self._tag_of(head)):
                return False
            (length,) = self._u32.unpack(head[4:])
            at += 8 + length
            if at > self._size:
                return False
        return True

    def _is_element(self, header: _Header, implicit: bool) -> bool:
        """Whether this is an element and not trailing bytes behind the pixel data."""
        if header.is_undefined:
            return header.tag in _SEQUENCES
        is_known = dictionary_has_tag(header.tag) if implicit else header.vr is not None
        return is_known and header.end <= self._size

    @staticmethod
    def _is_needed(tag: int) -> bool:
        group = tag >> 16
        if group in _GROUPS or tag in _SEQUENCES or tag in _OFFSET_TABLES or tag in _PATIENT:
            return True
        return 0x6000 <= group <= 0x60FE and tag & 0xFFFF in _OVERLAY_BITS

    def _keep(
        self, dataset: Dataset, header: _Header, end: int, implicit: bool, depth: int
    ) -> None:
        if header.tag in _SEQUENCES:
            items = self._items(header, end, implicit, depth + 1)
            dataset[header.tag] = DataElement(BaseTag(header.tag), "SQ", Sequence(items))
        elif header.tag in _IDENTIFICATIONS:
            with suppress(ValueError):
                items = self._items(header, end, implicit, depth + 1)
                dataset[header.tag] = DataElement(BaseTag(header.tag), "SQ", Sequence(items))
        elif header.vr == "SQ" or header.is_undefined or header.length > MAX_VALUE_BYTES:
            return
        elif header.end <= end:
            value = self._read(header.value, header.length)
            dataset[header.tag] = RawDataElement(
                BaseTag(header.tag),
                header.vr,
                header.length,
                value or None,
                header.value,
                header.vr is None,
                self._little,
            )

    def _items(self, header: _Header, end: int, implicit: bool, depth: int) -> list[Dataset]:
        """The items of a sequence that is kept, each with its elements."""
        if depth > _MAX_DEPTH:
            return []
        implicit = implicit or header.vr == "UN"
        end = end if header.is_undefined else min(end, header.end)
        items: list[Dataset] = []
        at = header.value
        while (item := self._header(at, end, implicit)) is not None and item.tag == _ITEM:
            stop = end if item.is_undefined else min(end, item.end)
            dataset, at = self._item(item.value, stop, implicit, depth)
            at = at if item.is_undefined else item.end
            items.append(dataset)
        return items

    def _item(self, at: int, end: int, implicit: bool, depth: int) -> tuple[Dataset, int]:
        dataset = Dataset()
        while (header := self._header(at, end, implicit)) is not None:
            if header.tag == _ITEM_END:
                return dataset, header.value
            if header.tag == _SEQUENCE_END:
                return dataset, at
            self._keep(dataset, header, end, implicit, depth)
            after = self._after(header, end, implicit)
            if after is None:
                break
            at = after
        return dataset, end

    def _after(self, header: _Header, end: int, implicit: bool) -> int | None:
        """Where the next element begins; None at the end."""
        if header.is_undefined:
            return self._sequence_end(header, end, implicit)
        return header.end if header.end <= end else None

    def _sequence_end(self, header: _Header, end: int, implicit: bool) -> int | None:
        """Where an element of undefined length ends (PS3.5 7.5); None where it does not.

        Raises ValueError for a content that is no items.
        """
        at = header.value
        # The value representations of nested contexts; items and sequences take turns.
        nested = [implicit or header.vr == "UN"]
        in_item = False
        while nested:
            part = self._header(at, end, nested[-1])
            if part is None:
                return None
            at = part.value
            if part.tag == _SEQUENCE_END:
                nested.pop()
                if in_item and nested:
                    # The end of the item is missing.
                    nested.pop()
                in_item = bool(nested)
            elif in_item and part.tag == _ITEM_END:
                nested.pop()
                in_item = False
            elif in_item and part.is_undefined:
                nested.append(nested[-1] or part.vr == "UN")
                in_item = False
            elif in_item or (part.tag == _ITEM and not part.is_undefined):
                at = part.end
            elif part.tag == _ITEM:
                nested.append(nested[-1])
                in_item = True
            else:
                raise ValueError("a sequence holds something that is not an item")
        return at

    def _header(self, at: int, end: int, implicit: bool) -> _Header | None:
        """The element at `at`; None where the data set ends.

        A VR that is none: two capitals have a 32-bit length, as every VR that was ever added, any
        other 16 bits; where the elements behind do not bear that out, what they bear out.
        """
        if at + 8 > end:
            return None
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining < 0:
                raise ValueError("the data set has too many elements")
        head = self._read(at, 12)
        if len(head) < 8:
            return None
        tag, vr = self._tag_of(head), head[4:6]
        (long,) = self._u32.unpack(head[4:8])
        if tag >> 16 == 0xFFFE:
            return _Header(tag, None, long, at + 8)
        if implicit:
            fits = long == UNDEFINED_LENGTH or at + 8 + long <= end
            if fits or (vr not in _SHORT and vr not in _LONG):
                return _Header(tag, None, long, at + 8)
        stated = self._parse_stated(tag, head, at)
        if stated is not None and (
            stated.is_undefined or stated.end <= end or tag in PIXEL_KEYWORDS
        ):
            return stated
        guesses = self._guesses(tag, head, at)
        for guess in guesses:
            if self._is_borne_out(guess, end, _LOOKAHEAD):
                return guess
        if stated is not None:
            return stated
        return next((guess for guess in guesses if guess.end <= end), None)

    def _parse_stated(self, tag: int, head: bytes, at: int) -> _Header | None:
        """The element by its VR; None for a VR that is none."""
        vr = head[4:6]
        if vr in _SHORT:
            return _Header(tag, vr.decode("ascii"), self._u16.unpack(head[6:8])[0], at + 8)
        if vr in _LONG and len(head) == 12:
            return _Header(tag, vr.decode("ascii"), self._u32.unpack(head[8:12])[0], at + 12)
        return None

    def _guesses(self, tag: int, head: bytes, at: int) -> list[_Header]:
        """The possible headers of an element of unknown VR, likeliest first."""
        short = _Header(tag, None, self._u16.unpack(head[6:8])[0], at + 8)
        implicit = _Header(tag, None, self._u32.unpack(head[4:8])[0], at + 8)
        if len(head) < 12:
            return [short, implicit]
        long = _Header(tag, None, self._u32.unpack(head[8:12])[0], at + 12)
        has_capitals = head[4:6].isalpha() and head[4:6].isupper()
        return [long, short, implicit] if has_capitals else [short, long, implicit]

    def _is_borne_out(self, header: _Header, end: int, depth: int) -> bool:
        """Whether what follows the element is the end, or an element that is in order itself."""
        if header.is_undefined:
            return self._tag_of(self._read(header.value, 4)) == _ITEM
        at = header.end
        if at >= end:
            return at == end
        head = self._read(at, 12)
        if len(head) < 8:
            return False
        tag = self._tag_of(head)
        if tag >> 16 == 0xFFFE:
            return tag in (_ITEM_END, _SEQUENCE_END)
        if tag >> 16 < _FIRST_GROUP or depth == 0:
            return False
        stated = self._parse_stated(tag, head, at)
        if stated is not None:
            return stated.is_undefined or stated.end <= end or tag in PIXEL_KEYWORDS
        return any(
            self._is_borne_out(each, end, depth - 1) for each in self._guesses(tag, head, at)
        )

    def _tag_of(self, head: bytes) -> int:
        if len(head) < 4:
            return 0
        group, element = self._tag.unpack(head[:4])
        return int(group << 16 | element)

    def _read(self, at: int, count: int) -> bytes:
        self._stream.seek(at)
        return self._stream.read(count)
