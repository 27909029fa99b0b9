"""Finds words in a picture: letters that a machine burned in, of any language.

The network is the detector of PP-OCRv6 (Apache-2.0, https://github.com/PaddlePaddle/PaddleOCR), by
differentiable binarization (Liao et al. 2020, arXiv 1911.08947): its map says of each pixel how
likely it belongs to the core of a word. Nothing is recognised, since where words stand is enough.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels

NAME = "PP-OCRv6 small"
"""Which detector it is."""
PixelBox = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in whole pixels, the maximum exclusive."""
_WEIGHTS = "models/PP-OCRv6_det_small.onnx"
_STRIDE = 32
"""The network takes pictures whose sides are multiples of it."""
_MOST_PIXELS = 2_500_000
"""A larger picture is made smaller: its letters are larger too, and memory is bounded."""
_PIXEL_PROBABILITY = 0.3
"""A pixel above it belongs to a word, as the network was trained (arXiv 1911.08947)."""
_WORD_PROBABILITY = 0.4
"""The mean in the rectangle around a word's core; lower than the usual 0.5 to 0.7, as to miss a
name is worse than to blank some tissue."""
_UNCLIP = 1.6
"""The core is shrunk from the word by area x (1 - r^2) / perimeter; this grows it back."""
_MARGIN = 2
"""Pixels beside the word that are blanked too: the soft edges of letters."""
_SURROUNDINGS, _GAIN, _MIDDLE = 5.0, 3.0, 90.0
"""Local contrast: the surroundings' standard deviation in pixels, wider than a letter's stroke, and
the grey levels that a difference is drawn with."""
_MIN_SIDE = 2
"""A core with a side below so many pixels is a speck."""
_MAX_HEIGHT, _MAX_HEIGHT_SHARE = 20, 1 / 14
"""A core with both sides above so many pixels, and above this part of the picture's short side, is
no word: machines write smaller, and a head's outline looks like a large letter O."""


class TextDetector:
    """The network, loaded once. Raises QCError NOT_AVAILABLE where there are no weights."""

    def __init__(self, weights: Path | None = None) -> None:
        path = _installed_weights() if weights is None else weights
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise QCError(ErrorCode.NOT_AVAILABLE, f"{path.name} is no text detector") from error

    def find_words(self, pixels: Pixels) -> list[PixelBox]:
        """A box around each word in an RGB picture, with a margin; boxes may overlap.

        Raises QCError NOT_AVAILABLE where the network fails, as without memory.
        """
        rows, columns = pixels.shape[:2]
        scale = min(1.0, (_MOST_PIXELS / (rows * columns)) ** 0.5)
        scaled = _scaled(pixels, scale)
        return [
            _picture_box(box, scale, rows, columns)
            for view in (scaled, _local_contrast(scaled))
            for box in _iter_words(self._probabilities(view))
        ]

    def _probabilities(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        rows, columns = pixels.shape[:2]
        padded = cv2.copyMakeBorder(
            pixels[:, :, ::-1].copy(),
            0,
            -rows % _STRIDE,
            0,
            -columns % _STRIDE,
            cv2.BORDER_CONSTANT,
        )
        # Grey levels 0..255 to -1..1, in the order blue, green, red.
        half = 127.5
        blob = cv2.dnn.blobFromImage(padded, 1 / half, mean=(half, half, half))
        try:
            self._network.setInput(blob)
            answer: npt.NDArray[np.float32] = self._network.forward()[0, 0]
        except cv2.error as error:
            raise QCError(ErrorCode.NOT_AVAILABLE, "the text detector fails on it") from error
        return answer[:rows, :columns]


def _installed_weights() -> Path:
    # Its code is not imported: it would load an inference engine, and write a log.
    package = find_spec("rapidocr")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / _WEIGHTS
        if path.is_file():
            return path
    raise QCError(
        ErrorCode.NOT_AVAILABLE,
        "the text detector is not installed: install qc-daemon with its extra, qc-daemon[teaching]",
    )


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    if scale == 1:
        return pixels
    rows, columns = pixels.shape[:2]
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _local_contrast(pixels: Pixels) -> Pixels:
    """What differs from its surroundings: letters across tissue that is as bright as they are."""
    levels = pixels.astype(np.float32)
    differences = levels - cv2.GaussianBlur(levels, (0, 0), _SURROUNDINGS)
    return np.asarray(np.clip(_GAIN * differences + _MIDDLE, 0, 255), np.uint8)


def _iter_words(probabilities: npt.NDArray[np.float32]) -> Iterator[PixelBox]:
    """The boxes of words whose cores the map shows, upright also around a slanting word."""
    core = (probabilities > _PIXEL_PROBABILITY).astype(np.uint8)
    max_height = max(_MAX_HEIGHT, _MAX_HEIGHT_SHARE * min(probabilities.shape))
    contours, _ = cv2.findContours(core, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        _, (width, height), _ = rectangle = cv2.minAreaRect(contour)
        # Between centres of pixels: a line of one pixel has no width.
        width, height = width + 1, height + 1
        corners = cv2.boxPoints(rectangle)
        if not _MIN_SIDE <= min(width, height) <= max_height:
            continue
        if _mean(probabilities, corners) < _WORD_PROBABILITY:
            continue
        growth = round(width * height * _UNCLIP / (2 * (width + height))) + _MARGIN
        (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
        left, right = int(np.floor(x0)) - growth, int(np.ceil(x1)) + 1 + growth
        top, bottom = int(np.floor(y0)) - growth, int(np.ceil(y1)) + 1 + growth
        # Its neighbours in the line may be lost in bright tissue.
        beside = min(bottom - top, right - left)
        yield left - beside, top, right + beside, bottom


def _mean(probabilities: npt.NDArray[np.float32], corners: npt.NDArray[np.float32]) -> float:
    """The mean in a rectangle, which may slant: low where specks are joined by chance."""
    x, y, width, height = cv2.boundingRect(corners)
    rows, columns = probabilities.shape
    x0, y0, x1, y1 = max(0, x), max(0, y), min(columns, x + width), min(rows, y + height)
    inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(inside, [np.round(corners - (x0, y0)).astype(np.int32)], 1)
    return float(cv2.mean(probabilities[y0:y1, x0:x1], inside)[0])


def _picture_box(box: PixelBox, scale: float, rows: int, columns: int) -> PixelBox:
    """The box in pixels of the picture before it was scaled, clipped to it."""
    x0, y0, x1, y1 = box
    return (
        max(0, int(x0 / scale)),
        max(0, int(y0 / scale)),
        min(columns, round(x1 / scale + 0.5)),
        min(rows, round(y1 / scale + 0.5)),
    )
