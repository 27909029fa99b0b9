"""Measures of persons, devices and sites in the window: shares of pictures and exams, compared with
what others would have had of the same cases, and seconds a view."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from qc_daemon.audit.measures import Frame, Kind, Outcomes, seconds_per_view
from qc_daemon.audit.statistics.benchmark import Bools, Comparison, Ints, compare
from qc_daemon.audit.statistics.history import count, rounded, wilson
from qc_daemon.audit.statistics.proportions import (
    ALARM,
    FunnelLimits,
    Proportion,
    power,
    tail,
    two_sided,
)

WORSE_BY = 0.15
"""The power is that to call somebody whose share is lower by this."""


ADJUSTED_BY = {
    "person": ["view", "gestational-age", "bmi", "device", "quarter"],
    "device": ["view", "gestational-age", "bmi", "person"],
    "site": ["view", "gestational-age", "bmi"],
}


@dataclass
class SubjectMeasures:
    """The measures of the subjects of a kind, as they are collected."""

    by_subject: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    p_values: dict[tuple[int, str], float] = field(default_factory=dict)
    trend_p_values: dict[tuple[int, str], float] = field(default_factory=dict)
    effects: dict[tuple[int, str], float] = field(default_factory=dict)
    standard: Comparison | None = None

    def add(self, subject: int, measure: dict[str, Any]) -> None:
        self.by_subject.setdefault(subject, {})[measure["name"]] = measure


def new_measure(
    name: str, unit: str, n: int, is_better: str, view: str | None = None
) -> dict[str, Any]:
    """A measure's JSON keys, without a value yet; a name "failure:CODE" is of a criterion."""
    return {
        "name": name,
        "view": view,
        "criterion": name.partition(":")[2] if "failure:" in name else None,
        "unit": unit,
        "x": None,
        "n": n,
        "value": None,
        "low": None,
        "high": None,
        "is_better": is_better,
        "limits": None,
        "judged": False,
        "power": None,
        "flag": None,
        "rule": None,
        "adjusted": None,
        "unadjusted": None,
        "signals": [],
        "cusum": None,
        "ewma": None,
        "history": [],
        "own_trend": None,
    }


def add_group(everybody: SubjectMeasures, outcomes: Outcomes) -> None:
    """Add what is counted of all subjects together, as subject 0."""
    if len(outcomes.outcome):
        everybody.add(
            0, share_measure(outcomes, float(outcomes.outcome.sum()), len(outcomes.outcome))
        )


def add_shares(measures: SubjectMeasures, frame: Frame, outcomes: Outcomes, kind: Kind) -> None:
    """Add what is counted of each subject: its share with Wilson's interval, and what others with
    the same cases have."""
    trials = frame.trials(outcomes, kind)
    subjects = len(frame.names(kind))
    if not subjects or not len(outcomes.outcome):
        return
    comparison = compare(trials, subjects, frame.cells) if outcomes.is_judged else None
    if outcomes.name == "standard":
        measures.standard = comparison
    own = trials.subject >= 0
    n = np.bincount(trials.subject[own], minlength=subjects)
    x = np.bincount(trials.subject[own], trials.outcome[own], minlength=subjects)
    for subject in np.flatnonzero(n).tolist():
        measure = share_measure(outcomes, float(x[subject]), int(n[subject]))
        if comparison is not None:
            measure |= _comparison(comparison, subject, outcomes, kind)
            p = comparison.p_values[subject]
            if np.isfinite(p):
                measures.p_values[subject, outcomes.name] = float(p)
                measures.effects[subject, outcomes.name] = float(comparison.effect[subject])
        measures.add(subject, measure)


