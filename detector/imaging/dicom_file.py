"""An opened DICOM file: its header, and where its pixel data lie in the stream.

Tolerant in what it reads (PS3.10 7.1): a missing preamble or File Meta Information, a wrong or
missing transfer syntax of native data, and any character set are accepted. The pixel data are
left on disk, so that a long cine costs no memory.
"""

import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from detector.errors import ErrorCode, QCError
from detector.imaging.data_elements import ElementReader, PixelElement

SIMULATOR = "qc-daemon phantom"
"""Manufacturer (0008,0070) of what our simulator makes."""
_TEXT_VR = frozenset(
    {
        *("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT"),
        *("PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"),
    }
)
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""A data set without preamble begins with one of these: group 0002 or 0008, either byte order."""
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_ULTRASOUND = frozenset(_STORAGE + last for last in ("3", "3.1", "6", "6.1", "6.2", "6.3"))
"""Ultrasound (Multi-frame) Image with its retired class, Enhanced US Volume, Photoacoustic."""
_SECONDARY_CAPTURE = _STORAGE + "7"
_ULTRASOUND_MODALITIES = frozenset({"US", "IVUS", "PA"})
_ANY_MODALITIES = frozenset({"", "OT", "SC"})
"""Captured screens and frames of these modalities may show anything, ultrasound too."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """The header of an opened file, and the position of its pixel data in the stream."""

    dataset: Dataset
    transfer_syntax: UID
    stream: BinaryIO
    pixels: PixelElement

    @property
    def little_endian(self) -> bool:
        return self.transfer_syntax != ExplicitVRBigEndian


@dataclass(frozen=True, slots=True)
class Header:
    """Identifiers and size of a file's image; UIDs are None for a plain picture or where absent."""

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
def open_dicom_file(path: Path) -> Iterator[DicomFile]:
    """Open a DICOM image. Raises QCError: UNREADABLE, or NOT_AN_IMAGE without pixel data."""
    with path.open("rb") as stream:
        yield _read(stream)


def image_header(source: DicomFile) -> Header:
    """Identifiers and size of the image. Raises QCError NOT_AN_IMAGE without rows and columns."""
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
        # A count of nothing in an object that has a picture says nothing (PS3.3 C.7.6.6).
        max(1, frames or 1),
    )


def is_ultrasound(dataset: Dataset) -> bool:
    """Whether the object shows ultrasound by its SOP class, else by its modality.

    A Secondary Capture counts as ultrasound unless its modality names another kind of picture.
    """
    sop_class = text(dataset, "SOPClassUID") or ""
    modality = (text(dataset, "Modality") or "").upper()
    if sop_class in _ULTRASOUND:
        return True
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(f"{_SECONDARY_CAPTURE}.")
    if is_capture or not sop_class.startswith(_STORAGE):
        return modality in _ULTRASOUND_MODALITIES or modality in _ANY_MODALITIES
    return modality in _ULTRASOUND_MODALITIES


def integer(dataset: Dataset, keyword: str) -> int | None:
    """The element's first value as an integer; None when absent, empty or no number."""
    value = number(dataset, keyword)
    return int(value) if value is not None else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """The element's first value as a finite number; None when absent, empty or no number."""
    values = numbers(dataset, keyword)
    return values[0] if values else None


def numbers(dataset: Dataset, keyword: str) -> list[float | None]:
    """All values of the element; None stands for each that is no finite number."""
    return [_number(value) for value in texts(dataset, keyword)]


def text(dataset: Dataset, keyword: str) -> str | None:
    """The element's first value as text; None when absent, empty or not to be parsed."""
    values = texts(dataset, keyword)
    return (values[0] or None) if values else None


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """All values of the element as text, without padding; none when it cannot be parsed.

    Texts are read from the bytes as they stand: one bad value of several, or one that breaks the
    rules of its VR, does not hide the others.
    """
    tag = tag_for_keyword(keyword)
    raw = dataset.get_item(tag) if tag is not None else None
    if isinstance(raw, RawDataElement) and raw.value is not None:
        vr = raw.VR if raw.VR not in (None, "UN") else dictionary_VR(raw.tag)
        if vr in _TEXT_VR:
            parts = bytes(raw.value).decode("latin-1").split("\\")
            return [part.strip("\0 ") for part in parts]
    value = element(dataset, keyword)
    if value is None:
        return []
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(each).strip("\0 ") for each in values]


def _number(value: str) -> float | None:
    try:
        parsed = float(value) if value else math.nan
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None


def raw_bytes(dataset: Dataset, keyword: str) -> bytes | None:
    """The element's value as it stands in the file; None when absent or changed since."""
    tag = tag_for_keyword(keyword)
    raw = dataset.get_item(tag) if tag is not None else None
    if isinstance(raw, RawDataElement):
        return None if raw.value is None else bytes(raw.value)
    value = element(dataset, keyword)
    return value if isinstance(value, bytes) else None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none when it is absent or no sequence."""
    value = element(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


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


def _read(stream: BinaryIO) -> DicomFile:
    try:
        deflated = _deflated_offset(stream)
        if deflated is not None:
            stream.seek(deflated)
            inflated = io.BytesIO(zlib.decompress(stream.read(), -zlib.MAX_WBITS))
            return _source(inflated, 0, ExplicitVRLittleEndian, implicit=False)
        stream.seek(0)
        # Preamble, File Meta Information and encoding only: it stops at the first element.
        start = read_partial(stream, stop_when=lambda *_: True, force=True)
        syntax = _transfer_syntax(start)
        return _source(stream, stream.tell(), syntax, implicit=bool(start.original_encoding[0]))
    except (QCError, MemoryError):
        raise
    except (zlib.error, EOFError) as error:
        raise QCError(ErrorCode.TRUNCATED, "the file ends inside its data set") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise QCError(ErrorCode.STORAGE, "the disk cannot be read") from error
        # The parser has no exception of its own for malformed bytes: it raises whatever breaks.
        raise QCError(ErrorCode.UNREADABLE, "the DICOM header cannot be parsed") from error


def _deflated_offset(stream: BinaryIO) -> int | None:
    """Where a deflated data set begins; None for any other."""
    stream.seek(0)
    start = 132 if stream.read(132)[128:] == b"DICM" else 0
    end, meta = ElementReader(stream).group_end(start, 0x0002)
    is_deflated = text(meta, "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    return end if is_deflated else None


def _transfer_syntax(start: Dataset) -> UID:
    """The stated syntax; without one, that of the encoding, which is a native one."""
    stated = text(start.file_meta, "TransferSyntaxUID")
    if stated:
        return UID(stated)
    is_implicit, is_little_endian = start.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _source(stream: BinaryIO, start: int, syntax: UID, implicit: bool) -> DicomFile:
    reader = ElementReader(stream, little_endian=syntax != ExplicitVRBigEndian)
    dataset, pixels = reader.data_set(start, implicit)
    if pixels is None:
        raise _no_pixel_data()
    return DicomFile(dataset, syntax, stream, pixels)


def _no_pixel_data() -> QCError:
    return QCError(ErrorCode.NOT_AN_IMAGE, "the DICOM object has no pixel data")
