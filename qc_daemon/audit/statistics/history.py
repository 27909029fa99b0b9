"""Weekly points of a measure with the limits that they were judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from scipy import stats

from qc_daemon.audit.statistics.benchmark import Floats, Ints
from qc_daemon.audit.statistics.control_charts import Chart, p_prime_chart, xmr_chart

DAYS_OF_WEEK = 7
PERIODS = (1, 4, 13)
"""Weeks of a point of a person's own trend: a week, four, a quarter of a year."""
LEAST_OF_SHARE, LEAST_OF_MEAN = 20, 10
"""A point of a person's own trend is of at least so many pictures; of a mean so many exams. Of five
pictures a share of 0.8 has an interval from 0.38 to 0.96, which shows no trend."""
_Z = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, slots=True)
class LimitKey:
    """Which week of which measure of which subject; `starts_on` in ISO 8601, a Monday."""

    kind: str
    subject: str
    measure: str
    starts_on: str


@dataclass(frozen=True, slots=True)
class PointLimits:
    """Centre and limits of a point."""

    centre: float
    low: float
    high: float


Limits = Mapping[LimitKey, PointLimits]


def week_of(day: Ints) -> Ints:
    """Weeks from Monday to Sunday, counted from the first day of the calendar."""
    return np.asarray((day - 1) // DAYS_OF_WEEK)


def starts_on(week: int) -> date:
    """The Monday of a week."""
    return date.fromordinal(week * DAYS_OF_WEEK + 1)


def ends_on(week: int) -> date:
    """The Sunday of a week."""
    return date.fromordinal((week + 1) * DAYS_OF_WEEK)


def wilson(x: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Wilson intervals (95 %) of many shares at once; every n is above 0."""
    p, z2 = x / n, _Z**2
    centre = (x + z2 / 2) / (n + z2)
    half = _Z * np.sqrt(np.maximum(p * (1 - p) * n + z2 / 4, 0)) / (n + z2)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """A measure's weeks (w,) with values and 95 % intervals; x is None for means."""

    week: Ints
    x: Floats | None
    n: Ints
    value: Floats
    low: Floats
    high: Floats


def share_points(outcome: Floats, week: Ints) -> Points:
    """Weekly shares of outcomes (n,) 0..1."""
    weeks, place = np.unique(week, return_inverse=True)
    n = np.bincount(place, minlength=len(weeks))
    x = np.bincount(place, outcome, minlength=len(weeks)).astype(float)
    low, high = wilson(x, n.astype(float)) if len(weeks) else (x, x)
    return Points(weeks, x, n, x / np.maximum(n, 1), low, high)


def mean_points(values: Floats, week: Ints) -> Points:
    """Weekly means of values (n,); the interval is of the values' common spread."""
    weeks, place = np.unique(week, return_inverse=True)
    n = np.bincount(place, minlength=len(weeks))
    mean = np.bincount(place, values, minlength=len(weeks)) / np.maximum(n, 1)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    reach = _Z * spread / np.sqrt(np.maximum(n, 1))
    return Points(weeks, None, n, mean, mean - reach, mean + reach)


def with_least(points: Points, least: int) -> Points:
    """Those of at least so many."""
    enough = points.n >= least
    return Points(
        points.week[enough],
        None if points.x is None else points.x[enough],
        points.n[enough],
        points.value[enough],
        points.low[enough],
        points.high[enough],
    )


def weeks_of_points(week: Ints, least: int) -> int:
    """Of how many weeks a person's points are, where values are of these weeks (n,): the shortest
    of PERIODS of which nine points of ten have at least so many, else the longest."""
    for weeks in PERIODS:
        n = np.unique(week // weeks, return_counts=True)[1]
        if len(n) and float(np.quantile(n, 0.1)) >= least:
            return weeks
    return PERIODS[-1]


def chart_of(points: Points) -> Chart | None:
    """The control chart of the points: p' of shares, XmR of means; None for fewer than two."""
    if len(points.week) < 2:
        return None
    if points.x is None:
        return xmr_chart(points.value)
    return p_prime_chart(points.x, points.n)


def history(
    points: Points,
    stored: Limits,
    kind: str,
    subject: str,
    measure: str,
    bundle: Mapping[int, str],
    weeks: int = 1,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[LimitKey, PointLimits]]:
    """The points as JSON, the chart's signals, and the limits of weeks that had none stored.

    `bundle` is the model id of most images in a week. A point is of so many `weeks`, which
    `points.week` counts.
    """
    chart = chart_of(points)
    if chart is None:
        centre, low, high = (np.full(len(points.week), np.nan) for _ in range(3))
    else:
        centre, low, high = chart.centre.copy(), chart.low.copy(), chart.high.copy()
    new = dict[LimitKey, PointLimits]()
    for place, week in enumerate(points.week.tolist()):
        key = LimitKey(kind, subject, measure, starts_on(week * weeks).isoformat())
        known = stored.get(key)
        if known is not None:
            centre[place], low[place], high[place] = known.centre, known.low, known.high
        elif chart is not None:
            new[key] = PointLimits(*(rounded(each[place]) or 0.0 for each in (centre, low, high)))
    rows = [
        {
            "from": starts_on(week * weeks).isoformat(),
            "to": ends_on(week * weeks + weeks - 1).isoformat(),
            "x": None if points.x is None else count(points.x[place]),
            "n": int(points.n[place]),
            "value": rounded(points.value[place]),
            "low": rounded(points.low[place]),
            "high": rounded(points.high[place]),
            "centre": rounded(centre[place]),
            "low_limit": rounded(low[place]),
            "high_limit": rounded(high[place]),
            "model_id": next(
                (
                    bundle[each]
                    for each in range(week * weeks + weeks - 1, week * weeks - 1, -1)
                    if each in bundle
                ),
                None,
            ),
        }
        for place, week in enumerate(points.week.tolist())
    ]
    signals = []
    if chart is not None and np.isfinite(centre).all():
        judged = Chart(points.value, centre, low, high)
        signals = [{"at": at, "rule": rule.value} for at, rule in judged.signals()]
    return rows, signals, new


def count(value: float) -> int | float:
    """A sum of outcomes: whole where they are 0 or 1."""
    return int(value) if float(value).is_integer() else float(round(value, 4))


def rounded(value: float | None, digits: int = 6) -> float | None:
    """A number as it is written; None for what is not finite."""
    if value is None or not np.isfinite(value):
        return None
    # No negative zero.
    return round(float(value), digits) + 0.0
