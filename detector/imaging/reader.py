"""Reading an image or cine: header, RGB frames one by one, tissue regions, hash of the pixels.

DICOM files and plain pictures go through the same doors. Every failure is a QCError whose
message holds no patient data. No more than a few frames are in memory at once.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from pydicom.dataset import Dataset

from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels
from detector.imaging.decoding import Decoding, Failed, decoding
from detector.imaging.dicom_file import (
    SIMULATOR,
    Header,
    image_header,
    is_dicom,
    is_ultrasound,
    open_dicom_file,
    text,
)
from detector.imaging.picture_file import is_picture, picture_size, read_picture
from detector.imaging.regions import estimated_region, tissue_regions

MIN_SIDE = 32
"""Pixels; a smaller picture shows no anatomy."""
MAX_PIXELS = 64_000_000
"""Rows x columns of one frame, unless the caller says otherwise."""


MAX_BAD_FRAMES = 1000
"""An object with more frames that cannot be decoded is given up."""


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that cannot be decoded while others of its object can."""

    number: int
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class ImageSummary(Header):
    """The header, `frames` being those that were tried, and the hash of the pixels that could be
    decoded. `bad_frames` could not; there is at least one that could."""

    pixel_sha256: str
    bad_frames: tuple[BadFrame, ...] = ()

    @property
    def readable_frames(self) -> tuple[int, ...]:
        """The numbers of the frames that can be decoded."""
        bad = {each.number for each in self.bad_frames}
        return tuple(number for number in range(1, self.frames + 1) if number not in bad)


ElementsReader = Callable[[Dataset], object]
"""Reads what it wants of a header: its elements without pixel data."""


def _no_reader(_dataset: Dataset) -> None:
    """Reads nothing."""


def read_header(path: Path, read_elements: ElementsReader = _no_reader) -> Header:
    """The identifiers and size of a file's image, without decoding it; `read_elements` is called
    with the data set of a DICOM file.

    Raises QCError: UNREADABLE, NOT_AN_IMAGE.
    """
    if _is_picture(path):
        rows, columns = picture_size(path)
        return Header(None, None, None, None, None, rows, columns, 1)
    with open_dicom_file(path) as source:
        read_elements(source.dataset)
        return image_header(source)


def read_frames(
    path: Path,
    numbers: Collection[int] | None = None,
    max_pixels: int = MAX_PIXELS,
    failed: Failed | None = None,
) -> Iterator[Frame]:
    """The frames of these numbers (from 1; None: all), in ascending order.

    A frame that cannot be decoded while others of its object can is passed to `failed`; without
    that function it is an error.
    Raises QCError: UNREADABLE, NOT_AN_IMAGE, NO_FRAMES (also for a number that is not there),
    TOO_SMALL, TOO_LARGE, UNSUPPORTED_SYNTAX, TRUNCATED, DECODE_FAILED.
    """
    if _is_picture(path):
        yield from _picture_frames(path, numbers, max_pixels)
        return
    with open_dicom_file(path) as source:
        header = image_header(source)
        _check_size(header.rows, header.columns, max_pixels)
        frame_numbers = _select_numbers(numbers, header.frames)
        regions = tissue_regions(source.dataset, header.rows, header.columns)
        simulated = text(source.dataset, "Manufacturer") == SIMULATOR
        foreign = () if is_ultrasound(source.dataset) else (Flag.NOT_ULTRASOUND,)
        decoder = decoding(source, header)
        for number, pixels in decoder.frames(frame_numbers, failed):
            # The estimate is the first frame's, so that it does not depend on which are asked.
            regions = regions or (estimated_region(_first(decoder, number, pixels)),)
            yield Frame(number, pixels, regions, simulated, (*decoder.flags, *foreign))


def summarise_image(
    path: Path, max_pixels: int = MAX_PIXELS, read_elements: ElementsReader = _no_reader
) -> ImageSummary:
    """Decodes every frame once, for their number, hash and faults; `read_elements` is called with
    the data set of a DICOM file, whose header is then read but once for both.

    Raises QCError as `read_frames` does.
    """
    header = read_header(path, read_elements)
    digest = hashlib.sha256()
    count = 0
    bad: list[BadFrame] = []

    def failed(number: int, error: QCError) -> None:
        if len(bad) == MAX_BAD_FRAMES:
            raise QCError(ErrorCode.DECODE_FAILED, f"over {MAX_BAD_FRAMES} frames are corrupt")
        bad.append(BadFrame(number, error.code, error.message))
        digest.update(f"no frame {number}".encode())

    for frame in read_frames(path, max_pixels=max_pixels, failed=failed):
        count += 1
        digest.update(f"{frame.pixels.shape}".encode())
        digest.update(frame.pixels.data)
    facts = {each.name: getattr(header, each.name) for each in fields(Header)}
    facts["frames"] = count + len(bad)
    return ImageSummary(**facts, pixel_sha256=digest.hexdigest(), bad_frames=tuple(bad))


def pixel_sha256(path: Path) -> str:
    """SHA-256 over shape and RGB bytes of each frame: the same for the same pixels under another
    header or lossless transfer syntax. Raises QCError as `read_frames` does."""
    return summarise_image(path).pixel_sha256


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError as error:
        raise QCError(ErrorCode.UNREADABLE, f"cannot be opened: {error.strerror}") from error
    if not start:
        raise QCError(ErrorCode.UNREADABLE, "the file is empty")
    if is_dicom(start):
        return False
    if is_picture(start):
        return True
    raise QCError(ErrorCode.NOT_AN_IMAGE, "neither DICOM nor a PNG, JPEG, BMP or TIFF picture")


def _first(decoder: Decoding, number: int, pixels: Pixels) -> Pixels:
    """The pixels of the first frame, of which these may be the ones."""
    return pixels if number == 1 else decoder.first()[1]


def _picture_frames(
    path: Path, numbers: Collection[int] | None, max_pixels: int
) -> Iterator[Frame]:
    _check_size(*picture_size(path), max_pixels)
    for number in _select_numbers(numbers, 1):
        pixels = read_picture(path)
        yield Frame(number, pixels, (estimated_region(pixels),))


def _check_size(rows: int, columns: int, max_pixels: int) -> None:
    if rows * columns > max_pixels:
        raise QCError(ErrorCode.TOO_LARGE, f"{columns} x {rows} pixels, at most {max_pixels}")
    if min(rows, columns) < MIN_SIDE:
        raise QCError(ErrorCode.TOO_SMALL, f"{columns} x {rows} pixels, at least {MIN_SIDE} a side")


def _select_numbers(numbers: Collection[int] | None, count: int) -> Collection[int]:
    if count < 1:
        raise QCError(ErrorCode.NO_FRAMES, "the object has no frames")
    if numbers is None:
        return range(1, count + 1)
    for number in numbers:
        if not 1 <= number <= count:
            raise QCError(ErrorCode.NO_FRAMES, f"no frame {number} among {count}")
    return set(numbers)
