"""Site calibration from reviewed findings: bias and slope by a prior and the reviews (MAP)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from detector.anatomy import View
from model.calibration import Isotonic
from model.site.samples import Floats, Samples
from model.site.site_map import MAX_OFFSET, MAX_SLOPE, MIN_SLOPE, SiteMap, bounded, capped

BIAS_SD, LOG_SLOPE_SD = 1.5, 0.3
"""Standard deviations of the prior about the fit without labels, or about no change."""
OFFSET_SD = 0.5
"""Of a view's or a device's offset about the site's map: partial pooling (Gelman and Hill 2007)."""
MIN_REVIEWS = 10
MIN_OF_GROUP, MIN_CLASS_OF_GROUP = 50, 10
"""A view or a device has an offset of its own from so many reviews, and so many of each class."""
MIN_ISOTONIC, MIN_CLASS_ISOTONIC, MIN_STANDARD_ERRORS = 200, 50, 2.0
"""Isotonic is tried from so many reviews, and chosen where its log loss, exams left out in turn,
is lower by so many standard errors of the difference."""
_MAX_FOLDS = 200
_FEWER_FOLDS = 20


@dataclass(frozen=True, slots=True)
class Groups:
    """The views and devices with an offset of their own, and the rows of each: (n, g) 0 or 1."""

    views: tuple[View, ...]
    devices: tuple[str, ...]
    rows: Floats

    @classmethod
    def of(cls, samples: Samples) -> "Groups":
        y = samples.labels()
        views = _large([row.view for row in samples.rows], y)
        devices = _large([row.device for row in samples.rows], y)
        columns = [[row.view == view for row in samples.rows] for view in views]
        columns += [[row.device == device for row in samples.rows] for device in devices]
        rows = np.array(columns, float).T if columns else np.zeros((len(samples.rows), 0))
        return cls(tuple(map(View, views)), tuple(map(str, devices)), rows)


def fit_reviewed(samples: Samples, prior: SiteMap) -> SiteMap:
    """The map of reviewed findings, `prior` being the fit without labels (or no change).

    Each review weighs as many findings as it stands for. Raises ValueError where `find_problem`
    has something to say.
    """
    problem = find_problem(samples)
    if problem:
        raise ValueError(problem)
    line = _fit_line(samples, prior)
    if line.views or line.devices or not _can_be_isotonic(samples):
        return line
    gain = left_out_loss(samples, prior, isotonic=False) - left_out_loss(
        samples, prior, isotonic=True
    )
    by_exam = np.bincount(samples.exam, weights=gain - gain.mean())
    error = float(np.sqrt(np.square(by_exam).sum()) / len(gain))
    return _fit_isotonic(samples, prior) if gain.mean() > MIN_STANDARD_ERRORS * error else line


def find_problem(samples: Samples) -> str | None:
    """Why nothing can be fitted to these reviews; None where it can."""
    y = samples.labels()
    if len(y) < MIN_REVIEWS:
        return f"{len(y)} review{'' if len(y) == 1 else 's'}, and at least {MIN_REVIEWS} are needed"
    if y.min() == y.max():
        return "the reviews are all of one verdict: review some of the other"
    return None


def left_out_log_odds(samples: Samples, prior: SiteMap, *, isotonic: bool = False) -> Floats:
    """(n,) log odds of each review by a map fitted without its exam.

    Of over `_MAX_FOLDS` exams a twentieth is left out at a time.
    """
    log_odds = np.zeros(len(samples.rows))
    for is_left_out in _folds(samples):
        others = samples.at(np.flatnonzero(~is_left_out))
        if isotonic and others.labels().min() < others.labels().max():
            fitted = _fit_isotonic(others, prior)
        else:
            fitted = _fit_line(others, prior)
        for row in np.flatnonzero(is_left_out):
            of = samples.rows[row]
            log_odds[row] = fitted.log_odds_of(samples.log_odds[row], of.view, of.device)
    return log_odds


