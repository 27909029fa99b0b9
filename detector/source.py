"""An opened DICOM file: its header, and where its pixel data lie in the stream.

Tolerant in what it reads (PS3.10 7.1): a missing preamble or File Meta Information, a wrong or
missing transfer syntax of native data, and any character set are accepted. The pixel data are
left on disk, so that a long cine costs no memory.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from detector.codes import ErrorCode, QCError

SIMULATOR = "qc-daemon phantom"
"""Manufacturer (0008,0070) of what our simulator makes."""
UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""Group 0002 or 0008, little or big endian: how a data set without preamble begins."""


@dataclass(frozen=True, slots=True)
class Source:
    """Header and place of the pixel data; `length` is None when undefined (encapsulated)."""

    dataset: Dataset
    transfer_syntax: UID
    stream: BinaryIO
    keyword: str
    vr: str | None
    offset: int
    length: int | None

    @property
    def little_endian(self) -> bool:
        return self.transfer_syntax != ExplicitVRBigEndian


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself; the UIDs are None for a plain picture or where absent."""

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    transfer_syntax_uid: str | None
    rows: int
    columns: int
    frames: int


def is_dicom(start: bytes) -> bool:
    """Whether a file with these first 132 bytes can be DICOM, with or without a preamble."""
    return start[128:132] == b"DICM" or start[:2] in _FIRST_GROUPS


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a DICOM image. Raises QCError: UNREADABLE, or NOT_AN_IMAGE without pixel data."""
    with path.open("rb") as stream:
        yield _read(stream)


def header_of(source: Source) -> Header:
    """Raises QCError NOT_AN_IMAGE without rows and columns."""
    dataset = source.dataset
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    if not rows or not columns or rows < 0 or columns < 0:
        raise QCError(ErrorCode.NOT_AN_IMAGE, "the DICOM object has pixel data of no size")
    frames = integer(dataset, "NumberOfFrames")
    return Header(
        text(dataset, "SOPClassUID"),
        text(dataset, "SOPInstanceUID"),
        text(dataset, "StudyInstanceUID"),
        text(dataset, "SeriesInstanceUID"),
        str(source.transfer_syntax),
        rows,
        columns,
        1 if frames is None else max(0, frames),
    )


def integer(dataset: Dataset, keyword: str) -> int | None:
    """The element's first value as an integer; None when absent, empty or no number."""
    value = number(dataset, keyword)
    return int(value) if value is not None else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """The element's first value as a finite number; None when absent, empty or no number."""
    value = text(dataset, keyword)
    try:
        found = float(value) if value else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def text(dataset: Dataset, keyword: str) -> str | None:
    """The element's first value as text; None when absent, empty or not to be parsed."""
    value = element(dataset, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return (str(value).strip("\0 ") or None) if value is not None else None


def element(dataset: Dataset, keyword: str) -> Any:
    """The element's value; None when absent or not to be parsed."""
    try:
        return dataset.get(keyword)
    except MemoryError:
        raise
    except Exception:
        # Values are parsed at first use, and the parser raises whatever malformed bytes break:
        # what cannot be parsed is as good as absent.
        return None


def _read(stream: BinaryIO) -> Source:
    try:
        dataset = dcmread(stream, force=True, stop_before_pixels=True)
        syntax = _transfer_syntax(dataset)
        if syntax == DeflatedExplicitVRLittleEndian:
            # The offsets of a deflated data set mean nothing in the file: it is read whole.
            stream.seek(0)
            return _inflated(dcmread(stream, force=True))
        return _located(dataset, syntax, stream)
    except (QCError, MemoryError):
        raise
    except (zlib.error, EOFError) as error:
        raise QCError(ErrorCode.TRUNCATED, "the file ends inside its data set") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise QCError(ErrorCode.STORAGE, "the disk cannot be read") from error
        # The parser has no exception of its own for malformed bytes: it raises whatever breaks.
        raise QCError(ErrorCode.UNREADABLE, "the DICOM header cannot be parsed") from error


def _transfer_syntax(dataset: Dataset) -> UID:
    """The stated syntax; without one, that of the encoding found, which is a native one."""
    stated = text(dataset.file_meta, "TransferSyntaxUID")
    if stated:
        return UID(stated)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _inflated(dataset: Dataset) -> Source:
    for keyword in _PIXEL_KEYWORDS.values():
        if keyword in dataset:
            value = dataset[keyword].value or b""
            vr = dataset[keyword].VR
            stream = io.BytesIO(value)
            return Source(dataset, ExplicitVRLittleEndian, stream, keyword, vr, 0, len(value))
    raise _no_pixel_data()


def _located(dataset: Dataset, syntax: UID, stream: BinaryIO) -> Source:
    """The parser stopped at the pixel data element, or at the end of the file."""
    endian = ">" if syntax == ExplicitVRBigEndian else "<"
    head = stream.read(12)
    if len(head) < 8:
        raise _no_pixel_data()
    group, element = struct.unpack_from(f"{endian}HH", head)
    if group != 0x7FE0 or element not in _PIXEL_KEYWORDS:
        raise _no_pixel_data()
    vr: str | None = None
    if head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN") and len(head) == 12:
        vr = head[4:6].decode("ascii")
        (length,) = struct.unpack_from(f"{endian}L", head, 8)
    else:
        (length,) = struct.unpack_from(f"{endian}L", head, 4)
        stream.seek(8 - len(head), io.SEEK_CUR)
    return Source(
        dataset,
        syntax,
        stream,
        _PIXEL_KEYWORDS[element],
        vr,
        stream.tell(),
        None if length == UNDEFINED_LENGTH else length,
    )


def _no_pixel_data() -> QCError:
    return QCError(ErrorCode.NOT_AN_IMAGE, "the DICOM object has no pixel data")
