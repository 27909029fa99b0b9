"""From a logit to a probability that means what it says, and how well it does.

A scaling for all views, and for each view with enough samples one of its own, or an isotonic
calibration where that was chosen. The calibration error is over equal-mass bins.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.isotonic import Isotonic
from model.scaling import Floats, Scaling

_LEAST_PER_CLASS = 25


@dataclass(frozen=True, slots=True)
class Calibration:
    """The map of all views, and those of views that have their own."""

    common: Scaling | Isotonic = field(default_factory=Scaling)
    views: Mapping[View, Scaling | Isotonic] = field(default_factory=dict)

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
        """Scalings, by least negative log-likelihood on samples that were not trained on.

        A view gets its own scaling if it has `least_per_class` samples of both classes.
        Raises ValueError on samples of one class or that are not finite.
        """
        z, y = np.asarray(logits, float), np.asarray(labels, float)
        common = Scaling.fit(z, y, bias=bias)
        own: dict[View, Scaling | Isotonic] = {}
        for view in sorted(set(views or ())):
            chosen = np.array([v == view for v in views or ()])
            positives = int(y[chosen].sum())
            if min(positives, int(chosen.sum()) - positives) >= least_per_class:
                own[view] = Scaling.fit(z[chosen], y[chosen], bias=bias)
        return cls(common, own)

    def to_json(self) -> dict[str, Any]:
        """An isotonic map has its scaling beside it: readers of scalings alone read it too."""
        return _map_to_json(self.common) | {
            "views": {view.value: _map_to_json(own) for view, own in self.views.items()}
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is no
        calibration."""
        return cls(
            _map_from_json(data),
            {View(view): _map_from_json(own) for view, own in data["views"].items()},
        )

    def _of(self, view: View | None) -> Scaling | Isotonic:
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


def _map_to_json(found: Scaling | Isotonic) -> dict[str, Any]:
    scaling = found.scaling if isinstance(found, Isotonic) else found
    facts: dict[str, Any] = {"temperature": scaling.temperature, "bias": scaling.bias}
    if isinstance(found, Isotonic):
        facts["isotonic"] = {"logits": list(found.logits), "log_odds": list(found.log_odds)}
    return facts


def _map_from_json(data: Mapping[str, Any]) -> Scaling | Isotonic:
    scaling = Scaling(float(data["temperature"]), float(data["bias"]))
    if "isotonic" not in data:
        return scaling
    logits, log_odds = data["isotonic"]["logits"], data["isotonic"]["log_odds"]
    return Isotonic(scaling, tuple(map(float, logits)), tuple(map(float, log_odds)))
