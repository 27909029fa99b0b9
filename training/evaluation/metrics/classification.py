"""Metrics of binary quality (standard or not), each with its bootstrap interval by group."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from model.calibration import bootstrap_interval, expected_calibration_error
from training.evaluation.metrics.curves import auroc, average_precision

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
SPECIFICITY = 0.95
"""Sensitivity is given at this specificity: one in twenty poor pictures passes."""


def classification_metrics(
    probability: npt.ArrayLike, standard: npt.ArrayLike, groups: Sequence[Hashable]
) -> dict[str, Any]:
    """Each metric as {"value", "interval"} of 95 %; those that one class leaves undefined are NaN.

    The positive class is "standard"; labels are P >= 0.5.
    """
    p, y = np.asarray(probability, float), np.asarray(standard, bool)
    if p.shape != y.shape or p.ndim != 1 or len(p) != len(groups):
        raise ValueError(f"{p.shape} probabilities, {y.shape} labels, {len(groups)} groups")
    metrics: Mapping[str, Callable[[Indices], float]] = {
        "AUROC": lambda rows: auroc(p[rows], y[rows]),
        "PR-AUC": lambda rows: average_precision(p[rows], y[rows]),
        "accuracy": lambda rows: float(np.mean((p[rows] >= 0.5) == y[rows])),
        "F1": lambda rows: f1(p[rows], y[rows]),
        f"sensitivity at specificity {SPECIFICITY}": lambda rows: sensitivity_at(p[rows], y[rows]),
        "Brier": lambda rows: float(np.mean((p[rows] - y[rows]) ** 2)),
        "ECE": lambda rows: expected_calibration_error(p[rows], y[rows]),
    }
    everyone = np.arange(len(p))
    return {
        "pictures": len(p),
        "standard": int(y.sum()),
        **{
            name: metric_with_interval(metric, everyone, groups) for name, metric in metrics.items()
        },
    }


def sensitivity_at(probability: Floats, standard: Any, specificity: float = SPECIFICITY) -> float:
    """Share of standard pictures above the threshold that lets `1 - specificity` of the others
    pass; NaN without either class."""
    negatives = np.sort(probability[~standard])
    if len(negatives) == 0 or not standard.any():
        return float("nan")
    allowed = int(np.floor((1 - specificity) * len(negatives) + 1e-9))
    threshold = negatives[len(negatives) - 1 - allowed]
    return float(np.mean(probability[standard] > threshold))


def f1(probability: Floats, standard: Any) -> float:
    """Harmonic mean of precision and recall of "standard"; 0 where none is predicted or true."""
    predicted = probability >= 0.5
    total = int(predicted.sum() + standard.sum())
    return 2 * int((predicted & standard).sum()) / total if total else 0.0


def risk_coverage(probability: npt.ArrayLike, standard: npt.ArrayLike) -> dict[str, list[float]]:
    """Error rate (risk) of the most confident pictures, against their share of all (coverage;
    Geifman and El-Yaniv 2017)."""
    p, y = np.asarray(probability, float), np.asarray(standard, bool)
    order = np.argsort(-np.abs(p - 0.5), kind="stable")
    wrong = ((p >= 0.5) != y)[order]
    counts = np.arange(1, len(p) + 1)
    return {
        "coverage": [float(v) for v in counts / len(p)],
        "risk": [float(v) for v in np.cumsum(wrong) / counts],
    }


def metric_with_interval(
    metric: Callable[[Indices], float],
    everyone: Indices,
    groups: Sequence[Hashable],
    resamples: int = 1000,
) -> dict[str, Any]:
    """The metric over `everyone` and its interval, NaN where too few pictures of a class leave it
    undefined."""
    value = metric(everyone)
    interval = [float("nan")] * 2
    if not np.isnan(value):
        # Undefined on most resamples: there is a value without an interval.
        with suppress(ValueError):
            interval = list(bootstrap_interval(metric, groups, resamples=resamples))
    return {"value": value, "interval": interval}
