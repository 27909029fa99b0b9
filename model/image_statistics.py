"""Measures the image statistics of a picture.

No-reference measures of image quality, as the summary statistics, entropy and noise of MRIQC
(Esteban et al. 2017, doi:10.1371/journal.pone.0184661).
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from detector.frame import Pixels
from model.image_features import ImageStatistics

MOST_PIXELS = 480_000
"""Of a larger region the middle rows are measured, so that the cost of a picture is bounded."""
_BLACK, _SATURATED = 2, 253
"""Grey levels up to which a pixel is black, and from which it is saturated: lossy compression moves
0 and 255 by some levels."""
_COLOURED = 16
"""A pixel whose channels differ by more has a colour: that of greys is JPEG's rounding."""
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def measure_image(pixels: Pixels, spacing_mm: tuple[float, float] | None = None) -> ImageStatistics:
    """The statistics of (H, W, 3) uint8 RGB; `spacing_mm` is (x, y) a pixel."""
    height, width = pixels.shape[:2]
    rows = max(3, MOST_PIXELS // width)
    first = max(0, (height - rows) // 2)
    part = np.ascontiguousarray(pixels[first : first + rows])
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    shares, levels = counts / counts.sum(), np.arange(256)
    mean = float(shares @ levels)
    # The level that so many pixels lie at or below.
    low, middle, high = np.searchsorted(shares.cumsum(), (0.01, 0.5, 0.99)).tolist()
    known = shares[shares > 0]
    return ImageStatistics(
        mean=mean,
        deviation=float(np.sqrt(shares @ np.square(levels - mean))),
        percentile_1=float(low),
        median=float(middle),
        percentile_99=float(high),
        black=float(shares[: _BLACK + 1].sum()),
        saturated=float(shares[_SATURATED:].sum()),
        sharpness=_variance(cv2.Laplacian(grey, cv2.CV_16S)),
        noise=_noise(grey),
        entropy=max(0.0, float(-(known * np.log2(known)).sum())),
        colour=_coloured_share(part),
        width=float(width),
        height=float(height),
        spacing=None if spacing_mm is None else float(spacing_mm[1]),
    )


def _variance(values: npt.NDArray[np.int16]) -> float:
    # Faster than meanStdDev.
    squares = cv2.norm(values, cv2.NORM_L2SQR) / values.size
    return max(0.0, float(squares - cv2.mean(values)[0] ** 2))


def _noise(grey: npt.NDArray[np.uint8]) -> float:
    """The mean absolute answer of a mask that takes away edges and ramps (Immerkaer 1996)."""
    height, width = grey.shape
    if min(height, width) < 3:
        return 0.0
    answer = cv2.filter2D(grey, cv2.CV_16S, _IMMERKAER)[1:-1, 1:-1]
    total = float(cv2.norm(np.ascontiguousarray(answer), cv2.NORM_L1))
    return float(math.sqrt(math.pi / 2) * total / (6 * (width - 2) * (height - 2)))


def _coloured_share(pixels: Pixels) -> float:
    red, green, blue = cv2.split(pixels)
    largest = cv2.max(cv2.max(red, green), blue)
    smallest = cv2.min(cv2.min(red, green), blue)
    range_of_channels = cv2.subtract(largest, smallest)
    coloured = cv2.threshold(range_of_channels, _COLOURED, 255, cv2.THRESH_BINARY)[1]
    return float(cv2.countNonZero(coloured) / coloured.size)
