"""Whether a person's own history goes up or down, other things being equal."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from qc_daemon.audit.statistics.benchmark import Comparison, Floats, Ints, Trials, between_variance
from qc_daemon.audit.statistics.proportions import MIN_JUDGED

YEAR = 365.25
LEAST_DAYS = 180
"""A history that is shorter has no trend."""


@dataclass(frozen=True, slots=True, eq=False)
class Trends:
    """(k,) Change of the log odds in a year, its standard error, the number of images and p; NaN
    where nothing can be said."""

    slope: Floats
    error: Floats
    n: Ints
    p_values: Floats


def trends(trials: Trials, comparison: Comparison, day: Ints, subjects: int) -> Trends:
    """The slope of each subject's residuals over time (n,): what the cases, the device and the
    quarter explain is taken out before, so that a change of all is nobody's own.
    """
    own = trials.subject >= 0
    subject = trials.subject[own]
    years = (day[own] - day.min()) / YEAR if len(day) else np.zeros(0)
    weight = (comparison.chance * (1 - comparison.chance))[own]
    residual = comparison.residual[own]
    total = np.maximum(np.bincount(subject, weight, minlength=subjects), 1e-9)
    centre = np.bincount(subject, weight * years, minlength=subjects) / total
    away = years - centre[subject]
    information = np.bincount(subject, weight * np.square(away), minlength=subjects)
    n = np.bincount(subject, minlength=subjects)
    span = _spans(years, subject, subjects)
    is_known = (n >= 2 * MIN_JUDGED) & (span >= LEAST_DAYS / YEAR) & (information > 0)
    safe = np.where(is_known, information, 1.0)
    slope = np.where(
        is_known, np.bincount(subject, residual * away, minlength=subjects) / safe, np.nan
    )
    error = np.where(is_known, np.sqrt(max(comparison.scale, 0.1) / safe), np.nan)
    between = between_variance(slope[is_known], error[is_known])
    with np.errstate(invalid="ignore"):
        p = 2 * stats.norm.sf(np.abs(slope) / np.sqrt(np.square(error) + between))
    return Trends(slope, error, n, np.where(is_known, p, np.nan))


def _spans(years: Floats, subject: Ints, subjects: int) -> Floats:
    low, high = np.full(subjects, np.inf), np.full(subjects, -np.inf)
    np.minimum.at(low, subject, years)
    np.maximum.at(high, subject, years)
    return np.where(np.isfinite(low), high - low, 0.0)
