"""Whether persons, devices or sites differ from what others would have had of the same cases.

The case mix is taken out of counts, not of pictures, so that the cost does not grow with their
number (indirect standardisation): a logistic regression on the cells of view, gestational age and
body mass index; then, where images are made on shared devices, what the others had on the same
device in the same quarter. Whoever is judged is left out of the benchmark, and those far out are
left out of everybody's. Effects are log odds; how much they vary between subjects beyond chance is
additive (DerSimonian and Laird, from scores drawn in at their ends, as
`proportions.Overdispersion`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

from qc_daemon.audit.statistics.proportions import (
    ALARM,
    MIN_JUDGED,
    WARNING,
    WINSORISED,
    FunnelLimits,
    Proportion,
    funnel_limits,
    tail,
    two_sided,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BINS = 10
FAR_OUT = 3.0
"""Score beyond which a subject does not belong to anybody's benchmark."""
_LEAST_SHRINKAGE = 2.5
"""Information (ten pictures at a share of a half) that is at least added to each stratum."""
_MOST_SHRINKAGE = 1e6
_MOST_SHIFT = 3.0
_MIN_OTHERS, _MIN_EVENTS = 100, 20
"""Of fewer others there is no benchmark; of fewer outcomes of either kind it knows no cases."""
_RIDGE = 1.0
_TINY = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """What is counted (n,): outcomes 0..1, whose they are (negative: nobody's), the exam, the cell
    of its case, and the stratum (device and quarter) whose others it is compared with."""

    outcome: Floats
    subject: Ints
    exam: Ints
    cell: Ints
    stratum: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The design (cells, columns) of the regression; its first column is the constant."""

    design: Floats


def bins_of(values: Floats, bins: int = BINS) -> tuple[Ints, Floats]:
    """The bin of each value by deciles, the last one for NaN; and the mean of each bin,
    standardised, 0 for NaN."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), np.int64), np.zeros(1)
    edges = np.unique(np.quantile(values[known], np.arange(1, bins) / bins))
    bin_of = np.where(known, np.searchsorted(edges, values, side="right"), len(edges) + 1)
    count = np.bincount(bin_of, minlength=len(edges) + 2)
    sums = np.bincount(bin_of, np.where(known, values, 0.0), minlength=len(edges) + 2)
    mean, deviation = values[known].mean(), values[known].std() or 1.0
    middle = np.where(count > 0, (sums / np.maximum(count, 1) - mean) / deviation, 0.0)
    middle[-1] = 0.0
    return bin_of.astype(np.int64), middle


def make_cells(view: Ints, views: int, gestation: Floats, bmi: Floats) -> tuple[Ints, Cells]:
    """The cell of each row, and the design: views, and for age and body mass index the value, its
    square, and whether it is not known."""
    columns = []
    codes: Ints = view
    sizes = [views]
    for values in (gestation, bmi):
        bin_of, middle = bins_of(values)
        codes = codes * len(middle) + bin_of
        sizes.append(len(middle))
        columns.append(middle)
    cells = np.arange(int(np.prod(sizes)))
    places = np.unravel_index(cells, sizes)
    design = [np.ones(len(cells))]
    design += [(places[0] == each).astype(float) for each in range(1, views)]
    for place, middle in zip(places[1:], columns, strict=True):
        is_unknown = (place == len(middle) - 1).astype(float)
        value = middle[place]
        design += [value, np.where(is_unknown > 0, 0.0, np.square(value) - 1), is_unknown]
    return codes, Cells(np.array(design).T)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Subjects (k,) against the others: counts, expected counts, effects in log odds with their
    standard errors, and how much effects vary between subjects (`between`, a standard deviation).

    `scale` is how many times a binomial's the variance is; `expected` is NaN where there are too
    few others. `residual` (n,) is of each trial: outcome less what others would have had.
    """

    x: Floats
    n: Ints
    expected: Floats
    information: Floats
    effect: Floats
    error: Floats
    between: float
    scale: float
    overall: float
    residual: Floats
    chance: Floats

    @property
    def score(self) -> Floats:
        """(k,) Effects in their standard errors, variation between subjects included."""
        return self.effect / np.sqrt(np.square(self.error) + self.between**2)

    @cached_property
    def p_values(self) -> Floats:
        """(k,) Of both sides; NaN where nobody is judged: below MIN_JUDGED, or without others."""
        p = 2 * stats.norm.sf(np.abs(self.score))
        # Images of one exam that are alike count for fewer.
        scale = max(1.0, self.scale)
        for each in np.flatnonzero(self.is_judged):
            n = max(1, round(self.n[each] / scale))
            share = Proportion(min(n, round(self.x[each] / scale)), n)
            target = float(np.clip(self.expected[each] / self.n[each], _TINY, 1 - _TINY))
            # The exact tail decides where a normal one is too bold.
            p[each] = max(p[each], two_sided(tail(share, target)))
        return np.where(self.is_judged, p, np.nan)

    @property
    def is_judged(self) -> Bools:
        return np.asarray((self.n >= MIN_JUDGED) & np.isfinite(self.effect))

    @property
    def is_exact(self) -> Bools:
        """(k,) Whether subjects vary as a binomial has it."""
        return np.full(len(self.n), self.between == 0 and self.scale <= 1.0)

    def limits(self, subject: int) -> FunnelLimits | None:
        """The limits at the subject's n, about what others would have had."""
        if not np.isfinite(self.error[subject]) or not self.n[subject]:
            return None
        target = float(np.clip(self.expected[subject] / self.n[subject], _TINY, 1 - _TINY))
        if self.is_exact[subject]:
            return funnel_limits(target, int(self.n[subject]))
        reach = np.sqrt(self.error[subject] ** 2 + self.between**2)
        z = stats.norm.ppf([ALARM, WARNING, 1 - WARNING, 1 - ALARM])
        return FunnelLimits(*expit(logit(target) + z * reach).tolist())

    def adjusted(self, subject: int) -> tuple[float, float, float] | None:
        """The share with everybody's cases, and its 95 % interval."""
        if not np.isfinite(self.error[subject]) or not 0 < self.overall < 1:
            return None
        z = np.array([0.0, -1.0, 1.0]) * stats.norm.ppf(1 - WARNING)
        centre = logit(self.overall) + self.effect[subject]
        value, low, high = expit(centre + z * self.error[subject]).tolist()
        return value, low, high


