"""From a logit to a probability that means what it says, and how well it does.

Temperature scaling after Guo et al. 2017, with a bias (Platt) since the decision is binary, and
per view where the view has enough samples. The calibration error is over equal-mass bins.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from detector.vocabulary import View

Floats = npt.NDArray[np.float64]
# Separable samples have their best slope at infinity; no probability should be that sure.
_SLOPE_RANGE = (0.02, 20.0)
_BIAS_RANGE = (-10.0, 10.0)
_LEAST_PER_CLASS = 25


@dataclass(frozen=True, slots=True)
class Scaling:
    """probability = sigmoid(logit / temperature + bias); monotone, for temperature > 0."""

    temperature: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature} is not positive")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias {self.bias} is not finite")

    def probability(self, logits: npt.ArrayLike) -> Floats:
        """Elementwise, 0..1."""
        return np.asarray(expit(np.asarray(logits, float) / self.temperature + self.bias), float)


@dataclass(frozen=True, slots=True)
class Temperature:
    """The scaling of all views, and those of views that have their own."""

    common: Scaling = field(default_factory=Scaling)
    views: Mapping[View, Scaling] = field(default_factory=dict)

    def calibrate(self, logit: float, view: View | None = None) -> float:
        """P(standard) of one logit."""
        return float(self._of(view).probability(logit))

    def calibrate_many(self, logits: npt.ArrayLike, views: Sequence[View] | None = None) -> Floats:
        """P(standard) of (n,) logits, each by its view."""
        values = np.asarray(logits, float)
        if views is None:
            return self.common.probability(values)
        if len(views) != len(values):
            raise ValueError(f"{len(values)} logits but {len(views)} views")
        return np.array(
            [self.calibrate(z, v) for z, v in zip(values, views, strict=True)], dtype=float
        )

    @classmethod
    def fit(
        cls,
        logits: npt.ArrayLike,
        labels: npt.ArrayLike,
        views: Sequence[View] | None = None,
        *,
        bias: bool = True,
        least_per_class: int = _LEAST_PER_CLASS,
    ) -> Self:
        """By least negative log-likelihood on samples that were not trained on.

        A view gets its own scaling if it has `least_per_class` samples of both classes.
        Raises ValueError on samples of one class or that are not finite.
        """
        z, y = np.asarray(logits, float), np.asarray(labels, float)
        common = _fit(z, y, bias)
        own = {}
        for view in sorted(set(views or ())):
            chosen = np.array([v == view for v in views or ()])
            positives = int(y[chosen].sum())
            if min(positives, int(chosen.sum()) - positives) >= least_per_class:
                own[view] = _fit(z[chosen], y[chosen], bias)
        return cls(common, own)

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature": self.common.temperature,
            "bias": self.common.bias,
            "views": {
                view.value: {"temperature": s.temperature, "bias": s.bias}
                for view, s in self.views.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError or ValueError on what is no calibration."""
        return cls(
            Scaling(float(data["temperature"]), float(data["bias"])),
            {
                View(view): Scaling(float(s["temperature"]), float(s["bias"]))
                for view, s in data["views"].items()
            },
        )

    def _of(self, view: View | None) -> Scaling:
        return self.common if view is None else self.views.get(view, self.common)


def expected_calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 10
) -> float:
    """Mean |observed - predicted| over equal-mass bins, weighted by size; 0..1.

    Equal probabilities share a bin, so that the order of the samples cannot matter.
    """
    p, y = np.asarray(probabilities, float), np.asarray(labels, float)
    if p.shape != y.shape or p.ndim != 1 or len(p) == 0:
        raise ValueError(f"{p.shape} probabilities for {y.shape} labels")
    ordered = np.sort(p)
    edges = np.unique(ordered[[len(p) * k // bins for k in range(1, bins)]])
    chosen = np.searchsorted(edges, p, side="right")
    excess = np.bincount(chosen, weights=y - p, minlength=len(edges) + 1)
    return float(np.abs(excess).sum() / len(p))


def bootstrap_interval(
    metric: Callable[[npt.NDArray[np.intp]], float],
    groups: Sequence[Hashable],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `metric(indices)`, resampling whole groups (exams, patients).

    Samples of one group stand or fall together, for they are no independent evidence. Resamples
    whose metric is NaN (one class only) are left out; raises ValueError if half of them are.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    blocks = [np.array(indices, dtype=np.intp) for indices in members.values()]
    if not blocks:
        raise ValueError("nothing to resample")
    generator = np.random.default_rng(seed)
    values = np.array(
        [
            metric(np.concatenate([blocks[k] for k in draw]))
            for draw in generator.integers(len(blocks), size=(resamples, len(blocks)))
        ]
    )
    finite = values[np.isfinite(values)]
    if 2 * len(finite) < resamples:
        raise ValueError("the metric is undefined on most resamples: too few samples of a class")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _fit(z: Floats, y: Floats, bias: bool) -> Scaling:
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"{z.shape} logits for {y.shape} labels")
    if not np.isfinite(z).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("logits must be finite and labels 0 or 1")
    if len(np.unique(y)) < 2:
        raise ValueError("calibration needs samples of both classes")

    def loss(parameters: Floats) -> tuple[float, Floats]:
        slope, shift = parameters
        s = slope * z + shift
        residual = expit(s) - y
        return float(np.mean(np.logaddexp(0.0, s) - y * s)), np.array(
            [np.mean(residual * z), np.mean(residual)]
        )

    found = minimize(
        loss,
        x0=np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[_SLOPE_RANGE, _BIAS_RANGE if bias else (0.0, 0.0)],
    )
    return Scaling(float(1.0 / found.x[0]), float(found.x[1]))
