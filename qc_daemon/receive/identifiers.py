"""Reads the identifiers of a received object from its header, without decoding it.

pydicom's reader looks up the declared character set on the way, and inflates a whole deflated
object; receipt must neither fail on text nor let a sender fill the memory. So element headers
(PS3.5 section 7) are read only as far as Series Instance UID, and six values kept; with them five
that describe the object to routing rules and to people. Where elements are out of order, or have a
value representation that does not exist, reading goes on, past the pixel data if need be.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qc_daemon.dicom.character_set import (
    NAME_DELIMITERS,
    VALUE_DELIMITERS,
    CharacterSetError,
    character_sets,
    decode_text,
)

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHORT_VR = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
# Sequences within sequences.
_MAX_DEPTH = 64
# Bytes that are inflated at most: kilobytes come before Series Instance UID, so that a deflated
# object with more is an attack or rubbish.
_MAX_INFLATED = 16 << 20
# Bytes of a value; a longer one is no identifier.
_MAX_VALUE = 1 << 16

_CHARSET, _SOP_CLASS, _SOP_INSTANCE = 0x00080005, 0x00080016, 0x00080018
_PATIENT_ID, _STUDY, _SERIES = 0x00100020, 0x0020000D, 0x0020000E
_IDENTIFIERS = frozenset({_CHARSET, _SOP_CLASS, _SOP_INSTANCE, _PATIENT_ID, _STUDY, _SERIES})
# An object without these is refused, whatever else it has.
_IDENTIFYING = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY})
_ALL_EXPECTED = _IDENTIFYING | {_PATIENT_ID, _SERIES}
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
# Elements that are read at most. An object has some hundreds before its pixel data, an enhanced
# one thousands, most of them in sequences of defined length, which count as one.
_MAX_ELEMENTS = 20_000
_STATION_NAME, _STUDY_DESCRIPTION = 0x00081010, 0x00081030
_PATIENT_NAME, _ACCESSION, _STUDY_DATE = 0x00100010, 0x00080050, 0x00080020
_DESCRIBING = frozenset({_STATION_NAME, _STUDY_DESCRIPTION, _PATIENT_NAME, _ACCESSION, _STUDY_DATE})
# Characters of a Patient's Name: three component groups of 64, and delimiters (PS3.5 6.2.1).
_MAX_NAME = 324

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)


class HeaderError(ValueError):
    """The bytes are not a data set in the named transfer syntax; the message quotes no value."""


@dataclass(frozen=True)
class Identity:
    """The identifiers of an object; an absent one is empty.

    The last five are read only `with_description`. `study_date` is YYYYMMDD, or empty for a value
    that is no date.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    station_name: str = ""
    study_description: str = ""
    patient_name: str = ""
    accession_number: str = ""
    study_date: str = ""


def file_head(
    sop_class: str, sop_instance: str, transfer_syntax: str, implementation: str, version: str
) -> bytes:
    """Preamble and meta group of a file (PS3.10 7.1). Raises ValueError for text not ASCII.

    They are the bytes that pydicom would write, and the SHA-256 of received files covers them;
    pydicom takes a hundred times as long.
    """
    group = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _short(0x0002, b"UI", sop_class, b"\0"),
            _short(0x0003, b"UI", sop_instance, b"\0"),
            _short(0x0010, b"UI", transfer_syntax, b"\0"),
            _short(0x0012, b"UI", implementation, b"\0"),
            _short(0x0013, b"SH", version, b" "),
        )
    )
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group))
    return bytes(128) + b"DICM" + length + group