def compare(trials: Trials, subjects: int, cells: Cells) -> Comparison:
    """Compare the subjects; those far out are left out of the benchmark in a second round."""
    is_reference = np.ones(subjects, bool)
    first = _compare(trials, subjects, cells, is_reference)
    with np.errstate(invalid="ignore"):
        far_out = first.is_judged & (np.abs(first.score) > FAR_OUT)
    # Of a lab where most are far out nothing would be left to compare with.
    if not far_out.any() or far_out.sum() * 3 > subjects:
        return first
    return _compare(trials, subjects, cells, is_reference & ~far_out)


def _compare(trials: Trials, subjects: int, cells: Cells, is_reference: Bools) -> Comparison:
    y, cell = trials.outcome, trials.cell
    count = len(cells.design)
    has_subject = trials.subject >= 0
    subject = np.where(has_subject, trials.subject, subjects)
    # Images that several persons share are part of everybody's benchmark, as nobody's own.
    reference = np.append(is_reference, True)[subject]
    own_n = _table(subject, cell, subjects + 1, count)
    own_x = _table(subject, cell, subjects + 1, count, y)
    all_n = np.bincount(cell[reference], minlength=count).astype(float)
    all_x = np.bincount(cell[reference], y[reference], minlength=count).astype(float)
    overall = float(all_x.sum() / all_n.sum()) if all_n.sum() else float("nan")
    common = _fit(cells.design, all_x, all_n, None)
    chance_common = _chances(cells.design, all_x, all_n, common)
    expected = np.full(subjects, np.nan)
    own_chance = np.tile(chance_common, (subjects + 1, 1))
    for each in range(subjects):
        n, x = own_n[each], own_x[each]
        others_n = all_n - (n if is_reference[each] else 0)
        others_x = all_x - (x if is_reference[each] else 0)
        if n.sum() == 0 or others_n.sum() < _MIN_OTHERS or not 0 < others_x.sum() < others_n.sum():
            continue
        own_chance[each] = _chances(cells.design, others_x, others_n, common)
        expected[each] = float(n @ own_chance[each])
    weight = (chance_common * (1 - chance_common))[cell]
    shift, extra = _strata(trials, y - chance_common[cell], weight, subject, subjects, reference)
    chance = np.clip(expit(logit(own_chance[subject, cell]) + shift), _TINY, 1 - _TINY)
    residual = y - chance
    binomial = chance * (1 - chance)
    sums = np.bincount(subject, binomial, minlength=subjects + 1)[:subjects]
    information = sums.astype(float)
    has_effect = np.isfinite(expected) & (information > 0)
    totals = np.bincount(subject, residual, minlength=subjects + 1)[:subjects]
    x = np.bincount(subject, y, minlength=subjects + 1)[:subjects].astype(float)
    n_of = np.bincount(subject, minlength=subjects + 1)[:subjects]
    safe = np.where(has_effect, information, 1.0)
    effect = np.where(has_effect, totals / safe, np.nan)
    scale = _scale(trials, residual - _own_mean(residual, subject, subjects), chance, has_subject)
    variance = scale * (safe + np.bincount(subject, extra, minlength=subjects + 1)[:subjects])
    error = np.where(has_effect, np.sqrt(variance) / safe, np.nan)
    is_judged = has_effect & (n_of >= MIN_JUDGED)
    between = np.sqrt(between_variance(effect[is_judged], error[is_judged]))
    return Comparison(
        x=x,
        n=n_of,
        expected=np.where(has_effect, x - totals, np.nan),
        information=information,
        effect=effect,
        error=error,
        between=float(between),
        scale=scale,
        overall=overall,
        residual=residual,
        chance=chance,
    )