def add_seconds(measures: SubjectMeasures, frame: Frame, window: Bools, kind: Kind) -> None:
    """Seconds a view: the median of the exams with its exact interval; nobody is judged by it."""
    seconds, row = seconds_per_view(frame, window)
    subject = subject_of_exams(frame, row, kind)
    for each in np.unique(subject[subject >= 0]).tolist():
        values = np.sort(seconds[subject == each])
        n = len(values)
        # Ranks between which the median lies with 95 % (binomial).
        low = int(stats.binom.ppf(0.025, n, 0.5))
        high = min(n - 1, int(stats.binom.ppf(0.975, n, 0.5)))
        measure = new_measure("seconds-per-view", "s", n, "none")
        measures.add(
            each,
            measure
            | {
                "value": rounded(float(np.median(values)), 1),
                "low": rounded(values[max(0, low - 1)], 1),
                "high": rounded(values[high], 1),
            },
        )


def subject_of_exams(frame: Frame, row: Ints, kind: Kind) -> Ints:
    rows = frame.rows
    if kind == "person":
        return frame.exam_person[rows.exam[row]]
    return (rows.device if kind == "device" else rows.site)[row]


def share_measure(outcomes: Outcomes, x: float, n: int) -> dict[str, Any]:
    """x of n with Wilson's 95 % interval, as JSON values."""
    measure = new_measure(outcomes.name, "1", n, outcomes.is_better, outcomes.view)
    low, high = wilson(np.array([x]), np.array([float(n)]))
    return measure | {
        "x": count(x),
        "value": rounded(x / n),
        "low": rounded(low[0]),
        "high": rounded(high[0]),
    }


def _comparison(
    comparison: Comparison, subject: int, outcomes: Outcomes, kind: Kind
) -> dict[str, Any]:
    """The keys of a measure that others are needed for."""
    adjusted = comparison.adjusted(subject)
    funnel = comparison.limits(subject)
    values: dict[str, Any] = {"judged": bool(comparison.is_judged[subject])}
    n = int(comparison.n[subject])
    if adjusted is None or funnel is None:
        return values
    value, low, high = adjusted
    expected = float(comparison.expected[subject])
    # Without the cases: the plain funnel about everybody's share.
    share = Proportion(min(n, round(float(comparison.x[subject]))), n)
    plain = two_sided(tail(share, comparison.overall))
    values["adjusted"] = {
        "value": rounded(value),
        "low": rounded(low),
        "high": rounded(high),
        "expected": rounded(expected),
        "overall": rounded(comparison.overall),
        "p": rounded(float(comparison.p_values[subject]), 12),
        "q": None,
        "by": ADJUSTED_BY[kind],
    }
    values["unadjusted"] = {
        "p": rounded(plain, 12),
        "flag": "alarm" if values["judged"] and plain < 2 * ALARM else None,
    }
    target = expected / n
    values["limits"] = _limits(funnel, target, comparison.between, comparison, subject)
    if values["judged"]:
        worse = target - WORSE_BY if outcomes.is_better == "high" else target + WORSE_BY
        if 0 < worse < 1 and 0 < target < 1:
            values["power"] = rounded(_power(comparison, subject, target, worse))
    return values


def _power(comparison: Comparison, subject: int, target: float, worse: float) -> float:
    """The chance to be beyond the outer limit with a true share of `worse`."""
    n = max(1, round(comparison.n[subject] / max(1.0, comparison.scale)))
    if comparison.between == 0:
        return power(target, n, worse)
    funnel = comparison.limits(subject)
    assert funnel is not None
    edge = funnel.low_alarm if worse < target else funnel.high_alarm
    error = np.sqrt(worse * (1 - worse) / n)
    return float(stats.norm.cdf((edge - worse) / error * (1 if worse < target else -1)))


def _limits(
    funnel: FunnelLimits, target: float, between: float, comparison: Comparison, subject: int
) -> dict[str, Any]:
    own = int(comparison.n[subject])
    return {
        "target": rounded(target),
        "low_alarm": rounded(funnel.low_alarm),
        "low_warning": rounded(funnel.low_warning),
        "high_warning": rounded(funnel.high_warning),
        "high_alarm": rounded(funnel.high_alarm),
        "between": rounded(between),
        "others": int(comparison.n.sum()) - own,
    }
