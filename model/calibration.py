"""Calibration: from a logit to a probability, and how far that is from observed frequencies.

`Calibration` has a map for all views, and for each view with enough samples one of its own: a
`Scaling` (temperature and bias), or an `Isotonic` one where that was chosen. The calibration error
is over equal-mass bins.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from detector.anatomy import View

Floats = npt.NDArray[np.float64]

# A fit looks for the slope (1 / temperature) and the bias, in log odds, within these bounds.
_SLOPE_RANGE = (0.02, 20.0)
_BIAS_RANGE = (-10.0, 10.0)

# A view gets a scaling of its own from this many samples of each class on.
_LEAST_PER_CLASS = 25


@dataclass(frozen=True, slots=True)
class Scaling:
    """probability = sigmoid(logit / temperature + bias); monotone, for temperature > 0.

    Temperature scaling after Guo et al. 2017, with a bias since the decision is binary, fitted to
    Platt's targets (1999).
    """

    temperature: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature} is not positive")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias {self.bias} is not finite")

    def probability(self, logits: npt.ArrayLike) -> Floats:
        """The calibrated probability of each logit, 0..1, in the same shape."""
        return np.asarray(expit(self.log_odds_of(logits)), float)

    def log_odds_of(self, logits: npt.ArrayLike) -> Floats:
        """The calibrated log odds of each logit, unbounded, in the same shape."""
        return np.asarray(logits, float) / self.temperature + self.bias

    @classmethod
    def fit(cls, logits: npt.ArrayLike, labels: npt.ArrayLike, *, bias: bool = True) -> Self:
        """Fit by least negative log-likelihood.

        Raises ValueError on samples of one class or that are not finite.

        The targets are not quite 0 and 1, the less so the fewer samples a class has. Else samples
        that can almost be separated would have a slope near infinity, and a new one on the wrong
        side be judged with certainty.
        """
        from scipy.optimize import minimize

        z, y = _checked_samples(logits, labels)
        positives, negatives = y.sum(), (1 - y).sum()
        target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

        def loss(parameters: Floats) -> tuple[float, Floats]:
            slope, shift = parameters
            s = slope * z + shift
            residual = expit(s) - target
            return float(np.mean(np.logaddexp(0.0, s) - target * s)), np.array(
                [np.mean(residual * z), np.mean(residual)]
            )

        optimum = minimize(
            loss,
            x0=np.array([1.0, 0.0]),
            jac=True,
            method="L-BFGS-B",
            bounds=[_SLOPE_RANGE, _BIAS_RANGE if bias else (0.0, 0.0)],
        )
        return cls(float(1.0 / optimum.x[0]), float(optimum.x[1]))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A calibration that takes its shape from the data and never falls.

    Centred isotonic regression (Oron and Flournoy 2017): adjacent violators are pooled, each pool
    stands at its mean logit. Between pools it is linear in log odds, and beyond them it rises as
    temperature scaling does. So it rises everywhere: it ranks no two pictures otherwise than their
    logits do, and says neither 0 nor 1.

    `logits` are the pools' means and `log_odds` theirs, both rising; `scaling` gives the slope
    beyond them, and is what a reader takes that knows no isotonic calibration.
    """

    scaling: Scaling
    logits: tuple[float, ...]
    log_odds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.logits or len(self.logits) != len(self.log_odds):
            raise ValueError(f"{len(self.logits)} logits for {len(self.log_odds)} log odds")
        for values in (self.logits, self.log_odds):
            if not np.isfinite(values).all() or np.any(np.diff(values) <= 0):
                raise ValueError("an isotonic calibration must be finite and rise")

    def probability(self, logits: npt.ArrayLike) -> Floats:
        """The calibrated probability of each logit, 0..1, in the same shape."""
        return np.asarray(expit(self.log_odds_of(logits)), float)

    def log_odds_of(self, logits: npt.ArrayLike) -> Floats:
        """The calibrated log odds of each logit, unbounded, in the same shape."""
        z = np.asarray(logits, float)
        inside = np.clip(z, self.logits[0], self.logits[-1])
        beyond = (z - inside) / self.scaling.temperature
        return np.asarray(np.interp(inside, self.logits, self.log_odds) + beyond, float)

    @classmethod
    def fit(cls, logits: npt.ArrayLike, labels: npt.ArrayLike) -> Self:
        """Fit on logits and labels. Raises ValueError on one class or what is not finite."""
        from sklearn.isotonic import IsotonicRegression

        z, y = _checked_samples(logits, labels)
        pool = np.unique(IsotonicRegression().fit_transform(z, y), return_inverse=True)[1]
        size = np.bincount(pool).astype(float)
        centre = np.bincount(pool, weights=z) / size
        # Half a sample of each class more (Krichevsky and Trofimov 1981): no pool is certain.
        share = (np.bincount(pool, weights=y) + 0.5) / (size + 1)
        # Small pools are pulled further, and may so have changed their order: pooled once more.
        order = np.arange(len(size))
        rising = IsotonicRegression().fit(order, share, sample_weight=size).predict(order)
        values, again = np.unique(rising, return_inverse=True)
        middle = np.bincount(again, weights=centre * size) / np.bincount(again, weights=size)
        return cls(Scaling.fit(z, y), tuple(map(float, middle)), tuple(map(float, logit(values))))


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of all views, and those of views that have their own."""

    common: Scaling | Isotonic = field(default_factory=Scaling)
    views: Mapping[View, Scaling | Isotonic] = field(default_factory=dict)

    def calibrate(self, logit: float, view: View | None = None) -> float:
        """P(standard) of one logit."""
        return float(self._of(view).probability(logit))

    def log_odds(self, logit: float, view: View | None = None) -> float:
        """The calibrated log odds of one logit, unbounded."""
        return float(self._of(view).log_odds_of(logit))

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
        """Fit scalings by least negative log-likelihood on samples that were not trained on.

        A view gets its own scaling if it has `least_per_class` samples of both classes.
        Raises ValueError on samples of one class or that are not finite.
        """
        z, y = np.asarray(logits, float), np.asarray(labels, float)
        common = Scaling.fit(z, y, bias=bias)
        own: dict[View, Scaling | Isotonic] = {}
        for view in sorted(set(views or ())):
            of_view = np.array([v == view for v in views or ()])
            positives = int(y[of_view].sum())
            if min(positives, int(of_view.sum()) - positives) >= least_per_class:
                own[view] = Scaling.fit(z[of_view], y[of_view], bias=bias)
        return cls(common, own)

    def to_json(self) -> dict[str, Any]:
        """The JSON form; an isotonic map has its scaling with it, for readers of scalings."""
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
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    bins: int = 10,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Mean |observed - predicted| over equal-mass bins, weighted by size; 0..1.

    Equal probabilities share a bin, so that the order of the samples cannot matter. `weights` (n,)
    say how many each sample stands for, all above 0; bins are of samples all the same.
    """
    p, y = np.asarray(probabilities, float), np.asarray(labels, float)
    if p.shape != y.shape or p.ndim != 1 or len(p) == 0:
        raise ValueError(f"{p.shape} probabilities for {y.shape} labels")
    w = np.ones(len(p)) if weights is None else np.asarray(weights, float)
    excess = np.bincount(equal_mass_bins(p, bins), weights=w * (y - p))
    return float(np.abs(excess).sum() / w.sum())


