"""Average precision (AP50) of a detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.boxes import Detection, iou
from training.evaluation.metrics.classification import metric_with_interval

Floats = npt.NDArray[np.float64]
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Matches:
    """Of one label in one picture: confidence of each prediction and whether it hit a true box, and
    how many true boxes there are."""

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


def match_boxes(
    predicted: Sequence[Detection], true: Sequence[Detection], annotated: frozenset[str]
) -> dict[str, Matches]:
    """Per annotated label, the predictions against the true boxes, by falling confidence."""
    return {label: _match_label(label, predicted, true) for label in annotated}


def score_detector(pictures: Sequence[dict[str, Matches]]) -> DetectorScore:
    """AP50 over matched pictures, of the labels that one of them shows."""
    ap50: dict[str, float] = {}
    counts: dict[str, int] = {}
    for label in sorted(
        {name for each in pictures for name, matches in each.items() if matches.total}
    ):
        matches = [each[label] for each in pictures if label in each]
        counts[label] = sum(each.total for each in matches)
        ap50[label] = _average_precision(
            np.array([c for each in matches for c in each.confidences]),
            np.array([hit for each in matches for hit in each.hits], bool),
            counts[label],
        )
    return DetectorScore(ap50, counts)


def detection_metrics(
    pictures: Sequence[dict[str, Matches]], groups: Sequence[str]
) -> dict[str, Any]:
    """mAP50 with its interval by group, AP50 and number of boxes of each label."""
    total = score_detector(pictures)
    return {
        "pictures": len(pictures),
        "map50": metric_with_interval(
            lambda rows: score_detector([pictures[i] for i in rows]).map50,
            np.arange(len(pictures)),
            groups,
            resamples=_RESAMPLES,
        ),
        "ap50": total.ap50,
        "boxes": total.truths,
    }


def _match_label(label: str, predicted: Sequence[Detection], true: Sequence[Detection]) -> Matches:
    unmatched = [box.bbox for box in true if box.label == label]
    total = len(unmatched)
    candidates = sorted((p for p in predicted if p.label == label), key=lambda p: -p.confidence)
    hits = []
    for detection in candidates:
        best = max(unmatched, key=lambda box: iou(box, detection.bbox), default=None)
        hit = best is not None and iou(best, detection.bbox) >= 0.5
        if hit and best is not None:
            unmatched.remove(best)
        hits.append(hit)
    return Matches(tuple(p.confidence for p in candidates), tuple(hits), total)


def _average_precision(confidences: Floats, hits: npt.NDArray[np.bool_], total: int) -> float:
    if total == 0 or len(hits) == 0:
        return 0.0
    order = np.argsort(-confidences, kind="stable")
    true_positives = np.cumsum(hits[order])
    precision = true_positives / np.arange(1, len(hits) + 1)
    recall = true_positives / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
