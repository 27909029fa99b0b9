"""Plain picture files: PNG, JPEG, BMP and TIFF."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from detector.codes import ErrorCode, QCError
from detector.frame import Pixels

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_DEEP = ("I", "I;16", "I;16L", "I;16B", "F")


def is_picture(start: bytes) -> bool:
    """Whether a file with these first bytes is one of the formats."""
    return start.startswith(_SIGNATURES)


def picture_size(path: Path) -> tuple[int, int]:
    """Rows and columns as stored. Raises QCError UNREADABLE."""
    with _open(path) as image:
        return image.height, image.width


def read_picture(path: Path) -> Pixels:
    """RGB of the first page as stored: no EXIF turn, transparency ignored, deep grey stretched.

    Raises QCError: UNREADABLE, TRUNCATED, DECODE_FAILED.
    """
    with _open(path) as image:
        try:
            if image.mode in _DEEP:
                return _stretched(np.asarray(image, np.float64))
            return np.array(image.convert("RGB"), np.uint8)
        except (OSError, ValueError, SyntaxError) as error:
            truncated = "truncated" in str(error)
            code = ErrorCode.TRUNCATED if truncated else ErrorCode.DECODE_FAILED
            raise QCError(code, f"the {image.format} picture cannot be decoded") from error


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise QCError(ErrorCode.TOO_LARGE, "the picture has too many pixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise QCError(ErrorCode.UNREADABLE, "the picture's header cannot be read") from error
    with image:
        yield image


def _stretched(grey: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Pixels:
    low, high = float(grey.min()), float(grey.max())
    unit = (grey - low) / (high - low) if high > low else np.zeros_like(grey)
    return np.repeat(np.rint(unit * 255).astype(np.uint8)[..., None], 3, axis=-1)