def equal_mass_bins(probabilities: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.intp]:
    """(N,) the bin of each probability, from 0: N / `bins` in each, equal ones in the same."""
    ordered = np.sort(probabilities)
    edges = np.unique(ordered[[len(ordered) * k // bins for k in range(1, bins)]])
    return np.searchsorted(edges, probabilities, side="right")


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


def _map_to_json(calibration: Scaling | Isotonic) -> dict[str, Any]:
    scaling = calibration.scaling if isinstance(calibration, Isotonic) else calibration
    facts: dict[str, Any] = {"temperature": scaling.temperature, "bias": scaling.bias}
    if isinstance(calibration, Isotonic):
        facts["isotonic"] = {
            "logits": list(calibration.logits),
            "log_odds": list(calibration.log_odds),
        }
    return facts


def _map_from_json(data: Mapping[str, Any]) -> Scaling | Isotonic:
    scaling = Scaling(float(data["temperature"]), float(data["bias"]))
    if "isotonic" not in data:
        return scaling
    logits, log_odds = data["isotonic"]["logits"], data["isotonic"]["log_odds"]
    return Isotonic(scaling, tuple(map(float, logits)), tuple(map(float, log_odds)))


def _checked_samples(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Logits and labels as arrays; raises ValueError on what no calibration can be fitted to."""
    z, y = np.asarray(logits, float), np.asarray(labels, float)
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"{z.shape} logits for {y.shape} labels")
    if not np.isfinite(z).all() or not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("logits must be finite and labels 0 or 1")
    if len(np.unique(y)) < 2:
        raise ValueError("calibration needs samples of both classes")
    return z, y
