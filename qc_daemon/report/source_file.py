"""Reads the header of a received file within limits: no sender may fill this process's memory.

Only the elements that reports need are kept; the values of others are skipped on disk. Of a
deflated data set only the beginning is inflated.
"""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from detector.errors import ErrorCode, QCError
from detector.imaging.data_elements import ElementReader
from qc_daemon.report.normalise import KEYWORDS, UIDS

MAX_HEADER_BYTES = 1 << 20
"""At most so many bytes of a header are parsed; one with ten ultrasound regions has some 20 kB."""
_MAX_INFLATED = 16 << 20
_MAX_META_BYTES = 64 << 10
_MAX_ELEMENTS = 20_000
"""At most so many elements, nested ones included, are read of a header that pydicom cannot parse
in order."""
_DEFLATED = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)
_WITH_LONG_LENGTH = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT"})
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in KEYWORDS]
_IDENTITY = frozenset(Tag(keyword) for keyword in UIDS)


def read_header(path: Path) -> Dataset:
    """The elements of a received file that reports need, as far as MAX_HEADER_BYTES hold them.

    Raises QCError: SPOOL_MISSING, STORAGE, UNREADABLE.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except FileNotFoundError:
        raise QCError(ErrorCode.SPOOL_MISSING, "the received file is gone from the spool") from None
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise QCError(ErrorCode.STORAGE, "the disk cannot be read") from error
        # The parser has no exception of its own for malformed bytes: it raises whatever breaks.
        raise QCError(ErrorCode.UNREADABLE, "the received file cannot be read again") from error


def _read(file: BinaryIO) -> Dataset:
    syntax, offset = _meta(file)
    stream = file
    if syntax in _DEFLATED:
        file.seek(offset)
        stream, offset = BytesIO(_inflate(file)), 0
        bounded = cast(BinaryIO, _Bounded(stream, MAX_HEADER_BYTES))
        dataset = read_dataset(
            bounded,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=_is_after_header(),
            specific_tags=_TAGS,
        )
    else:
        file.seek(0)
        bounded = cast(BinaryIO, _Bounded(file, MAX_HEADER_BYTES))
        # Not the file's own kind of data set, which would hold the file open.
        dataset = Dataset(
            read_partial(bounded, _is_after_header(), force=True, specific_tags=_TAGS)
        )
    if all(tag in dataset for tag in _IDENTITY) or (stream is file and not offset):
        return dataset
    return _read_element_by_element(stream, offset, syntax) or dataset


def _read_element_by_element(stream: BinaryIO, offset: int, syntax: str) -> Dataset | None:
    """The header of a data set that pydicom cannot parse in order: with elements behind one of an
    unknown value representation, or behind the pixel data. None if this way finds no UIDs either.
    """
    is_little_endian = syntax != ExplicitVRBigEndian
    reader = ElementReader(stream, is_little_endian, _MAX_ELEMENTS)
    try:
        content, is_implicit = reader.extract(
            offset, syntax == ImplicitVRLittleEndian, frozenset(_TAGS), MAX_HEADER_BYTES
        )
    except ValueError:
        return None
    dataset = read_dataset(BytesIO(content), is_implicit, is_little_endian)
    return dataset if all(tag in dataset for tag in _IDENTITY) else None


def _is_after_header() -> Callable[[BaseTag, str | None, int], bool]:
    """A function that says whether an element lies behind all that is needed: the frames'
    functional groups (PS3.3 C.7.6.16) and private sequences take megabytes. Elements may be out of
    order, so that it is never true before the UIDs have come."""
    missing = set(_IDENTITY)

    def is_after(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        missing.discard(tag)
        return tag in _PIXELS or (not missing and tag > max(_TAGS))

    return is_after


def _meta(file: BinaryIO) -> tuple[str, int]:
    """Transfer Syntax UID and where the data set begins (PS3.10 7.1); ("", 0) if unknown."""
    head = file.read(_MAX_META_BYTES)
    if head[128:132] != b"DICM":
        return "", 0
    syntax, offset = "", 132
    while head[offset : offset + 2] == b"\x02\x00" and offset + 12 <= len(head):
        vr = head[offset + 4 : offset + 6]
        is_long = vr in _WITH_LONG_LENGTH
        (length,) = struct.unpack_from(
            "<I" if is_long else "<H", head, offset + (8 if is_long else 6)
        )
        value = offset + (12 if is_long else 8)
        if head[offset + 2 : offset + 4] == b"\x10\x00":
            syntax = head[value : value + length].decode("ascii", "replace").strip("\0 ")
        offset = value + length
    return syntax, offset


def _inflate(file: BinaryIO) -> bytes:
    """The first _MAX_INFLATED bytes of a deflated data set (PS3.5 A.5)."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    while len(out) < _MAX_INFLATED and (chunk := file.read(1 << 16)):
        out += inflate.decompress(chunk, _MAX_INFLATED - len(out))
    return bytes(out)


class _Bounded:
    """A file that ends after so many bytes were read; what is skipped does not count."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._remaining = limit
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        """Raises EOFError beyond the limit: the parser then gives what it has."""
        if count < 0 or count > self._remaining:
            raise EOFError("the header is longer than is read")
        content = self._file.read(count)
        self._remaining -= len(content)
        return content
