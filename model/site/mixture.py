"""Two normal classes, or one, fitted to log odds without labels (McLachlan and Peel 2000)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_ndtr, logit

from model.site.reference import Reference

Floats = npt.NDArray[np.float64]

_LOG_ROOT_2PI = 0.5 * float(np.log(2 * np.pi))
# Standard deviations of the prior: what a bundle's reference says of classes elsewhere. A measured
# one also says how their spreads compare; one that follows from an AUROC cannot.
_MIDPOINT_SD = 4.0
_DISTANCE_SD = {True: 0.25, False: 0.4}  # as a share of the reference's distance
_SPREAD_SD = {True: 0.25, False: 0.5}  # of the mean of both classes' log standard deviations
_RATIO_SD = {True: 0.2, False: 0.5}  # of the log of their ratio
STARTS = (0.15, 0.3, 0.5, 0.7, 0.85)
LOG_SD_RANGE, SHARE_RANGE, _SKEW_RANGE = (-1.5, 3.0), (-5.0, 5.0), (-30.0, 30.0)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two normal classes of log odds, the upper one standard; `share` of the mass is its."""

    standard_mean: float
    non_standard_mean: float
    standard_deviation: float
    non_standard_deviation: float
    share: float

    @property
    def parameters(self) -> Floats:
        """(5,) means, log standard deviations, logit of the share."""
        return np.array(
            [
                self.standard_mean,
                self.non_standard_mean,
                np.log(self.standard_deviation),
                np.log(self.non_standard_deviation),
                logit(self.share),
            ]
        )

    def log_densities(self, s: Floats) -> tuple[Floats, Floats]:
        """Log density of each class, its share included, at (n,) log odds."""
        m1, m0, l1, l0, lp = self.parameters
        upper = -0.5 * np.square((s - m1) / np.exp(l1)) - l1 - np.logaddexp(0, -lp)
        lower = -0.5 * np.square((s - m0) / np.exp(l0)) - l0 - np.logaddexp(0, lp)
        return upper - _LOG_ROOT_2PI, lower - _LOG_ROOT_2PI

    def log_likelihood(self, s: Floats, weights: Floats) -> float:
        """Weighted log likelihood of (n,) log odds."""
        return float((weights * np.logaddexp(*self.log_densities(s))).sum())

    @property
    def valley(self) -> float:
        """The lowest density between the means over that at the lower of them; 1: no valley."""
        grid = np.linspace(self.non_standard_mean, self.standard_mean, 201)
        density = np.exp(np.logaddexp(*self.log_densities(grid)))
        return float(density.min() / min(density[0], density[-1]))

    def line(self, s: Floats, weights: Floats) -> tuple[float, float]:
        """Bias and slope of the line closest to the posterior's log odds: a logistic regression
        of the posterior on (n,) log odds.

        Classes of different spread have a posterior that turns back far out; the line does not.
        """
        upper, lower = self.log_densities(s)
        # Beyond a class's mean, away from the other, the posterior stays with that class.
        target = expit(upper - lower)
        target = np.where(s >= self.standard_mean, np.maximum(target, 0.5), target)
        target = np.where(s <= self.non_standard_mean, np.minimum(target, 0.5), target)

        def loss(parameters: Floats) -> tuple[float, Floats]:
            slope = np.exp(parameters[0])
            t = slope * s + parameters[1]
            error = weights * (expit(t) - target)
            value = float((weights * (np.logaddexp(0, t) - target * t)).sum())
            pull = parameters[0] / 0.25
            return value + 0.5 * parameters[0] * pull, np.array(
                [(error * slope * s).sum() + pull, error.sum()]
            )

        optimum = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B").x
        return float(optimum[1]), float(np.exp(optimum[0]))