def left_out_loss(samples: Samples, prior: SiteMap, *, isotonic: bool) -> Floats:
    """(n,) log loss of each review by a map fitted without its exam."""
    odds = left_out_log_odds(samples, prior, isotonic=isotonic)
    return np.asarray(np.logaddexp(0, np.where(samples.labels() == 1, -odds, odds)))


def _folds(samples: Samples) -> Iterator[npt.NDArray[np.bool_]]:
    count = samples.exams if samples.exams <= _MAX_FOLDS else _FEWER_FOLDS
    for fold in range(count):
        yield samples.exam % count == fold


def _fit_line(samples: Samples, prior: SiteMap) -> SiteMap:
    s, y, weights = samples.log_odds, samples.labels(), samples.review_weights()
    groups = Groups.of(samples)
    prior_bias, prior_log_slope = prior.bias, float(np.log(prior.slope))

    def loss(p: Floats) -> tuple[float, Floats]:
        slope = np.exp(p[1])
        t = slope * s + p[0] + groups.rows @ p[2:]
        error = weights * (expit(t) - y)
        pulls = np.concatenate(
            (
                [(p[0] - prior_bias) / BIAS_SD, (p[1] - prior_log_slope) / LOG_SLOPE_SD],
                p[2:] / OFFSET_SD,
            )
        )
        gradient = np.concatenate(
            ([error.sum(), (error * slope * s).sum()], groups.rows.T @ error)
        ) + pulls / np.concatenate(
            ([BIAS_SD, LOG_SLOPE_SD], np.full(groups.rows.shape[1], OFFSET_SD))
        )
        value = float((weights * (np.logaddexp(0, t) - y * t)).sum())
        return value + 0.5 * float(pulls @ pulls), gradient

    start = np.zeros(2 + groups.rows.shape[1])
    start[:2] = prior_bias, prior_log_slope
    slopes = (float(np.log(MIN_SLOPE)), float(np.log(MAX_SLOPE)))
    bounds = [(None, None), slopes, *[(-MAX_OFFSET, MAX_OFFSET)] * groups.rows.shape[1]]
    optimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    bias, slope = capped(float(optimum[0]), float(np.exp(optimum[1])))
    offsets = optimum[2:].tolist()
    return SiteMap(
        bias,
        slope,
        dict(zip(groups.views, offsets, strict=False)),
        dict(zip(groups.devices, offsets[len(groups.views) :], strict=True)),
    )


def _fit_isotonic(samples: Samples, prior: SiteMap) -> SiteMap:
    """The steps, or the line where these do not rise, are one, or shift by more than a map may."""
    line = _fit_line(samples, prior)
    if line.views or line.devices:
        return line
    try:
        fitted = Isotonic.fit(samples.log_odds, samples.labels())
        values = bounded(np.array(fitted.log_odds))
        return SiteMap(line.bias, line.slope, knots=fitted.logits, values=tuple(values.tolist()))
    except ValueError:
        # Shares of two pools that differ by a rounding error only do not rise.
        return line


def _can_be_isotonic(samples: Samples) -> bool:
    """Enough reviews of each class, which stand for equally many findings."""
    y, weights = samples.labels(), samples.review_weights()
    enough = len(y) >= MIN_ISOTONIC and min(y.sum(), (1 - y).sum()) >= MIN_CLASS_ISOTONIC
    return bool(enough and np.ptp(weights) < 1e-9)


def _large(values: Sequence[str | None], y: Floats) -> list[str]:
    """The values with enough reviews of both classes; none where only one has: its offset would
    rank its pictures anew among the rest."""
    large = []
    for value in sorted({each for each in values if each is not None}):
        of = y[[each == value for each in values]]
        if len(of) >= MIN_OF_GROUP and min(of.sum(), (1 - of).sum()) >= MIN_CLASS_OF_GROUP:
            large.append(value)
    return large if len(large) > 1 else []
