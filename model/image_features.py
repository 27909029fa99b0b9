"""What a finding's picture was like, apart from any verdict: image statistics and its embedding.

Kept with each finding, so that an audit sees a machine's pictures change before verdicts do. The
statistics are no-reference measures of image quality, as the summary statistics, entropy and noise
of MRIQC (Esteban et al. 2017, doi:10.1371/journal.pone.0184661).
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt

from detector.frame import Pixels

MOST_PIXELS = 480_000
"""Of a larger region the middle rows are measured, so that the cost of a picture is bounded."""
MOST_DIMENSIONS = 4096
"""No image tower projects to more; bounds what one finding may take: 8 kB."""
_BLACK, _SATURATED = 2, 253
"""Grey levels up to which a pixel is black, and from which it is saturated: lossy compression moves
0 and 255 by some levels."""
_COLOURED = 16
"""A pixel whose channels differ by more has a colour: that of greys is JPEG's rounding."""
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Statistics of a region's pixels; grey levels are 0..255 (Rec. 601 luma), shares 0..1.

    `sharpness` is the variance of the Laplacian (Pech-Pacheco et al. 2000); `noise` the standard
    deviation of the noise in grey levels (Immerkaer 1996, doi:10.1006/cviu.1996.0060); `entropy`
    that of the grey levels in bits. `width` and `height` are of the region in pixels; `spacing` is
    mm a pixel down the picture, None where the header has none.
    """

    mean: float
    deviation: float
    percentile_1: float
    median: float
    percentile_99: float
    black: float
    saturated: float
    sharpness: float
    noise: float
    entropy: float
    colour: float
    width: float
    height: float
    spacing: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError on what is no number: a file may bring it."""
        for name in STATISTICS:
            value = getattr(self, name)
            if value is None and name == "spacing":
                continue
            if not _is_number(value) or not math.isfinite(value):
                raise ValueError(f"image statistic {name} is no number")

    @classmethod
    def of(cls, pixels: Pixels, spacing_mm: tuple[float, float] | None = None) -> Self:
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
        return cls(
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


STATISTICS = tuple(each.name for each in fields(ImageStatistics))
"""Their names, in the order of the fields."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """A picture's statistics, and its embedding: SpatialCLIP's projected image feature (d,), of
    unit length, as little-endian float16. Embeddings of two bundles cannot be compared.

    Either may be None: findings of a file need not have both.
    """

    statistics: ImageStatistics | None
    embedding: bytes | None

    def __post_init__(self) -> None:
        """Raises ValueError on an embedding that is none."""
        if self.embedding is None:
            return
        values = np.frombuffer(self.embedding, "<f2") if len(self.embedding) % 2 == 0 else None
        if values is None or not 0 < len(values) <= MOST_DIMENSIONS:
            raise ValueError(f"an embedding has no 1 to {MOST_DIMENSIONS} numbers of two bytes")
        if not np.isfinite(values).all():
            raise ValueError("an embedding has a value that is not finite")

    @classmethod
    def of(
        cls,
        pixels: Pixels,
        spacing_mm: tuple[float, float] | None,
        embedding: npt.NDArray[np.float64],
    ) -> Self:
        """Of a region's (H, W, 3) uint8 RGB pixels and its image feature (d,)."""
        is_finite = bool(np.isfinite(embedding).all())
        return cls(
            ImageStatistics.of(pixels, spacing_mm),
            embedding.astype("<f2").tobytes() if is_finite else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The key `image_features` of a finding; the embedding is base64 (RFC 4648)."""
        return {
            "statistics": None if self.statistics is None else asdict(self.statistics),
            "embedding": None
            if self.embedding is None
            else base64.b64encode(self.embedding).decode("ascii"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; either key may be missing. Raises ValueError or TypeError on
        what is none."""
        statistics, embedding = data.get("statistics"), data.get("embedding")
        return cls(
            # Later versions may measure more.
            None
            if statistics is None
            else ImageStatistics(**{name: statistics.get(name) for name in STATISTICS}),
            None if embedding is None else base64.b64decode(embedding, validate=True),
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