def _short(element: int, vr: bytes, text: str, pad: bytes) -> bytes:
    value = text.encode("ascii")
    value += pad * (len(value) % 2)
    if len(value) > 0xFFFE:
        raise ValueError("too long for an element of this kind")
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def data_set_offset(path: Path) -> int:
    """Offset of the data set in a file whose meta group we wrote (PS3.10 7.1). Raises HeaderError,
    OSError."""
    with path.open("rb") as file:
        head = file.read(144)
    # Preamble, DICM, then (0002,0000) UL of length 4: the length of the rest of the group.
    if len(head) < 144 or head[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise HeaderError("the file has no meta group")
    return 144 + int.from_bytes(head[140:144], "little")


def read_identity(
    path: Path, offset: int, transfer_syntax: str, *, with_description: bool = False
) -> Identity:
    """The identifiers of the data set that begins at `offset` of a file.

    `with_description` reads the fields that have a default as well. Raises HeaderError, OSError.
    """
    with path.open("rb") as file:
        file.seek(offset)
        stream: BinaryIO = file
        if transfer_syntax in DEFLATED:
            stream = _inflate(file)
        values = _ElementReader(stream, transfer_syntax).read_values(
            _DESCRIBING if with_description else frozenset()
        )
    charset = values.get(_CHARSET, b"")
    return Identity(
        sop_class_uid=_uid(values.get(_SOP_CLASS, b"")),
        sop_instance_uid=_uid(values.get(_SOP_INSTANCE, b"")),
        study_instance_uid=_uid(values.get(_STUDY, b"")),
        series_instance_uid=_uid(values.get(_SERIES, b"")),
        patient_id=_text(values.get(_PATIENT_ID, b""), charset),
        station_name=_text(values.get(_STATION_NAME, b""), charset),
        study_description=_text(values.get(_STUDY_DESCRIPTION, b""), charset),
        patient_name=_text(values.get(_PATIENT_NAME, b""), charset, NAME_DELIMITERS)[:_MAX_NAME],
        accession_number=_text(values.get(_ACCESSION, b""), charset)[:_MAX_NAME],
        study_date=_date(values.get(_STUDY_DATE, b"")),
    )


def _inflate(file: BinaryIO) -> BinaryIO:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    try:
        while len(out) < _MAX_INFLATED and (chunk := file.read(1 << 16)):
            out += inflate.decompress(chunk, _MAX_INFLATED - len(out))
    except zlib.error:
        raise HeaderError("the deflated data set cannot be inflated") from None
    return io.BytesIO(bytes(out))


class _ElementReader:
    """Reads the elements of a data set once, in their order."""

    def __init__(self, stream: BinaryIO, transfer_syntax: str) -> None:
        self.stream = stream
        self._elements = 0
        # Whether a tag beyond Series Instance UID was read.
        self._is_beyond = False
        self.implicit = transfer_syntax == IMPLICIT
        self.order = ">" if transfer_syntax == BIG_ENDIAN else "<"
        start = stream.tell()
        self.end = stream.seek(0, io.SEEK_END)
        stream.seek(start)

    def read_values(self, describing: frozenset[int]) -> dict[int, bytes]:
        """The identifiers by tag, and those of the tags `describing` that are not too long.

        In a data set in order they all come before the first tag beyond Series Instance UID; in one
        out of order they may be anywhere before the pixel data.
        """
        values: dict[int, bytes] = {}
        try:
            self._collect(values, describing)
        except HeaderError:
            # Damage beyond the identifiers is no reason to refuse an object that has them.
            if not (self._is_beyond and values.keys() >= _IDENTIFYING):
                raise
        return values

    def _collect(self, values: dict[int, bytes], describing: frozenset[int]) -> None:
        is_ordered, before = True, -1
        while self.stream.tell() < self.end:
            tag, length = self._header(self.implicit)
            self._is_beyond = self._is_beyond or tag > _SERIES
            is_ordered, before = is_ordered and tag > before, tag
            if tag > _SERIES and values.keys() >= _ALL_EXPECTED:
                return
            if tag in _PIXELS and is_ordered and values.keys() >= _IDENTIFYING:
                return
            if length == _UNDEFINED:
                self._skip_items(self.implicit, depth=1)
            elif tag in _IDENTIFIERS:
                if length > _MAX_VALUE:
                    raise HeaderError("an identifier is longer than any can be")
                values[tag] = self._read(length)
            elif tag in describing and length <= _MAX_VALUE:
                values[tag] = self._read(length)
            else:
                self._skip(length)

    def _read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise HeaderError("the data set ends inside an element")
        return data

    def _skip(self, count: int) -> None:
        if self.stream.tell() + count > self.end:
            raise HeaderError("an element is longer than the data set")
        self.stream.seek(count, io.SEEK_CUR)

    def _header(self, implicit: bool) -> tuple[int, int]:
        """Tag and value length of the next element.

        It accepts the two common errors about the syntax: implicit elements in an explicit data set
        (there is no VR) and explicit ones in an implicit data set (a VR, and an impossible length).
        """
        self._elements += 1
        if self._elements > _MAX_ELEMENTS:
            raise HeaderError("too many elements for an object that hides its identifiers")
        head = self._read(8)
        group, element = struct.unpack(self.order + "HH", head[:4])
        (long,) = struct.unpack(self.order + "I", head[4:])
        (short,) = struct.unpack(self.order + "H", head[6:])
        tag, vr = group << 16 | element, head[4:6]
        fits = long == _UNDEFINED or self.stream.tell() + long <= self.end
        if group == 0xFFFE or (implicit and fits):
            return tag, long
        if vr in _LONG_VR:
            return tag, struct.unpack(self.order + "I", self._read(4))[0]
        if vr in _SHORT_VR:
            return tag, short
        return tag, self._guess_length(tag, vr, long, short)

    def _guess_length(self, tag: int, vr: bytes, long: int, short: int) -> int:
        """The most likely length of an element whose value representation is unknown.

        Two capitals are a new one, with a 32-bit length behind two reserved bytes (PS3.5 7.1.2).
        Other text has a 16-bit length; what is no text belongs to an implicit element. Where no
        element follows at that length, the other lengths are tried.
        """
        value = self.stream.tell()
        reserved = self.stream.read(4)
        longer = struct.unpack(self.order + "I", reserved)[0] if len(reserved) == 4 else self.end
        candidates = {
            "long": (value + 4, longer),
            "short": (value, short),
            "implicit": (value, long),
        }
        if all(0x41 <= c <= 0x5A for c in vr):
            order = ("long", "short", "implicit")
        elif all(0x20 <= c < 0x7F for c in vr):
            order = ("short", "long", "implicit")
        else:
            order = ("implicit", "short", "long")
        fitting = [
            (start, length)
            for start, length in (candidates[each] for each in order)
            if length == _UNDEFINED or start + length <= self.end
        ]
        followed = (each for each in fitting if self._is_followed(tag, *each))
        start, length = next(followed, fitting[0] if fitting else (value, long))
        self.stream.seek(start)
        return length

    def _is_followed(self, tag: int, start: int, length: int) -> bool:
        """Whether an element, or the end of the data set, is where this one would end."""
        self.stream.seek(start + (0 if length == _UNDEFINED else length))
        head = self.stream.read(8)
        if len(head) < 8:
            return not head and length != _UNDEFINED
        group, element = struct.unpack(self.order + "HH", head[:4])
        following = group << 16 | element
        if length == _UNDEFINED:
            return following in (_ITEM, _SEQUENCE_END)
        if following in (_ITEM, _ITEM_END, _SEQUENCE_END):
            return True
        if head[4:6] in _SHORT_VR or head[4:6] in _LONG_VR:
            return True
        (long,) = struct.unpack(self.order + "I", head[4:])
        return bool(following > tag and self.stream.tell() + long <= self.end)

    def _skip_items(self, implicit: bool, depth: int) -> None:
        """Pass over the items of an element of undefined length (PS3.5 7.5)."""
        if depth > _MAX_DEPTH:
            raise HeaderError("sequences are nested too deeply")
        while True:
            tag, length = self._header(implicit)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise HeaderError("a sequence holds something that is not an item")
            if length == _UNDEFINED:
                self._skip_item(implicit, depth)
            else:
                self._skip(length)

    def _skip_item(self, implicit: bool, depth: int) -> None:
        while True:
            tag, length = self._header(implicit)
            if tag == _ITEM_END:
                return
            if length == _UNDEFINED:
                self._skip_items(implicit, depth + 1)
            else:
                self._skip(length)


def _uid(raw: bytes) -> str:
    return raw.decode("ascii", errors="replace").replace("\0", "").strip()


def _date(raw: bytes) -> str:
    """A date (DA, or ACR-NEMA's with dots) as YYYYMMDD; empty if it is none."""
    text = _uid(raw).replace(".", "")
    return text if len(text) == 8 and text.isascii() and text.isdecimal() else ""


def _text(raw: bytes, charset: bytes, delimiters: frozenset[int] = VALUE_DELIMITERS) -> str:
    """A text in its character sets, or in Latin-1, which decodes any bytes; without NUL, which no
    database stores."""
    sets = character_sets(charset.decode("latin-1")) or ("6",)
    try:
        text = decode_text(raw, sets, delimiters)
    except CharacterSetError:
        text = raw.decode("latin-1")
    return text.replace("\0", "").strip()
