"""Control charts: what happens to one person or device as time goes on.

Montgomery, Introduction to Statistical Quality Control (7th ed.); Laney 2002 (Qual. Eng. 14:531);
Steiner et al. 2000 (Biostatistics 1:441); Hawkins and Olwell, Cumulative Sum Charts (1998).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

Floats = npt.NDArray[np.float64]

SIGMAS = 3.0
RUN = 8
"""So many points in a row on one side of the centre are an alarm. With the 3 sigma limits a process
in control raises one in 153 points on average (Champ and Woodall 1987)."""
_RANGE_CONSTANT = 1.128  # d2 of two: a mean moving range is so many standard deviations.
_MOVING_RANGE = 2.66  # 3 / d2
_RANGE_LIMIT = 3.267  # D4 of two: a larger moving range is left out, once.


class Rule(StrEnum):
    """Why a point is marked. Two of three is a note, and no alarm."""

    BEYOND = "beyond-limit"
    RUN = "eight-on-one-side"
    TWO_OF_THREE = "two-of-three"


ALARMS = (Rule.BEYOND, Rule.RUN)


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Points with the centre and limits that each is judged by, all (points,)."""

    values: Floats
    centre: Floats
    low: Floats
    high: Floats

    @property
    def scores(self) -> Floats:
        """(points,) distances from the centre in standard deviations, the limits being three away.

        By the wider side: limits are symmetric but where a share's end at 0 or 1.
        """
        reach = np.maximum(self.high_reach, self.low_reach)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = SIGMAS * (self.values - self.centre) / reach
        return np.nan_to_num(scores, nan=0.0)

    @property
    def high_reach(self) -> Floats:
        return self.high - self.centre

    @property
    def low_reach(self) -> Floats:
        return self.centre - self.low

    def signals(self) -> list[tuple[int, Rule]]:
        """(index of a point, rule) for each that is broken there, in the order of the points."""
        return [
            (index, rule)
            for index in range(len(self.values))
            for rule in Rule
            if _CHECKS[rule](self, index)
        ]


def _is_beyond(chart: Chart, index: int) -> bool:
    return bool(chart.values[index] > chart.high[index] or chart.values[index] < chart.low[index])


def _ends_run(chart: Chart, index: int) -> bool:
    if index + 1 < RUN:
        return False
    sides = np.sign(chart.values - chart.centre)[index + 1 - RUN : index + 1]
    return bool(abs(sides.sum()) == RUN)


def _ends_two_of_three(chart: Chart, index: int) -> bool:
    last = chart.scores[max(0, index - 2) : index + 1]
    return any(side * last[-1] > 2 and (side * last > 2).sum() >= 2 for side in (1, -1))


_CHECKS = {Rule.BEYOND: _is_beyond, Rule.RUN: _ends_run, Rule.TWO_OF_THREE: _ends_two_of_three}


def p_chart(counts: npt.ArrayLike, sizes: npt.ArrayLike, target: float | None = None) -> Chart:
    """Shares, about their common share or a target, with 3 sigma of the binomial.

    Raises ValueError where a size is 0 or below its count, or the target is no share.
    """
    x, n = _counts_and_sizes(counts, sizes)
    centre = float(x.sum() / n.sum()) if target is None else target
    if not 0 <= centre <= 1:
        raise ValueError(f"a target of {centre} is no share")
    reach = SIGMAS * np.sqrt(centre * (1 - centre) / n)
    return _chart_of_shares(x / n, centre, reach)


