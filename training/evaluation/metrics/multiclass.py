"""Metrics of several classes, with bootstrap intervals by group.

A rejected picture counts as missed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics.classification import Indices, metric_with_interval

Counts = npt.NDArray[np.int64]
REJECTED = ""
"""The prediction of a picture that no class was named for."""


def confusion_matrix(
    truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]
) -> Counts:
    """(C, C) pictures: rows are true, columns predicted classes, both in the order of `labels`."""
    number = {label: index for index, label in enumerate(labels)}
    rows = np.array([number[label] for label in truth], np.intp)
    columns = np.array([number[label] for label in predicted], np.intp)
    return _count(rows, columns, len(labels))


def f1_scores(confusion: Counts) -> npt.NDArray[np.float64]:
    """Each class's F1 from (C, C) counts; NaN for a class that is nobody's truth."""
    hits = np.diag(confusion).astype(float)
    true, predicted = confusion.sum(1), confusion.sum(0)
    scores = np.full(len(confusion), np.nan)
    np.divide(2 * hits, true + predicted, out=scores, where=true > 0)
    return scores


def macro_f1(confusion: Counts) -> float:
    """The mean of F1 over the classes that are somebody's truth; NaN without any."""
    scores = f1_scores(confusion)
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def multiclass_metrics(
    truth: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[Hashable],
    *,
    labels: Sequence[str] | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Macro-F1, accuracy, macro recall, macro precision and F1 weighted by pictures, each as
    {"value", "interval"} of 95 % over resampled groups; F1, recall and pictures of each true class;
    the confusion matrix, whose columns have predicted classes that are nobody's truth too. Its
    order is that of `labels`, or by name.

    Means are over true classes. Raises ValueError on lists of unlike lengths or of none.
    """
    if not len(truth) or not len(truth) == len(predicted) == len(groups):
        raise ValueError(f"{len(truth)} labels, {len(predicted)} predictions, {len(groups)} groups")
    labels = labels or sorted(set(truth) | set(predicted))
    number = {label: index for index, label in enumerate(labels)}
    rows = np.array([number[label] for label in truth], np.intp)
    columns = np.array([number[label] for label in predicted], np.intp)

    def over(metric: Callable[[Counts], float]) -> Callable[[Indices], float]:
        return lambda indices: metric(_count(rows[indices], columns[indices], len(labels)))

    everyone = np.arange(len(truth))
    confusion = _count(rows, columns, len(labels))
    scores, recalls = f1_scores(confusion), _recalls(confusion)
    metrics: Mapping[str, Callable[[Counts], float]] = {
        "macro F1": macro_f1,
        "accuracy": lambda counts: float(np.trace(counts) / counts.sum()),
        "macro recall": lambda counts: float(np.nanmean(_recalls(counts))),
        "macro precision": lambda counts: float(np.nanmean(_precisions(counts))),
        "weighted F1": lambda counts: float(
            np.nansum(f1_scores(counts) * counts.sum(1)) / counts.sum()
        ),
    }
    return {
        "pictures": len(truth),
        "groups": len(set(groups)),
        "rejected": sum(label == REJECTED for label in predicted),
        **{
            name: metric_with_interval(over(metric), everyone, groups, resamples)
            for name, metric in metrics.items()
        },
        "by class": {
            label: {
                "F1": float(scores[index]),
                "recall": float(recalls[index]),
                "pictures": int(confusion[index].sum()),
            }
            for label, index in number.items()
            if confusion[index].sum()
        },
        "confusion": {"labels": list(labels), "pictures": confusion.tolist()},
    }


def top_k_accuracy(
    truth: Sequence[str], probabilities: npt.ArrayLike, labels: Sequence[str], k: int
) -> float:
    """Share of pictures whose class is among the k most probable of (N, C)."""
    order = np.argsort(-np.asarray(probabilities), axis=1, kind="stable")[:, :k]
    number = {label: index for index, label in enumerate(labels)}
    return float(np.mean([number[label] in row for label, row in zip(truth, order, strict=True)]))


def _count(rows: Indices, columns: Indices, classes: int) -> Counts:
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def _recalls(confusion: Counts) -> npt.NDArray[np.float64]:
    recalls = np.full(len(confusion), np.nan)
    np.divide(np.diag(confusion), confusion.sum(1), out=recalls, where=confusion.sum(1) > 0)
    return recalls


def _precisions(confusion: Counts) -> npt.NDArray[np.float64]:
    """Of true classes; 0 where a class was never predicted."""
    predicted = confusion.sum(0)
    precisions = np.where(confusion.sum(1) > 0, 0.0, np.nan)
    np.divide(
        np.diag(confusion), predicted, out=precisions,
        where=(predicted > 0) & (confusion.sum(1) > 0),
    )  # fmt: skip
    return precisions
