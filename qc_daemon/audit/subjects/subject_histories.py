"""Histories of measures week by week, their control charts, and trends of persons."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from scipy import stats

from qc_daemon.audit.measures import Frame, Kind, Outcomes, iter_outcomes, standard
from qc_daemon.audit.rows import UNDECIDED
from qc_daemon.audit.statistics.benchmark import Floats, Ints, Trials, compare
from qc_daemon.audit.statistics.control_charts import (
    ewma_chart,
    limit_for_run_length,
    risk_adjusted_weights,
)
from qc_daemon.audit.statistics.history import (
    DAYS_OF_WEEK,
    LEAST_OF_MEAN,
    LEAST_OF_SHARE,
    LimitKey,
    Limits,
    PointLimits,
    Points,
    history,
    mean_points,
    rounded,
    share_points,
    week_of,
    weeks_of_points,
    with_least,
)
from qc_daemon.audit.statistics.proportions import MIN_JUDGED, WARNING
from qc_daemon.audit.statistics.trends import trends
from qc_daemon.audit.subjects.subject_measures import ADJUSTED_BY, SubjectMeasures, new_measure

CUSUM_RATIO, CUSUM_RUN_LENGTH = 2.0, 5000.0
"""A risk-adjusted CUSUM looks for doubled (and halved) odds of failing, and signals by chance once
in so many images of a person in control."""


EWMA_WEIGHT, EWMA_WIDTH = 0.1, 2.7


WITH_HISTORY = ("standard", "completion", "exam-score")


_TREND_AT = 0.001
"""Persons with a trend of this p are no measure of a device's drift."""


