"""Reads plain picture files: PNG, JPEG, BMP and TIFF."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_SIDEWAYS = range(5, 9)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation (CIPA DC-008 4.6.5.2)."""
_DEEP = ("I", "I;16", "I;16L", "I;16B", "F")


def is_picture(start: bytes) -> bool:
    """Whether a file with these first bytes is one of the formats."""
    return start.startswith(_SIGNATURES)


def picture_size(path: Path) -> tuple[int, int]:
    """Rows and columns as shown, turned by the EXIF orientation. Raises QCError UNREADABLE."""
    with _open(path) as image:
        # Pillow turns a TIFF itself, and gives its size as turned.
        if image.format != "TIFF" and _orientation(image) in _SIDEWAYS:
            return image.width, image.height
        return image.height, image.width


def read_picture(path: Path) -> Pixels:
    """RGB of the first page, turned by its EXIF orientation; transparency ignored, deep grey
    stretched.

    Raises QCError: UNREADABLE, TRUNCATED, DECODE_FAILED.
    """
    with _open(path) as image:
        try:
            turned = _apply_orientation(image)
            if turned.mode in _DEEP:
                return _stretch(np.asarray(turned, np.float64))
            return np.array(turned.convert("RGB"), np.uint8)
        except (OSError, ValueError, SyntaxError) as error:
            truncated = "truncated" in str(error)
            code = ErrorCode.TRUNCATED if truncated else ErrorCode.DECODE_FAILED
            raise QCError(code, f"the {image.format} picture cannot be decoded") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (as stored) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Pillow parses EXIF at first use and raises whatever malformed bytes break.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _apply_orientation(image: Image.Image) -> Image.Image:
    """The picture as it is to be shown: a phone or a scanner may store it sideways."""
    image.load()
    orientation = _orientation(image)
    if image.format == "TIFF" or orientation == 1:
        return image
    return image.transpose(_TURNS[orientation])


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise QCError(ErrorCode.TOO_LARGE, "the picture has too many pixels") from error
    except (OSError, ValueError, SyntaxError, ImportError) as error:
        # ImportError: ultralytics has Pillow look for a further plugin where it knows no format.
        raise QCError(ErrorCode.UNREADABLE, "the picture's header cannot be read") from error
    with image:
        yield image


def _stretch(grey: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Pixels:
    low, high = float(grey.min()), float(grey.max())
    unit = (grey - low) / (high - low) if high > low else np.zeros_like(grey)
    return np.repeat(np.rint(unit * 255).astype(np.uint8)[..., None], 3, axis=-1)
