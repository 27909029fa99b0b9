"""What a finding's picture was like, apart from any verdict: image statistics and its embedding.

Kept with each finding, so that an audit sees a machine's pictures change before verdicts do. How
they are measured: `model.image_statistics`.
"""

import base64
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

# Nothing here imports numpy: the receiver, which must not, reads findings too.

MOST_DIMENSIONS = 4096
"""No image tower projects to more; bounds what one finding may take: 8 kB."""
_LARGEST = 65504.0
"""Of float16."""


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
        size, is_odd = divmod(len(self.embedding), 2)
        if is_odd or not 0 < size <= MOST_DIMENSIONS:
            raise ValueError(f"an embedding has no 1 to {MOST_DIMENSIONS} numbers of two bytes")
        # All bits of the exponent are set in what is not finite (IEEE 754, binary16).
        if any(high & 0x7C == 0x7C for high in self.embedding[1::2]):
            raise ValueError("an embedding has a value that is not finite")

    @classmethod
    def of(cls, statistics: ImageStatistics, embedding: Iterable[float]) -> Self:
        """Of an image feature (d,); one that is not finite is left out."""
        values = [float(value) for value in embedding]
        is_finite = all(abs(value) <= _LARGEST for value in values)
        return cls(statistics, struct.pack(f"<{len(values)}e", *values) if is_finite else None)

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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