def between_variance(effects: Floats, errors: Floats) -> float:
    """How much effects vary beyond their errors: DerSimonian and Laird's estimate from scores that
    are drawn in at the WINSORISED quantiles; 0 for fewer than three effects."""
    if len(effects) < 3:
        return 0.0
    weights = 1 / np.square(errors)
    centre = float((weights * effects).sum() / weights.sum())
    scores = (effects - centre) / errors
    bounds = np.quantile(scores, (WINSORISED, 1 - WINSORISED))
    winsorised = np.clip(scores, *bounds)
    # Drawing in takes variance away also where chance alone is at work.
    total = float(np.square(winsorised).sum()) / _WINSORISED_VARIANCE
    excess = total - (len(effects) - 1)
    spread = weights.sum() - np.square(weights).sum() / weights.sum()
    return max(0.0, excess / float(spread)) if spread > 0 else 0.0


def _drawn_variance() -> float:
    """Variance of a standard normal value that is drawn in at the WINSORISED quantiles."""
    c = stats.norm.ppf(1 - WINSORISED)
    inside = (1 - 2 * WINSORISED) - 2 * c * stats.norm.pdf(c)
    return float(inside + 2 * WINSORISED * c**2)


_WINSORISED_VARIANCE = _drawn_variance()


def _chances(design: Floats, x: Floats, n: Floats, start: Floats) -> Floats:
    """(cells,) The chance in each cell by the x of n; one for all where there are too few of
    either outcome to know more."""
    events = min(x.sum(), n.sum() - x.sum())
    if events < _MIN_EVENTS:
        rate = (x.sum() + 0.5) / (n.sum() + 1) if n.sum() else 0.5
        return np.full(len(design), float(np.clip(rate, _TINY, 1 - _TINY)))
    chances: Floats = np.clip(expit(design @ _fit(design, x, n, start)), _TINY, 1 - _TINY)
    return chances


def _table(rows: Ints, columns: Ints, n: int, m: int, weights: Floats | None = None) -> Floats:
    return np.bincount(rows * m + columns, weights, minlength=n * m).reshape(n, m).astype(float)