def add_histories(
    measures: SubjectMeasures,
    frame: Frame,
    kind: Kind,
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    """Add the weeks of the measures that have a history, and the CUSUM of persons."""
    names = frame.names(kind)
    for outcomes in _history_measures(frame):
        trials = frame.trials(outcomes, kind)
        day = frame.rows.day[outcomes.row]
        order = np.argsort(trials.subject, kind="stable")
        ends = np.searchsorted(trials.subject[order], np.arange(len(names) + 1))
        cusums = _cusums(frame, outcomes, trials) if _has_cusum(outcomes, kind) else None
        for subject in measures.by_subject:
            own = order[ends[subject] : ends[subject + 1]]
            measure = measures.by_subject[subject].get(outcomes.name)
            if measure is None:
                continue
            points = share_points(*complete_weeks(trials.outcome[own], day[own], frame))
            of = (kind, names[subject])
            set_history(measure, points, frame, of, stored, limits)
            if kind == "person":
                values = trials.outcome[own]
                set_own_trend(measure, values, day[own], frame, of, stored, limits)
            if cusums is not None:
                measure["cusum"] = cusums.of(own, day[own], frame)


def add_group_history(
    everybody: SubjectMeasures, frame: Frame, stored: Limits, limits: dict[LimitKey, PointLimits]
) -> None:
    """Add the weeks of all subjects together."""
    for outcomes in _history_measures(frame):
        measure = everybody.by_subject.get(0, {}).get(outcomes.name)
        if measure is not None:
            day = frame.rows.day[outcomes.row]
            points = share_points(*complete_weeks(outcomes.outcome, day, frame))
            set_history(measure, points, frame, ("group", ""), stored, limits)


def add_trends(measures: SubjectMeasures, frame: Frame) -> list[int]:
    """The trend of each person over the whole history; returns those who have one."""
    rows = frame.rows
    outcomes = standard(frame, rows.is_view & (rows.verdict != UNDECIDED))
    subjects = len(rows.persons)
    if not subjects or not len(outcomes.row):
        return []
    trials = frame.trials(outcomes, "person")
    comparison = compare(trials, subjects, frame.cells)
    result = trends(trials, comparison, rows.day[outcomes.row], subjects)
    z = float(stats.norm.ppf(1 - WARNING))
    for subject in np.flatnonzero(result.n).tolist():
        slope, error = float(result.slope[subject]), float(result.error[subject])
        p = result.p_values[subject]
        measure = new_measure("trend", "log-odds/year", int(result.n[subject]), "high")
        measure |= {
            "value": rounded(slope),
            "low": rounded(slope - z * error),
            "high": rounded(slope + z * error),
            "judged": bool(np.isfinite(p)),
        }
        if np.isfinite(p):
            measure["adjusted"] = {
                "value": rounded(slope),
                "low": rounded(slope - z * error),
                "high": rounded(slope + z * error),
                "expected": 0.0,
                "overall": 0.0,
                "p": rounded(float(p), 12),
                "q": None,
                "by": ADJUSTED_BY["person"],
            }
            measures.trend_p_values[subject, "trend"] = float(p)
            measures.effects[subject, "trend"] = slope
        measures.add(subject, measure)
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(result.p_values < _TREND_AT).tolist()


def set_history(
    measure: dict[str, Any],
    points: Points,
    frame: Frame,
    of: tuple[str, str],
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    bundles = frame.model_of_week
    weeks, signals, new_limits = history(points, stored, *of, measure["name"], bundles)
    measure["history"], measure["signals"] = weeks, signals
    limits.update(new_limits)


def set_own_trend(
    measure: dict[str, Any],
    values: Floats,
    day: Ints,
    frame: Frame,
    of: tuple[str, str],
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    """A person's points of as many weeks as have enough of hers; nothing where a week has."""
    is_share = measure["name"] in WITH_HISTORY
    least = LEAST_OF_SHARE if is_share else LEAST_OF_MEAN
    week = week_of(day)
    weeks = weeks_of_points(week, least)
    if weeks == 1:
        return
    block = week // weeks
    over = (block + 1) * weeks * DAYS_OF_WEEK <= frame.last_day
    every = (share_points if is_share else mean_points)(values[over], block[over])
    points = with_least(every, least)
    # Limits are stored with each point; those of other periods are others.
    name = f"{measure['name']}/{weeks}-weeks"
    rows, signals, new = history(points, stored, *of, name, frame.model_of_week, weeks)
    limits.update(new)
    measure["own_trend"] = {
        "weeks": weeks,
        "least": least,
        "left_out": len(every.n) - len(points.n),
        "points": rows,
        "signals": signals,
    }


def complete_weeks(values: Floats, day: Ints, frame: Frame) -> tuple[Floats, Ints]:
    """Values and weeks of the weeks that are over."""
    week = week_of(day)
    over = (week + 1) * 7 <= frame.last_day
    return values[over], week[over]


def weekly_ewma(values: Floats, day: Ints, own: Floats, target: float) -> dict[str, Any] | None:
    """EWMA of log MoM about what others have; a point a week."""
    if len(own) < 2 or not own.std() or not len(values):
        return None
    chart = ewma_chart(values, target, float(own.std(ddof=1)), EWMA_WEIGHT, EWMA_WIDTH)
    week = week_of(day)
    last = np.flatnonzero(np.append(np.diff(week) > 0, True))
    return {
        "weight": EWMA_WEIGHT,
        "width": EWMA_WIDTH,
        "points": [
            {
                "date": date.fromordinal(int(day[place])).isoformat(),
                "value": rounded(chart.values[place]),
                "centre": rounded(chart.centre[place]),
                "low": rounded(chart.low[place]),
                "high": rounded(chart.high[place]),
            }
            for place in last.tolist()
        ],
    }


def _history_measures(frame: Frame) -> Iterable[Outcomes]:
    every = np.ones(len(frame.rows), bool)
    for outcomes in iter_outcomes(frame, every):
        if outcomes.name in WITH_HISTORY:
            yield outcomes
        if outcomes.name == "standard":
            return


def _has_cusum(outcomes: Outcomes, kind: Kind) -> bool:
    return outcomes.name == "standard" and kind == "person"


@dataclass(frozen=True, slots=True, eq=False)
class _Cusums:
    """Weights (n,) of each trial for worse and for better odds, and where sums signal."""

    worse: Floats
    better: Floats
    limit: float

    def of(self, own: Ints, day: Ints, frame: Frame) -> dict[str, Any] | None:
        """The sums of a person at the end of each week that is over, by its points of history.

        A sum that passes the limit begins again (Steiner 2000); its week has the value that did.
        """
        _, week = complete_weeks(np.zeros(len(own)), day, frame)
        own = own[: len(week)] if len(week) < len(own) else own
        if not len(week):
            return None
        last = np.flatnonzero(np.append(np.diff(week) > 0, True))
        sums = {}
        for name, weights in (("upper", self.worse), ("lower", self.better)):
            sums[name] = [
                rounded(each, 4) for each in _sums_by_week(weights[own], last.tolist(), self.limit)
            ]
        return {"limit": rounded(self.limit, 4), "ratio": CUSUM_RATIO, **sums}


def _sums_by_week(weights: Floats, last: Sequence[int], limit: float) -> list[float]:
    """The sum after each place of `last`, or what passed the limit since the one before."""
    by_week, total, start = list[float](), 0.0, 0
    for end in last:
        signal = None
        for weight in weights[start : end + 1].tolist():
            total = max(0.0, total + weight)
            if total > limit:
                signal, total = total, 0.0
        by_week.append(total if signal is None else signal)
        start = end + 1
    return by_week


def _cusums(frame: Frame, outcomes: Outcomes, trials: Trials) -> _Cusums | None:
    """Risk-adjusted CUSUMs (Steiner 2000): the risk is what others would have had of the case, on
    the device in that quarter."""
    subjects = len(frame.names("person"))
    comparison = compare(trials, subjects, frame.cells)
    risk = np.clip(1 - (trials.outcome - comparison.residual), 0.01, 0.99)
    if len(risk) < MIN_JUDGED:
        return None
    sample = np.quantile(risk, np.linspace(0.01, 0.99, 50))
    limit = limit_for_run_length(sample, CUSUM_RATIO, CUSUM_RUN_LENGTH, states=100)
    failures = 1 - trials.outcome
    return _Cusums(
        risk_adjusted_weights(failures, risk, CUSUM_RATIO),
        risk_adjusted_weights(failures, risk, 1 / CUSUM_RATIO),
        limit,
    )
