"""What a box and the picture's scale say of the fetus's age: only that it is beyond the first
trimester, for which no view here is made."""

import math
from collections.abc import Sequence

from detector.boxes import Box, Detection

SKULL = "CB"

MIN_CONFIDENCE = 0.5
"""A skull of less confidence is not measured: of a wrong box the size says nothing."""

LIMIT_MM = 97.0
"""Head circumference of 14 weeks 3 days (Hadlock et al. 1984, AJR 143:97): half a week beyond the
first trimester's end, more than the box is wrong (docs/benchmarks.md)."""


def head_circumference_mm(skull: Box, spacing_mm: tuple[float, float]) -> float:
    """Perimeter of the ellipse within the skull's box, by spacing (x, y) in mm per pixel.

    However the ellipse is turned, the squares of its half axes and those of its box's half sides
    have the same sum; of a perimeter 2 pi sqrt((a^2 + b^2) / 2) nothing else is needed, and it is
    right to 1 % for heads (b >= 0.7 a).
    """
    half_width = (skull[2] - skull[0]) / 2 * spacing_mm[0]
    half_height = (skull[3] - skull[1]) / 2 * spacing_mm[1]
    return 2 * math.pi * math.sqrt((half_width**2 + half_height**2) / 2)


def is_beyond_first_trimester(
    detections: Sequence[Detection], spacing_mm: tuple[float, float] | None
) -> bool:
    """Whether the surest skull is larger than LIMIT_MM; not where no scale is known."""
    skulls = [d for d in detections if d.label == SKULL and d.confidence >= MIN_CONFIDENCE]
    if not skulls or spacing_mm is None:
        return False
    skull = max(skulls, key=lambda detection: detection.confidence)
    return head_circumference_mm(skull.bbox, spacing_mm) > LIMIT_MM
