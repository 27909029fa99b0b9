"""A picture's structures and those of its mirror image: the same, but for names of sides."""

from collections.abc import Sequence

from detector.anatomy import SIDES
from detector.boxes import Box, Detection, iou

_SAME = 0.3
"""Overlap (IoU) from which two boxes of one label are taken for the same structure."""


def mirrored(boxes: Sequence[Detection], width: float) -> tuple[Detection, ...]:
    """The structures of the mirrored picture; labels that name a side change it."""
    return tuple(
        Detection(
            SIDES.get(d.label, d.label),
            (width - d.bbox[2], d.bbox[1], width - d.bbox[0], d.bbox[3]),
            d.confidence,
        )
        for d in boxes
    )


def agreed(once: Sequence[Detection], again: Sequence[Detection]) -> tuple[Detection, ...]:
    """What two looks at one picture say together, best first.

    Confidence is the mean of both; the surer box counts for more. A look that is silent on a label,
    or finds it elsewhere, gives nothing to the surer one.
    """
    other = {d.label: d for d in again}
    found = [_both(d, other.pop(d.label, None)) for d in once]
    found += [_both(d, None) for d in other.values()]
    return tuple(sorted(found, key=lambda d: (-d.confidence, d.label)))


def _both(one: Detection, other: Detection | None) -> Detection:
    if other is not None and iou(one.bbox, other.bbox) >= _SAME:
        confidence = one.confidence + other.confidence
        share = one.confidence / confidence if confidence else 0.5
        box = _between(one.bbox, other.bbox, share)
        return Detection(one.label, box, confidence / 2)
    surer = one if other is None or one.confidence >= other.confidence else other
    return Detection(surer.label, surer.bbox, surer.confidence / 2)


def _between(one: Box, other: Box, share: float) -> Box:
    x0, y0, x1, y1 = (share * a + (1 - share) * b for a, b in zip(one, other, strict=True))
    return x0, y0, x1, y1
