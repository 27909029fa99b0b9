"""Shares of n with their intervals, and the funnel that a person's share is judged in.

Funnel plots: Spiegelhalter 2005 (Stat. Med. 24:1185). A share is judged by the exact binomial tail;
the limits that are drawn are interpolated, so that they fall as n grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

WARNING, ALARM = 0.025, 0.001
"""Probability beyond each of the inner (95 %) and of the outer (99.8 %) limits."""
MIN_JUDGED = 30
"""Of fewer pictures nobody is judged (FMF USA, RANZCOG)."""
WINSORISED = 0.1
"""Share of the scores at each end that are drawn in before their spread is estimated."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """x of n; raises ValueError unless 0 <= x <= n."""

    x: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.x <= self.n:
            raise ValueError(f"{self.x} of {self.n} is no share")

    @property
    def value(self) -> float | None:
        """The share, 0..1; None of nothing."""
        return self.x / self.n if self.n else None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The Wilson interval (1927) at this confidence; 0 to 1 of nothing."""
        if not self.n:
            return 0.0, 1.0
        bounds = stats.binomtest(self.x, self.n).proportion_ci(level, method="wilson")
        return float(bounds.low), float(bounds.high)


@dataclass(frozen=True, slots=True)
class FunnelLimits:
    """Shares at one n: the outer (99.8 %) and inner (95 %) limits, low and high."""

    low_alarm: float
    low_warning: float
    high_warning: float
    high_alarm: float


def exact_limit(target: float, n: int, probability: float) -> float:
    """The share of n below which the probability lies, by the binomial of `target`, interpolated
    between its steps (Spiegelhalter 2005, A.1.1); at least 0.

    Raises ValueError unless 0 < target < 1 and n >= 1.
    """
    if not 0 < target < 1 or n < 1:
        raise ValueError(f"no limit for a target of {target} and n = {n}")
    r = int(stats.binom.ppf(probability, n, target))
    upper, lower = stats.binom.cdf((r, r - 1), n, target)
    return max(0.0, float(r - (upper - probability) / (upper - lower)) / n)


def funnel_limits(target: float, n: int) -> FunnelLimits:
    """The limits that are drawn at n."""
    return FunnelLimits(
        *(exact_limit(target, n, p) for p in (ALARM, WARNING, 1 - WARNING, 1 - ALARM))
    )


def tail(share: Proportion, target: float) -> float:
    """The smaller of the exact probabilities of so few, and of so many, under the target: what
    decides, where `funnel_limits` are only drawn."""
    few = stats.binom.cdf(share.x, share.n, target)
    many = stats.binom.sf(share.x - 1, share.n, target)
    return float(min(few, many))


def two_sided(tail_probability: float) -> float:
    """The p-value of a tail, both sides counted."""
    return min(1.0, 2 * tail_probability)


def power(target: float, n: int, share: float, level: float = ALARM) -> float:
    """The probability that a true `share` of n is called beyond the limit of this level on its side
    of the target; that of a false alarm on the lower side where they are the same."""
    if share > target:
        return power(1 - target, n, 1 - share, level)
    # The largest count whose lower tail is still below the level.
    count = int(stats.binom.ppf(level, n, target))
    count -= int(stats.binom.cdf(count, n, target) >= level)
    return float(stats.binom.cdf(count, n, share))


@dataclass(frozen=True)
class Overdispersion:
    """How much more the units' shares vary than chance, additive on the arcsine scale.

    As FunnelPlotR's method for proportions: Y = asin sqrt(p), s = 1 / (2 sqrt n), scores z against
    the shares' common target, drawn in at the WINSORISED quantiles; phi is the mean of z^2, tau^2
    the variance between units (DerSimonian and Laird's estimate, 0 where chance explains it all).
    """

    shares: tuple[Proportion, ...]
    winsorised: float = WINSORISED

    @classmethod
    def of(cls, shares: Sequence[Proportion]) -> "Overdispersion":
        """Of the units that have any picture; raises ValueError on fewer than two."""
        counted = tuple(share for share in shares if share.n)
        if len(counted) < 2:
            raise ValueError("two units at least are needed to say how they vary")
        return cls(counted)

    @cached_property
    def target(self) -> float:
        """The units' common share."""
        return float(sum(share.x for share in self.shares) / self._n.sum())

    @cached_property
    def scores(self) -> Floats:
        """(units,) z of each unit, before it is drawn in."""
        y = np.arcsin(np.sqrt([share.x / share.n for share in self.shares]))
        return (y - self._centre) / self._errors

    @cached_property
    def phi(self) -> float:
        """Mean square of the scores drawn in; 1 where units vary as chance has it."""
        bounds = np.quantile(self.scores, (self.winsorised, 1 - self.winsorised))
        return float(np.mean(np.square(np.clip(self.scores, *bounds))))

    @cached_property
    def variance(self) -> float:
        """tau^2, on the arcsine scale."""
        units = len(self.shares)
        if units * self.phi < units - 1:
            return 0.0
        w = 1 / np.square(self._errors)
        return max(
            0.0, float((units * self.phi - (units - 1)) / (w.sum() - np.square(w).sum() / w.sum()))
        )

    def limits(self, n: int) -> FunnelLimits:
        """The limits at n, which is at least 1, with the variation between units."""
        spread = np.sqrt(1 / (4 * n) + self.variance)
        z = stats.norm.ppf([ALARM, WARNING, 1 - WARNING, 1 - ALARM])
        # Clipped before squaring, for a squared sine turns back beyond the quarter.
        angles = np.clip(self._centre + z * spread, 0, np.pi / 2)
        return FunnelLimits(*np.square(np.sin(angles)).tolist())

    def z_score(self, share: Proportion) -> float:
        """The share's score with the variation between units."""
        if not share.n:
            return 0.0
        y = np.arcsin(np.sqrt(share.x / share.n))
        return float((y - self._centre) / np.sqrt(1 / (4 * share.n) + self.variance))

    @cached_property
    def _n(self) -> Floats:
        return np.array([share.n for share in self.shares], float)

    @cached_property
    def _errors(self) -> Floats:
        return 1 / (2 * np.sqrt(self._n))

    @cached_property
    def _centre(self) -> float:
        return float(np.arcsin(np.sqrt(self.target)))


def dispersion_test(counts: Sequence[int], n: int) -> tuple[float, float, float]:
    """Whether counts of n vary more than a binomial: observed over theoretical variance, the
    statistic D and its p-value (Wetherill and Brown 1991).

    Raises ValueError for fewer than two counts, or where none or all of every n are counted.
    """
    x = np.asarray(counts, float)
    if len(x) < 2 or not 0 < x.sum() < n * len(x):
        raise ValueError("counts that could vary are needed, two at least")
    share = x.mean() / n
    ratio = float(x.var(ddof=1) / (n * share * (1 - share)))
    statistic = ratio * (len(x) - 1)
    return ratio, statistic, float(stats.chi2.sf(statistic, len(x) - 1))


def adjust(p_values: npt.ArrayLike) -> Floats:
    """The p-values adjusted for their number (Benjamini and Hochberg 1995): those at most q are
    called at a false discovery rate of q."""
    values = np.asarray(p_values, float)
    if not values.size:
        return values
    return np.asarray(stats.false_discovery_control(values, method="bh"), float)