def _fit(design: Floats, x: Floats, n: Floats, start: Floats | None) -> Floats:
    """Coefficients of the logistic regression of x successes of n (cells,), a little shrunken."""
    has_trials = n > 0
    a, x, n = design[has_trials], x[has_trials], n[has_trials]
    beta = np.zeros(design.shape[1]) if start is None else start.copy()
    if start is None and n.sum():
        beta[0] = logit(np.clip(x.sum() / n.sum(), _TINY, 1 - _TINY))
    ridge = np.full(design.shape[1], _RIDGE)
    ridge[0] = 0.0
    for _ in range(25 if start is None else 3):
        p = np.clip(expit(a @ beta), _TINY, 1 - _TINY)
        gradient = a.T @ (x - n * p) - ridge * beta
        hessian = (a * (n * p * (1 - p))[:, None]).T @ a + np.diag(ridge + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return beta


def _strata(
    trials: Trials,
    residual: Floats,
    weight: Floats,
    subject: Ints,
    subjects: int,
    reference: Bools,
) -> tuple[Floats, Floats]:
    """(n,) What the others of a row's stratum had more than their cases say, in units of residual
    over weight (log odds, where the weight is a binomial's variance); and what its uncertainty adds
    to the variance of a subject's sum, a share a row."""
    if not len(trials.stratum) or trials.stratum.max() < 0:
        return np.zeros(len(residual)), np.zeros(len(residual))
    strata = int(trials.stratum.max()) + 1
    has_stratum = trials.stratum >= 0
    stratum = np.where(has_stratum, trials.stratum, 0)
    is_counted = has_stratum & reference
    w_all = np.bincount(stratum[is_counted], weight[is_counted], minlength=strata)
    s_all = np.bincount(stratum[is_counted], residual[is_counted], minlength=strata)
    unique, inverse = np.unique(subject * strata + stratum, return_inverse=True)
    w_own = np.bincount(inverse[is_counted], weight[is_counted], minlength=len(unique))
    s_own = np.bincount(inverse[is_counted], residual[is_counted], minlength=len(unique))
    place = unique % strata
    # Nobody leaves nobody's images out.
    is_own = unique // strata < subjects
    w_others = w_all[place] - np.where(is_own, w_own, 0.0)
    s_others = s_all[place] - np.where(is_own, s_own, 0.0)
    certain = np.maximum(w_others, 0.0) + _prior(s_all, w_all)
    shift = np.clip(s_others / certain, -_MOST_SHIFT, _MOST_SHIFT)
    sums = np.bincount(inverse[has_stratum], weight[has_stratum], minlength=len(unique))
    extra = weight * (sums / certain)[inverse]
    return np.where(has_stratum, shift[inverse], 0.0), np.where(has_stratum, extra, 0.0)


def _prior(sums: npt.NDArray[Any], weights: npt.NDArray[Any]) -> float:
    """The information to add to each stratum: the inverse of the variance between strata (moments),
    so that what is chance is not taken for what a device did."""
    squares = float(np.square(weights).sum())
    excess = float((np.square(sums) - weights).sum())
    # Of a sum of rare outcomes the square varies by its fourth moment.
    error = float(np.sqrt((2 * np.square(weights) + weights).sum()))
    if squares <= 0 or excess <= 2 * error:
        return _MOST_SHRINKAGE
    return float(np.clip(squares / excess, _LEAST_SHRINKAGE, _MOST_SHRINKAGE))


def _own_mean(residual: Floats, subject: Ints, subjects: int) -> Floats:
    n = np.bincount(subject, minlength=subjects + 1)
    return (np.bincount(subject, residual, minlength=subjects + 1) / np.maximum(n, 1))[subject]


def _scale(trials: Trials, residual: Floats, chance: Floats, has_subject: Bools) -> float:
    """How many times a binomial's the variance is: images of one exam are alike, and outcomes that
    are probabilities vary less."""
    if not has_subject.any():
        return 1.0
    sums = np.bincount(trials.exam[has_subject], residual[has_subject])
    binomial = (chance * (1 - chance))[has_subject].sum()
    return float(np.square(sums).sum() / binomial) if binomial > 0 else 1.0


def compare_means(
    values: Floats, subject: Ints, subjects: int, stratum: Ints
) -> tuple[Floats, Floats, Ints, float]:
    """Means of values (n,) by subject against the others of their strata: differences, their
    standard errors, counts, and the standard deviation between subjects.

    A subject is compared with others, and those far out are left out in a second round.
    """
    is_reference = np.ones(subjects, bool)
    result = _compare_means(values, subject, subjects, stratum, is_reference)
    effect, error, n, between = result
    with np.errstate(invalid="ignore", divide="ignore"):
        score = np.abs(effect) / np.sqrt(np.square(error) + between**2)
        far_out = (n >= MIN_JUDGED) & (score > FAR_OUT)
    if not far_out.any() or far_out.sum() * 3 > subjects:
        return result
    return _compare_means(values, subject, subjects, stratum, is_reference & ~far_out)


def _compare_means(
    values: Floats, subject: Ints, subjects: int, stratum: Ints, is_reference: Bools
) -> tuple[Floats, Floats, Ints, float]:
    subject = np.where(subject >= 0, subject, subjects)
    reference = np.append(is_reference, True)[subject]
    overall = values[reference].mean() if reference.any() else 0.0
    trials = Trials(values, subject, subject, subject, stratum)
    variance = float(np.square(values - overall).mean()) or 1.0
    # In units of the values' own spread, as the shrinkage is.
    weight = np.full(len(values), 1 / variance)
    shift, _ = _strata(trials, (values - overall) / variance, weight, subject, subjects, reference)
    total_n, total = reference.sum(), values[reference].sum()
    n = np.bincount(subject, minlength=subjects + 1)[:subjects]
    own = np.bincount(subject, values, minlength=subjects + 1)[:subjects]
    weight = np.where(is_reference, 1, 0)
    others_n = total_n - weight * n
    others = (total - weight * own) / np.maximum(others_n, 1)
    safe = np.maximum(n, 1)
    shift_mean = np.bincount(subject, shift, minlength=subjects + 1)[:subjects] / safe
    effect = np.where((n > 0) & (others_n >= MIN_JUDGED), own / safe - others - shift_mean, np.nan)
    within = values - _own_mean(values, subject, subjects)
    deviation = float(np.sqrt(np.square(within).sum() / max(1, len(values) - subjects)))
    error = deviation * np.sqrt(1 / safe + 1 / np.maximum(others_n, 1))
    is_judged = np.isfinite(effect) & (n >= MIN_JUDGED)
    between = float(np.sqrt(between_variance(effect[is_judged], error[is_judged])))
    return effect, error, n, between
