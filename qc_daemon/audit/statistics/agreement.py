"""How far readers agree: chance-corrected, with what misleads beside it.

Cohen's kappa falls where one answer is rare, however well readers agree, so that Gwet's AC1, the
prevalence and the table itself stand beside it. Intervals are of resampled exams, for pictures of
one exam are no independent evidence. Readings of somebody who knew the other answer are none.
Cohen 1960; Fleiss 1971; Gwet 2008 (Br. J. Math. Stat. Psychol. 61:29); Shrout and Fleiss 1979.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Figures of a table (k, k) of two readers' answers; NaN where there is nothing to correct.

    `chance` figures are each (observed - expected) / (1 - expected), with their own expectation.
    """

    table: Ints
    observed: float
    kappa: float
    pi: float
    ac1: float
    uniform: float  # Bennett et al. 1954, as Brennan and Prediger: each answer is as likely.
    prevalence: Floats  # (k,) Mean share of each answer over both readers.

    @classmethod
    def of(cls, table: npt.ArrayLike) -> "Agreement":
        """Of counts: row i, column j for answer i of the first and j of the second reader.

        Raises ValueError on a table that is not square or is empty.
        """
        counts = np.asarray(table, np.int64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.sum() == 0:
            raise ValueError("a square table with at least one picture is needed")
        p = counts / counts.sum()
        rows, columns = p.sum(axis=1), p.sum(axis=0)
        mean = (rows + columns) / 2
        observed, k = float(np.trace(p)), len(counts)
        ac1 = float((mean * (1 - mean)).sum() / (k - 1)) if k > 1 else 1.0
        return cls(
            counts,
            observed,
            _corrected(observed, float(rows @ columns)),
            _corrected(observed, float(mean @ mean)),
            _corrected(observed, ac1),
            _corrected(observed, 1 / k),
            mean,
        )

    @property
    def weighted_kappa(self) -> float:
        """Kappa with weights that fall by the distance of the answers in their order."""
        p = self.table / self.table.sum()
        steps = np.arange(len(p))
        weights = 1 - np.abs(steps[:, None] - steps[None, :]) / max(1, len(p) - 1)
        expected = np.outer(p.sum(axis=1), p.sum(axis=0))
        return _corrected(float((weights * p).sum()), float((weights * expected).sum()))

    def kappa_error(self) -> float:
        """Standard error of kappa for independent pictures (Fleiss, Cohen and Everitt 1969)."""
        p, n = self.table / self.table.sum(), self.table.sum()
        rows, columns = p.sum(axis=1), p.sum(axis=0)
        expected = float(rows @ columns)
        if expected >= 1:
            return float("nan")
        diagonal = np.diag(p)
        first = (diagonal * np.square(1 - (rows + columns) * (1 - self.kappa))).sum()
        cross = p * np.square(columns[:, None] + rows[None, :])
        second = (1 - self.kappa) ** 2 * (cross.sum() - np.trace(cross))
        third = (self.kappa - expected * (1 - self.kappa)) ** 2
        # Of perfect agreement nothing is left but rounding, which may be below 0.
        return float(np.sqrt(max(0.0, first + second - third) / n) / (1 - expected))


def cross_table(
    first: Sequence[Hashable], second: Sequence[Hashable], answers: Sequence[Hashable]
) -> Ints:
    """(k, k) counts of the readers' answers, in the order of `answers`.

    Raises ValueError where they are not equally many, or an answer is none of these.
    """
    place = {answer: index for index, answer in enumerate(answers)}
    table = np.zeros((len(answers), len(answers)), np.int64)
    for one, other in zip(first, second, strict=True):
        if one not in place or other not in place:
            raise ValueError("an answer is none of those that are counted")
        table[place[one], place[other]] += 1
    return table


EXACT_BELOW = 25
"""Of so many differing pairs on McNemar's test is the chi-square one."""


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of pairs that differ: `method` is "exact" (binomial, two-sided) or
    "chi-square" (with continuity correction, 1 degree of freedom)."""

    method: str
    p: float


def mcnemar(first_only: int, second_only: int) -> McNemar:
    """Whether pairs differ more often one way than the other (McNemar 1947; Edwards 1948).

    The counts are of pairs with yes of the first only, and of the second only. Raises ValueError
    for a negative one.
    """
    if min(first_only, second_only) < 0:
        raise ValueError("counts of pairs are not negative")
    n = first_only + second_only
    if n < EXACT_BELOW:
        p = float(stats.binomtest(min(first_only, second_only), n).pvalue) if n else 1.0
        return McNemar("exact", p)
    chi_square = max(0, abs(first_only - second_only) - 1) ** 2 / n
    return McNemar("chi-square", float(stats.chi2.sf(chi_square, 1)))


def bootstrap_tables(
    cells: Ints,
    groups: Sequence[Hashable],
    number_of_cells: int,
    figures: Mapping[str, Callable[[Ints], float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile intervals of figures of the counts of cells (n,), over resampled groups;
    NaN without any. The cost of a resample grows with the groups, not with the rows."""
    places: dict[Hashable, int] = {}
    group = np.array([places.setdefault(each, len(places)) for each in groups], np.int64)
    if not places:
        return dict.fromkeys(figures, (float("nan"), float("nan")))
    counts = np.zeros((len(places), number_of_cells), np.int64)
    np.add.at(counts, (group, cells), 1)
    generator = np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(resamples):
        sample = generator.integers(len(places), size=len(places))
        table = np.bincount(sample, minlength=len(places)) @ counts
        for name, figure in figures.items():
            values[name].append(figure(table))
    return {name: _percentiles(each) for name, each in values.items()}


def fleiss_kappa(counts: npt.ArrayLike) -> float:
    """Of (pictures, k) counts of each answer by equally many readers a picture.

    Raises ValueError where readers are not equally many, or fewer than two.
    """
    n = np.asarray(counts, float)
    readers = n.sum(axis=-1)
    if n.ndim != 2 or len(n) == 0 or readers[0] < 2 or (readers != readers[0]).any():
        raise ValueError("each picture needs equally many readers, two at least")
    shares = n.sum(axis=0) / n.sum()
    observed = float(((n * (n - 1)).sum(axis=1) / (readers * (readers - 1))).mean())
    return _corrected(observed, float(shares @ shares))


@dataclass(frozen=True, slots=True)
class IntraclassCorrelation:
    """Of (targets, raters) scores, by Shrout and Fleiss: form ("1,1", "2,1", "3,1", "1,k", "2,k",
    "3,k"), the value, and its 95 % interval."""

    form: str
    value: float
    low: float
    high: float


def intraclass_correlations(scores: npt.ArrayLike) -> dict[str, IntraclassCorrelation]:
    """All six forms. Raises ValueError for fewer than two targets or raters, a missing score, or
    scores of which targets, or raters' opinions of them, do not differ."""
    x = np.asarray(scores, float)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise ValueError("two targets and two raters at least, and every score, are needed")
    n, k = x.shape
    mean = x.mean()
    between = k * np.square(x.mean(axis=1) - mean).sum() / (n - 1)
    within = np.square(x - x.mean(axis=1, keepdims=True)).sum() / (n * (k - 1))
    raters = n * np.square(x.mean(axis=0) - mean).sum() / (k - 1)
    error = (within * n * (k - 1) - raters * (k - 1)) / ((n - 1) * (k - 1))
    if min(between, error, within) <= 1e-12 * np.square(x).max():
        raise ValueError("the scores do not vary enough to be compared")
    forms = {
        "1,1": _one_way(between, within, n, k),
        "2,1": _two_way_random(between, raters, error, n, k),
        "3,1": _two_way_fixed(between, error, n, k),
    }
    # The mean of k raters, by Spearman and Brown's prophecy.
    means = {
        form.replace(",1", ",k"): tuple(_step_up(value, k) for value in values)
        for form, values in forms.items()
    }
    return {form: IntraclassCorrelation(form, *values) for form, values in (forms | means).items()}


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of what is finite; NaN without any."""
    finite = np.array(values)[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def _corrected(observed: float, expected: float) -> float:
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def _step_up(value: float, k: int) -> float:
    return k * value / (1 + (k - 1) * value)


def _one_way(between: float, within: float, n: int, k: int) -> tuple[float, float, float]:
    ratio = between / within
    low = ratio / stats.f.ppf(0.975, n - 1, n * (k - 1))
    high = ratio * stats.f.ppf(0.975, n * (k - 1), n - 1)
    return _of_ratio(ratio, k), _of_ratio(low, k), _of_ratio(high, k)


def _two_way_fixed(between: float, error: float, n: int, k: int) -> tuple[float, float, float]:
    ratio = between / error
    low = ratio / stats.f.ppf(0.975, n - 1, (n - 1) * (k - 1))
    high = ratio * stats.f.ppf(0.975, (n - 1) * (k - 1), n - 1)
    return _of_ratio(ratio, k), _of_ratio(low, k), _of_ratio(high, k)


def _of_ratio(ratio: float, k: int) -> float:
    return float((ratio - 1) / (ratio + k - 1))


def _two_way_random(
    between: float, raters: float, error: float, n: int, k: int
) -> tuple[float, float, float]:
    value = (between - error) / (between + (k - 1) * error + k * (raters - error) / n)
    f_raters = raters / error
    numerator = (
        (k - 1) * (n - 1) * (k * value * f_raters + n * (1 + (k - 1) * value) - k * value) ** 2
    )
    denominator = (n - 1) * (k * value * f_raters) ** 2 + (
        n * (1 + (k - 1) * value) - k * value
    ) ** 2
    freedom = numerator / denominator
    f_low = stats.f.ppf(0.975, n - 1, freedom)
    f_high = stats.f.ppf(0.975, freedom, n - 1)
    common = k * raters + (k * n - k - n) * error
    low = n * (between - f_low * error) / (f_low * common + n * between)
    high = n * (f_high * between - error) / (common + n * f_high * between)
    return float(value), float(low), float(high)