def fit_mixture(
    s: Floats, weights: Floats, reference: Reference, start: Mixture | None = None
) -> Mixture:
    """The likeliest two classes of (n,) log odds, given where the bundle's own lie (MAP)."""
    terms = priors(reference)

    def loss(p: Floats) -> tuple[float, Floats]:
        m1, m0, l1, l0, lp = p
        s1, s0 = np.exp(l1), np.exp(l0)
        u, v = (s - m1) / s1, (s - m0) / s0
        upper = -0.5 * u * u - l1 - np.logaddexp(0, -lp)
        lower = -0.5 * v * v - l0 - np.logaddexp(0, lp)
        total = np.logaddexp(upper, lower)
        r = weights * np.exp(upper - total)
        q = weights - r
        pi = expit(lp)
        # The share's prior is Beta(2, 2).
        value = -float((weights * total).sum()) + np.logaddexp(0, -lp) + np.logaddexp(0, lp)
        gradient = np.array(
            [
                -(r * u).sum() / s1,
                -(q * v).sum() / s0,
                -(r * (u * u - 1)).sum(),
                -(q * (v * v - 1)).sum(),
                -(r - weights * pi).sum() + 2 * pi - 1,
            ]
        )
        for direction, mean, deviation in terms:
            error = (direction @ p - mean) / deviation
            value += 0.5 * error * error
            gradient += direction * error / deviation
        return value, gradient

    bounds = [(None, None)] * 2 + [LOG_SD_RANGE] * 2 + [SHARE_RANGE]
    starts = [start.parameters] if start is not None else split_starts(s)
    optima = [minimize(loss, x, jac=True, method="L-BFGS-B", bounds=bounds) for x in starts]
    m1, m0, l1, l0, lp = min(optima, key=lambda each: float(each.fun)).x
    if m1 < m0:
        m1, m0, l1, l0, lp = m0, m1, l0, l1, -lp
    return Mixture(float(m1), float(m0), float(np.exp(l1)), float(np.exp(l0)), float(expit(lp)))


def one_class_log_likelihood(s: Floats, weights: Floats) -> float:
    """The weighted log likelihood of (n,) log odds by the likeliest skew-normal class (Azzalini
    1985), of which a normal one is a case."""
    n = float(weights.sum())
    mean = float((weights * s).sum() / n)
    deviation = float(np.sqrt((weights * np.square(s - mean)).sum() / n)) + 1e-9
    normal = float(
        (
            weights * (0.5 * np.square((s - mean) / deviation) + np.log(deviation) + _LOG_ROOT_2PI)
        ).sum()
    )

    def loss(p: Floats) -> float:
        x = (s - p[0]) / np.exp(p[1])
        density = np.log(2) - 0.5 * x * x - _LOG_ROOT_2PI - p[1] + log_ndtr(p[2] * x)
        return -float((weights * density).sum())

    skewed = min(
        minimize(
            loss,
            np.array([mean - side * deviation, np.log(1.2 * deviation), 4.0 * side]),
            method="L-BFGS-B",
            bounds=[(None, None), (-8.0, 4.0), _SKEW_RANGE],
        ).fun
        for side in (-0.9, 0.9)
    )
    return -min(normal, float(skewed))


def priors(reference: Reference) -> list[tuple[Floats, float, float]]:
    """Normal priors on directions of the parameters: direction, mean, standard deviation."""
    measured = reference.is_measured
    log1, log0 = np.log(reference.standard_deviation), np.log(reference.non_standard_deviation)
    middle = (reference.standard_mean + reference.non_standard_mean) / 2
    return [
        (np.array([0.5, 0.5, 0, 0, 0]), middle, _MIDPOINT_SD),
        (
            np.array([1.0, -1, 0, 0, 0]),
            reference.distance,
            _DISTANCE_SD[measured] * reference.distance,
        ),
        (np.array([0, 0, 0.5, 0.5, 0]), float(log1 + log0) / 2, _SPREAD_SD[measured]),
        (np.array([0.0, 0, 1, -1, 0]), float(log1 - log0), _RATIO_SD[measured]),
    ]


def split_starts(s: Floats) -> list[Floats]:
    """Starting parameters from a cut of the log odds at some quantiles."""
    starts = []
    for share in STARTS:
        cut = np.quantile(s, share)
        upper, lower = s[s > cut], s[s <= cut]
        if not len(upper) or not len(lower):
            continue
        within = len(upper) * upper.var() + len(lower) * lower.var()
        spread = np.log(np.sqrt(within / len(s)) + 0.3)
        starts.append(np.array([upper.mean(), lower.mean(), spread, spread, logit(1 - share)]))
    return starts or [np.array([s.mean() + 1, s.mean() - 1, 0.5, 0.5, 0.0])]
