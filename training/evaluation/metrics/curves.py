"""Points of the ROC, precision-recall and reliability curves of binary quality."""

from typing import Any

import numpy as np
import numpy.typing as npt

from model.calibration import equal_mass_bins

Floats = npt.NDArray[np.float64]
_Z95 = 1.959964


def roc(probability: npt.ArrayLike, standard: npt.ArrayLike) -> dict[str, list[float]]:
    """False and true positive rate from (0, 0) to (1, 1), a point for each distinct probability;
    empty without either class."""
    p, y = np.asarray(probability, float), np.asarray(standard, bool)
    if y.all() or not y.any():
        return {"false positive rate": [], "true positive rate": []}
    hits, misses = _counts(p, y)
    return {
        "false positive rate": [0.0, *(misses / (~y).sum()).tolist()],
        "true positive rate": [0.0, *(hits / y.sum()).tolist()],
    }


def precision_recall(probability: npt.ArrayLike, standard: npt.ArrayLike) -> dict[str, list[float]]:
    """Recall and precision at each distinct probability, falling; empty without either class."""
    p, y = np.asarray(probability, float), np.asarray(standard, bool)
    if y.all() or not y.any():
        return {"recall": [], "precision": []}
    hits, misses = _counts(p, y)
    return {
        "recall": (hits / y.sum()).tolist(),
        "precision": (hits / (hits + misses)).tolist(),
    }


def reliability(
    probability: npt.ArrayLike, standard: npt.ArrayLike, bins: int = 10
) -> list[dict[str, Any]]:
    """Equal-mass bins, those of the calibration error: mean probability, observed share with its
    Wilson interval of 95 %, and pictures of each."""
    p, y = np.asarray(probability, float), np.asarray(standard, bool)
    bin_of = equal_mass_bins(p, bins)
    return [
        {
            "predicted": float(p[bin_of == k].mean()),
            "observed": float(y[bin_of == k].mean()),
            "interval": wilson(int(y[bin_of == k].sum()), int((bin_of == k).sum())),
            "pictures": int((bin_of == k).sum()),
        }
        for k in np.unique(bin_of)
    ]


def wilson(hits: int, total: int) -> list[float]:
    """Interval of 95 % of a share (Wilson 1927)."""
    share, z2 = hits / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return [max(0.0, float(middle - half)), min(1.0, float(middle + half))]


def auroc(probability: Floats, standard: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counting half; NaN without either class."""
    positives = int(standard.sum())
    negatives = len(standard) - positives
    if not positives or not negatives:
        return float("nan")
    hits, misses = _counts(probability, standard)
    hits, misses = np.r_[0.0, hits], np.r_[0.0, misses]
    return float(np.sum(np.diff(misses) * (hits[1:] + hits[:-1]) / 2) / (positives * negatives))


def average_precision(probability: Floats, standard: npt.NDArray[np.bool_]) -> float:
    """Precision summed over the steps of recall, uninterpolated; NaN without either class."""
    if standard.all() or not standard.any():
        return float("nan")
    hits, misses = _counts(probability, standard)
    return float(np.sum(np.diff(hits, prepend=0.0) * hits / (hits + misses)) / standard.sum())


def _counts(p: Floats, y: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Positives and negatives at or above each distinct probability, from the highest down."""
    order = np.argsort(-p, kind="stable")
    ordered, truth = p[order], y[order]
    last = np.r_[np.flatnonzero(np.diff(ordered)), len(ordered) - 1]
    hits = np.cumsum(truth)[last].astype(float)
    return hits, last + 1 - hits
