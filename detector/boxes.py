"""Boxes and detections, and the arithmetic on them."""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in continuous pixels of the stored image: the origin is the top-left
corner of the first pixel, the maximum is exclusive."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One structure: a label code of `detector.anatomy`, its box, and a confidence in 0..1."""

    label: str
    bbox: Box
    confidence: float


def filter_by_confidence(
    confidence: float, detections: Sequence[Detection]
) -> tuple[Detection, ...]:
    """The detections of at least this confidence, in their order."""
    return tuple(d for d in detections if d.confidence >= confidence)


def area(box: Box) -> float:
    """Area in square pixels; 0 for an empty box."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """Intersection over union, 0..1."""
    overlap = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - overlap
    return overlap / union if union > 0 else 0.0


def clip(box: Box, width: float, height: float) -> Box:
    """The part of the box inside 0..width and 0..height."""
    x0, y0, x1, y1 = box
    return (
        min(max(x0, 0.0), width),
        min(max(y0, 0.0), height),
        min(max(x1, 0.0), width),
        min(max(y1, 0.0), height),
    )
