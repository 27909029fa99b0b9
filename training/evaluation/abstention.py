"""Below which probability a classifier names no class: fitted on patients held out, and judged.

Chow 1970: with the classes' probabilities the best rule names none below a threshold.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detector.console import UsageError
from training.evaluation.metrics.classification import metric_with_interval
from training.evaluation.metrics.multiclass import multiclass_metrics

ACCURACY = 0.95
"""Of the pictures that get a class so many shall get the right one, of those fitted on."""


@dataclass(frozen=True, slots=True)
class Abstention:
    """The threshold, and what it did on the pictures that it was fitted on."""

    least_probability: float  # Above 1: no picture gets a class.
    target: float  # The accuracy that was asked for.
    coverage: float  # Share of the pictures that get a class.
    accuracy: float | None  # Of these; None where there are none.
    pictures: int
    patients: int

    def to_json(self) -> dict[str, Any]:
        """Plain values by their names."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Raises TypeError or ValueError on what `to_json` does not write."""
        result = cls(**values)
        if not 0 <= float(result.least_probability) <= 2:
            raise ValueError("least_probability lies outside of 0 and 2")
        return result


def fit_abstention(
    probability: npt.ArrayLike,
    truth: npt.ArrayLike,
    groups: Sequence[Hashable],
    target: float = ACCURACY,
) -> Abstention:
    """The lowest threshold at which the share `target` of the pictures with a class get the right
    one: `probability` (N, C), `truth` (N,) class indices, `groups` (N,) the patients.

    Where no threshold reaches it, no picture gets a class.
    """
    p, y = np.asarray(probability, float), np.asarray(truth, np.intp)
    sure, right = p.max(1), p.argmax(1) == y
    order = np.argsort(-sure, kind="stable")
    accuracies = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Pictures of one probability are answered together: the last one counts.
    is_last = np.append(np.diff(sure[order]) != 0, True)
    counts = np.flatnonzero(is_last & (accuracies >= target)) + 1
    count = int(counts[-1]) if len(counts) else 0
    return Abstention(
        least_probability=float(sure[order][count - 1]) if count else 2.0,
        target=target,
        coverage=count / len(y),
        accuracy=float(accuracies[count - 1]) if count else None,
        pictures=len(y),
        patients=len(set(groups)),
    )


def abstention_metrics(
    probability: npt.ArrayLike,
    truth: npt.ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable],
    least: npt.ArrayLike,
    resamples: int = 1000,
) -> dict[str, Any]:
    """What the thresholds `least` (N,) do: coverage, and macro F1 and accuracy of the pictures that
    get a class, each as {"value", "interval"} of 95 % over patients; None where there are none."""
    p, y = np.asarray(probability, float), np.asarray(truth, np.intp)
    is_answered = p.max(1) >= np.asarray(least, float)

    def coverage(indices: npt.NDArray[np.intp]) -> float:
        return float(is_answered[indices].mean())

    figures: dict[str, Any] = {
        "coverage": metric_with_interval(coverage, np.arange(len(y)), groups, resamples),
        "macro F1": None,
        "accuracy": None,
    }
    rows = np.flatnonzero(is_answered).tolist()
    if len(rows):
        of_answered = multiclass_metrics(
            [classes[y[row]] for row in rows],
            [classes[p[row].argmax()] for row in rows],
            [groups[row] for row in rows],
            labels=classes,
            resamples=resamples,
        )
        figures |= {name: of_answered[name] for name in ("macro F1", "accuracy")}
    return figures


def save_abstention(path: Path, abstention: Abstention) -> None:
    """Write it as JSON."""
    path.write_text(json.dumps(abstention.to_json(), indent=1) + "\n", encoding="utf-8")


def read_abstention(path: Path) -> Abstention | None:
    """The inverse; None where there is no such file. Raises UsageError on another one."""
    if not path.is_file():
        return None
    try:
        return Abstention.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UsageError(
            f"{path.name} is no abstention: remove it, or fit one (qc-model dual-branch abstention)"
        ) from None
