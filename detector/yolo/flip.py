"""Mirrors detections, and merges those of an image with those of its mirror image."""

from collections.abc import Sequence

from detector.boxes import Box, Detection, iou
from detector.sides import names_in_mirror_image

_SAME_STRUCTURE_IOU = 0.3
"""Two boxes of one label are the same structure from this overlap (intersection over union) on."""
_FALX_CONFIDENCE = 0.25
"""From this confidence on a box tells how a head lies."""


def mirror_detections(boxes: Sequence[Detection], width: float) -> tuple[Detection, ...]:
    """The detections as they lie in the mirror image of a picture `width` pixels wide.

    Labels that name a side change it, where it is a horizontal one (`detector.sides`).
    """
    names = names_in_mirror_image(
        {d.label: d.bbox for d in boxes if d.confidence >= _FALX_CONFIDENCE}
    )
    return tuple(
        Detection(
            names.get(d.label, d.label),
            (width - d.bbox[2], d.bbox[1], width - d.bbox[0], d.bbox[3]),
            d.confidence,
        )
        for d in boxes
    )


def merge_detections(
    detections: Sequence[Detection], from_mirror: Sequence[Detection]
) -> tuple[Detection, ...]:
    """Merges the detections of an image and of its mirror image (turned back), best first.

    Each label comes at most once. Its confidence is the mean of both, and its box the mean weighted
    by confidence. Where one of the two lacks a label, or has its box elsewhere, the other's box
    stays, with half its confidence.
    """
    unmatched = {d.label: d for d in from_mirror}
    merged = [_merge_pair(d, unmatched.pop(d.label, None)) for d in detections]
    merged += [_merge_pair(d, None) for d in unmatched.values()]
    return tuple(sorted(merged, key=lambda d: (-d.confidence, d.label)))


def _merge_pair(first: Detection, second: Detection | None) -> Detection:
    if second is not None and iou(first.bbox, second.bbox) >= _SAME_STRUCTURE_IOU:
        confidence = first.confidence + second.confidence
        share = first.confidence / confidence if confidence else 0.5
        box = _weighted_box(first.bbox, second.bbox, share)
        return Detection(first.label, box, confidence / 2)
    best = first if second is None or first.confidence >= second.confidence else second
    return Detection(best.label, best.bbox, best.confidence / 2)


def _weighted_box(first: Box, second: Box, weight: float) -> Box:
    x0, y0, x1, y1 = (weight * a + (1 - weight) * b for a, b in zip(first, second, strict=True))
    return x0, y0, x1, y1
