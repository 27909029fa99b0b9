"""Average precision of a detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.boxes import Detection, iou
from training.evaluation.classification import figure

Floats = npt.NDArray[np.float64]
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Matches:
    """Of one label in one picture: each prediction's confidence and whether it hit, and how many
    there were to be found."""

    confidences: tuple[float, ...]
    hits: tuple[bool, ...]
    total: int


@dataclass(frozen=True, slots=True)
class DetectorScore:
    """AP at IoU 0.5 per label, by all-point interpolation; labels never annotated are absent."""

    ap50: dict[str, float]
    truths: dict[str, int]

    @property
    def map50(self) -> float:
        return float(np.mean(list(self.ap50.values()))) if self.ap50 else float("nan")


def match(
    predicted: Sequence[Detection], true: Sequence[Detection], annotated: frozenset[str]
) -> dict[str, Matches]:
    """Per annotated label, the picture's predictions against its truths, the surest first."""
    return {label: _match(label, predicted, true) for label in annotated}


def score(pictures: Sequence[dict[str, Matches]]) -> DetectorScore:
    """AP50 over matched pictures, of the labels that one of them shows."""
    ap50: dict[str, float] = {}
    counts: dict[str, int] = {}
    for label in sorted({name for each in pictures for name, of in each.items() if of.total}):
        matches = [each[label] for each in pictures if label in each]
        counts[label] = sum(each.total for each in matches)
        ap50[label] = _average_precision(
            np.array([c for each in matches for c in each.confidences]),
            np.array([hit for each in matches for hit in each.hits], bool),
            counts[label],
        )
    return DetectorScore(ap50, counts)


def box_figures(pictures: Sequence[dict[str, Matches]], groups: Sequence[str]) -> dict[str, Any]:
    """mAP50 with its interval by group, AP50 and number of boxes of each label."""
    total = score(pictures)
    return {
        "pictures": len(pictures),
        "map50": figure(
            lambda rows: score([pictures[i] for i in rows]).map50,
            np.arange(len(pictures)),
            groups,
            resamples=_RESAMPLES,
        ),
        "ap50": total.ap50,
        "boxes": total.truths,
    }


def _match(label: str, predicted: Sequence[Detection], true: Sequence[Detection]) -> Matches:
    open_truths = [box.bbox for box in true if box.label == label]
    total = len(open_truths)
    found = sorted((p for p in predicted if p.label == label), key=lambda p: -p.confidence)
    hits = []
    for detection in found:
        best = max(open_truths, key=lambda box: iou(box, detection.bbox), default=None)
        hit = best is not None and iou(best, detection.bbox) >= 0.5
        if hit and best is not None:
            open_truths.remove(best)
        hits.append(hit)
    return Matches(tuple(p.confidence for p in found), tuple(hits), total)


def _average_precision(confidences: Floats, hits: npt.NDArray[np.bool_], total: int) -> float:
    if total == 0 or len(hits) == 0:
        return 0.0
    order = np.argsort(-confidences, kind="stable")
    found = np.cumsum(hits[order])
    precision = found / np.arange(1, len(hits) + 1)
    recall = found / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
