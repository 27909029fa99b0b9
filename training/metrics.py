"""Average precision of a detector."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.detection import Detection, iou

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DetectorScore:
    """AP at IoU 0.5 per label, by all-point interpolation; labels never annotated are absent."""

    ap50: dict[str, float]
    truths: dict[str, int]

    @property
    def map50(self) -> float:
        return float(np.mean(list(self.ap50.values()))) if self.ap50 else float("nan")


def score_detector(
    predictions: Sequence[Sequence[Detection]],
    truths: Sequence[Sequence[Detection]],
    annotated: Sequence[frozenset[str]],
) -> DetectorScore:
    """Per-label AP50 over images; a label counts only in the images where it is annotated."""
    labels = sorted({box.label for boxes in truths for box in boxes})
    ap50: dict[str, float] = {}
    counts: dict[str, int] = {}
    for label in labels:
        confidences: list[float] = []
        hits: list[bool] = []
        total = 0
        for predicted, true, known in zip(predictions, truths, annotated, strict=True):
            if label not in known:
                continue
            open_truths = [box.bbox for box in true if box.label == label]
            total += len(open_truths)
            for detection in sorted(
                (p for p in predicted if p.label == label), key=lambda p: -p.confidence
            ):
                best = max(open_truths, key=lambda box: iou(box, detection.bbox), default=None)
                hit = best is not None and iou(best, detection.bbox) >= 0.5
                if hit and best is not None:
                    open_truths.remove(best)
                confidences.append(detection.confidence)
                hits.append(hit)
        ap50[label] = _average_precision(np.array(confidences), np.array(hits, bool), total)
        counts[label] = total
    return DetectorScore(ap50, counts)


def _average_precision(confidences: Floats, hits: npt.NDArray[np.bool_], total: int) -> float:
    if total == 0 or len(hits) == 0:
        return 0.0
    order = np.argsort(-confidences, kind="stable")
    found = np.cumsum(hits[order])
    precision = found / np.arange(1, len(hits) + 1)
    recall = found / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
