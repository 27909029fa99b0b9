"""How good a site's probabilities are, before and after: figures with bootstrap intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from model.calibration import bootstrap_interval, expected_calibration_error
from model.site.samples import Floats

_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, with its 95 % interval over resampled exams where there is one."""

    value: float
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is none."""
        interval = data["interval"]
        if interval is not None:
            low, high = map(float, interval)
            interval = (low, high)
        return cls(float(data["value"]), interval)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of reviewed findings: calibration error (10 bins of equal mass), accuracy at one half, the
    shares that are called standard, left to review and called non-standard, and mean log loss in
    nats (None in records of earlier versions)."""

    reviews: int
    calibration_error: Figure
    accuracy: Figure
    called: tuple[float, float, float]
    log_loss: Figure | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "reviews": self.reviews,
            "ECE": self.calibration_error.to_json(),
            "accuracy": self.accuracy.to_json(),
            "called": dict(zip(("standard", "review", "non-standard"), self.called, strict=True)),
        } | ({} if self.log_loss is None else {"log_loss": self.log_loss.to_json()})

    def is_worse_than(self, other: Self) -> bool:
        """Whether both calibration error and log loss are larger than the other's.

        Both: the first one has a bias with few reviews, the second one can hang on a single review.
        """
        if self.log_loss is None or other.log_loss is None:
            return False
        return (
            self.calibration_error.value > other.calibration_error.value
            and self.log_loss.value > other.log_loss.value
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is none."""
        called, log_loss = data["called"], data.get("log_loss")
        return cls(
            int(data["reviews"]),
            Figure.from_json(data["ECE"]),
            Figure.from_json(data["accuracy"]),
            (float(called["standard"]), float(called["review"]), float(called["non-standard"])),
            None if log_loss is None else Figure.from_json(log_loss),
        )


def measure(
    log_odds: Floats,
    labels: Floats,
    exam: npt.NDArray[np.intp],
    review: tuple[float, float],
    weights: Floats,
) -> Figures:
    """The figures of (n,) log odds and labels, each for as many findings as its weight says; exams
    are resampled whole."""
    probabilities = np.asarray(expit(log_odds))
    losses = np.logaddexp(0, np.where(labels == 1, -log_odds, log_odds))
    low, high = review
    share = weights / weights.sum()
    is_standard = probabilities >= high
    is_review = (probabilities > low) & ~is_standard

    def error(at: npt.NDArray[np.intp]) -> float:
        return expected_calibration_error(probabilities[at], labels[at], weights=weights[at])

    def accuracy(at: npt.NDArray[np.intp]) -> float:
        return float(np.average((probabilities[at] >= 0.5) == labels[at], weights=weights[at]))

    def log_loss(at: npt.NDArray[np.intp]) -> float:
        return float(np.average(losses[at], weights=weights[at]))

    return Figures(
        len(labels),
        _figure(error, exam),
        _figure(accuracy, exam),
        (
            float(share @ is_standard),
            float(share @ is_review),
            float(share @ (~is_standard & ~is_review)),
        ),
        _figure(log_loss, exam),
    )


def _figure(metric: Callable[[npt.NDArray[np.intp]], float], exam: npt.NDArray[np.intp]) -> Figure:
    value = metric(np.arange(len(exam)))
    return Figure(value, bootstrap_interval(metric, exam.tolist(), resamples=_RESAMPLES))