def p_prime_chart(counts: npt.ArrayLike, sizes: npt.ArrayLike) -> Chart:
    """p' chart: as `p_chart`, with limits that also hold the variation between periods, from the
    mean moving range of the scores. Raises ValueError as `p_chart`, and for fewer than two
    periods."""
    x, n = _counts_and_sizes(counts, sizes)
    if len(x) < 2:
        raise ValueError("two periods at least are needed to say how they vary")
    centre = float(x.sum() / n.sum())
    errors = np.sqrt(centre * (1 - centre) / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.nan_to_num((x / n - centre) / errors)
    between = float(np.abs(np.diff(scores)).mean()) / _RANGE_CONSTANT
    return _chart_of_shares(x / n, centre, SIGMAS * errors * between)


def xmr_chart(values: npt.ArrayLike) -> Chart:
    """Individual values about their mean, with limits from the mean moving range; ranges beyond
    3.267 times that are left out once. Raises ValueError for fewer than two values, or one that is
    not finite."""
    x = _finite(values)
    if len(x) < 2:
        raise ValueError("two values at least are needed to say how they vary")
    ranges = np.abs(np.diff(x))
    usual = ranges[ranges <= _RANGE_LIMIT * ranges.mean()]
    reach = _MOVING_RANGE * float(usual.mean())
    centre = np.full(len(x), x.mean())
    return Chart(x, centre, centre - reach, centre + reach)


def ewma_chart(
    values: npt.ArrayLike, mean: float, deviation: float, weight: float = 0.1, width: float = 2.7
) -> Chart:
    """Exponentially weighted moving averages of values with this mean and standard deviation;
    limits of each point's own variance. Neighbouring averages are alike: of the rules only BEYOND
    says anything of them, unless the weight is 1.

    Raises ValueError unless 0 < weight <= 1, and on a value that is not finite.
    """
    if not 0 < weight <= 1:
        raise ValueError(f"a weight of {weight} is not above 0 and at most 1")
    x = _finite(values)
    averages = np.array(
        list(accumulate(x, lambda z, value: weight * value + (1 - weight) * z, initial=mean))[1:]
    )
    variance = weight / (2 - weight) * (1 - (1 - weight) ** (2 * np.arange(1, len(x) + 1)))
    reach = width * deviation * np.sqrt(variance)
    centre = np.full(len(x), mean)
    return Chart(averages, centre, centre - reach, centre + reach)


@dataclass(frozen=True, slots=True, eq=False)
class Cusum:
    """Upper and lower sums (points,), both at least 0; `limit` is where they signal."""

    upper: Floats
    lower: Floats
    limit: float

    @property
    def first_signal(self) -> int | None:
        """The index of the first point beyond the limit."""
        beyond = np.flatnonzero(np.maximum(self.upper, self.lower) > self.limit)
        return int(beyond[0]) if len(beyond) else None


def cusum(values: npt.ArrayLike, mean: float, slack: float, limit: float) -> Cusum:
    """Tabular CUSUM: sums of what lies more than `slack` above, and below, the mean. Raises
    ValueError on a value that is not finite: a sum would begin anew there, and say nothing."""
    x = _finite(values) - mean
    return Cusum(_sum_up(x - slack), _sum_up(-x - slack), limit)


def self_starting_cusum(values: npt.ArrayLike, slack: float = 0.5, limit: float = 5.0) -> Cusum:
    """CUSUM of values whose mean and deviation are not known beforehand (Hawkins 1987): each is
    compared with those before it, and its t score made a normal one. Points 0 and 1 are 0. Raises
    ValueError on a value that is not finite."""
    x = _finite(values)
    scores = np.zeros(len(x))
    for n in range(3, len(x) + 1):
        before = x[: n - 1]
        deviation = before.std(ddof=1)
        if deviation > 0:
            t = (x[n - 1] - before.mean()) / deviation * np.sqrt((n - 1) / n)
            # Far out the t distribution's own tail is 0 or 1.
            p = np.clip(stats.t.cdf(t, n - 2), 1e-12, 1 - 1e-12)
            scores[n - 1] = stats.norm.ppf(p)
    return cusum(scores, 0.0, slack, limit)


def risk_adjusted_weights(outcomes: npt.ArrayLike, risks: npt.ArrayLike, ratio: float) -> Floats:
    """(n,) log likelihood ratios of each outcome (1: failed) if the odds of failing are `ratio`
    times those of its risk (Steiner et al. 2000)."""
    y, p = np.asarray(outcomes, float), np.asarray(risks, float)
    return np.asarray(y * np.log(ratio) - np.log(1 - p + ratio * p))


def risk_adjusted_cusum(
    outcomes: npt.ArrayLike, risks: npt.ArrayLike, ratio: float, limit: float
) -> Cusum:
    """Upper sums for odds of failing that are `ratio` times what the risks say, lower ones for
    odds that are lower by as much."""
    return Cusum(
        _sum_up(risk_adjusted_weights(outcomes, risks, ratio)),
        _sum_up(risk_adjusted_weights(outcomes, risks, 1 / ratio)),
        limit,
    )


def average_run_length(
    risks: npt.ArrayLike, ratio: float, limit: float, *, true_ratio: float = 1.0, states: int = 400
) -> float:
    """Pictures until one of a risk-adjusted CUSUM's sides signals, on average: a Markov chain over
    `states` of the sum (Knoth et al. 2019); infinite where the sum never rises. Risks are drawn
    from the (n,) given ones; failures happen at `true_ratio` times their odds."""
    p = np.asarray(risks, float)
    failure_risks = expit(logit(p) + np.log(true_ratio))
    steps = np.concatenate([risk_adjusted_weights(np.full(len(p), y), p, ratio) for y in (1, 0)])
    masses = np.concatenate((failure_risks, 1 - failure_risks)) / len(p)
    if not (steps[masses > 0] > 0).any():
        return float("inf")
    width = 2 * limit / (2 * states - 1)
    # Each step lands between two states, and is shared so that its mean is right.
    offset = steps / width
    whole = np.floor(offset).astype(int)
    share = offset - whole
    kernel: dict[int, float] = {}
    for step, mass in zip(
        np.concatenate((whole, whole + 1)),
        np.concatenate((masses * (1 - share), masses * share)),
        strict=True,
    ):
        kernel[int(step)] = kernel.get(int(step), 0.0) + float(mass)
    chain = np.zeros((states, states))
    rows = np.arange(states)
    for step, mass in kernel.items():
        target = np.maximum(rows + step, 0)
        inside = target < states
        np.add.at(chain, (rows[inside], target[inside]), mass)
    lengths = np.linalg.solve(np.eye(states) - chain, np.ones(states))
    return float(lengths[0])


def limit_for_run_length(
    risks: npt.ArrayLike, ratio: float, run_length: float, states: int = 200
) -> float:
    """The limit at which pictures of these risks, in control, signal once in `run_length` on
    average. Raises ValueError on a run length below 2."""
    if run_length < 2:
        raise ValueError(f"a run length of {run_length} is too short")
    low, high = 0.05, 0.5
    while average_run_length(risks, ratio, high, states=states) < run_length:
        low, high = high, 2 * high
    while high - low > 0.005:
        middle = (low + high) / 2
        if average_run_length(risks, ratio, middle, states=states) < run_length:
            low = middle
        else:
            high = middle
    return high


def _sum_up(steps: Floats) -> Floats:
    sums = accumulate(steps.tolist(), lambda total, step: max(0.0, total + step), initial=0.0)
    return np.array(list(sums)[1:], float)


def _counts_and_sizes(counts: npt.ArrayLike, sizes: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, n = np.asarray(counts, float), np.asarray(sizes, float)
    x, n = np.broadcast_arrays(x, n)
    if not len(x) or (n <= 0).any():
        raise ValueError("every period needs pictures: leave out those without")
    # Counts may be sums of shares, which are right to some digits.
    if not ((x >= 0) & (x <= n * (1 + 1e-9))).all():
        raise ValueError("a count is no number from 0 to its size")
    return x, n


def _finite(values: npt.ArrayLike) -> Floats:
    x = np.asarray(values, float)
    if not np.isfinite(x).all():
        raise ValueError("a value is not finite")
    return x


def _chart_of_shares(shares: Floats, centre: float, reach: Floats) -> Chart:
    middle = np.full(len(shares), centre)
    return Chart(shares, middle, np.maximum(middle - reach, 0.0), np.minimum(middle + reach, 1.0))


def two_sided_run_length(upper: float, lower: float) -> float:
    """The run length of two one-sided charts that are watched together (Kemp 1961)."""
    return 1 / (1 / upper + 1 / lower)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of a baseline; raises ValueError for fewer than two values, or one that is not finite."""
    if len(values) < 2:
        raise ValueError("two values at least are needed to say how they vary")
    x = _finite(values)
    return float(x.mean()), float(x.std(ddof=1))
