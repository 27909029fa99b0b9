"""An audit: from rows of findings to what is said of persons, devices and sites.

A function of its arguments: the same rows, rules and stored limits give the same content.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from scipy import stats

from qc_daemon.audit.agreement import Agreement, bootstrap_interval, cross_table
from qc_daemon.audit.benchmark import (
    Bools,
    Comparison,
    Floats,
    Ints,
    Trials,
    between_variance,
    compare,
    compare_means,
)
from qc_daemon.audit.changes import ModelChange, model_changes
from qc_daemon.audit.control_charts import (
    ewma_chart,
    limit_for_run_length,
    risk_adjusted_weights,
)
from qc_daemon.audit.discoveries import adjust_families
from qc_daemon.audit.drift import NIGHTS, RECENT_DAYS, SIGNALS, Drift, drifts
from qc_daemon.audit.history import (
    LimitKey,
    Limits,
    PointLimits,
    Points,
    count,
    history,
    mean_points,
    rounded,
    share_points,
    week_of,
    wilson,
)
from qc_daemon.audit.measures import (
    KINDS,
    Counted,
    Frame,
    Kind,
    iter_counted,
    seconds_per_view,
    standard,
)
from qc_daemon.audit.nuchal import NuchalCurve, log_multiples
from qc_daemon.audit.proportions import (
    ALARM,
    MIN_JUDGED,
    WARNING,
    FunnelLimits,
    Proportion,
    adjust,
    power,
    tail,
    two_sided,
)
from qc_daemon.audit.rows import UNDECIDED, BundleKey, Rows
from qc_daemon.audit.trends import trends

FALSE_DISCOVERY_RATE = 0.05
WORSE_BY = 0.15
"""The power is that to call somebody whose share is lower by this."""
CUSUM_RATIO, CUSUM_RUN_LENGTH = 2.0, 5000.0
"""A risk-adjusted CUSUM looks for doubled (and halved) odds of failing, and signals by chance once
in so many images of a person in control."""
EWMA_WEIGHT, EWMA_WIDTH = 0.1, 2.7
WITH_HISTORY = ("standard", "completion", "exam-score")
EXAMPLES = 3
_TREND_AT = 0.001
"""Persons with a trend of this p are no measure of a device's drift."""


@dataclass(frozen=True, slots=True)
class AuditRules:
    """What the audit judges by; `last_day` is its date, and the window starts at `first_day` (both
    ordinals). `views`: what an exam should have."""

    first_day: int
    last_day: int
    views: tuple[str, ...]
    curve: NuchalCurve | None = None
    level: float = FALSE_DISCOVERY_RATE


@dataclass(frozen=True, slots=True)
class ReadingPair:
    """Two answers on one image, "standard" or "non-standard", and the image's exam."""

    first: str
    second: str
    exam: int


@dataclass(frozen=True, slots=True)
class Readings:
    """What readers said in the window: the models' and a blinded reader's answers, the first and
    the second reader's; and how many readings saw the models' answer before, which say nothing of
    agreement."""

    model_first: Sequence[ReadingPair] = ()
    first_second: Sequence[ReadingPair] = ()
    unblinded: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """The content (JSON values), and the limits of weeks that had none stored. Examples are ids of
    findings in `content`."""

    content: dict[str, Any]
    limits: dict[LimitKey, PointLimits]


@dataclass
class _Measures:
    """The measures of the subjects of a kind, as they are collected."""

    by_subject: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    p_values: dict[tuple[int, str], float] = field(default_factory=dict)
    trend_p_values: dict[tuple[int, str], float] = field(default_factory=dict)
    effects: dict[tuple[int, str], float] = field(default_factory=dict)
    standard: Comparison | None = None

    def add(self, subject: int, measure: dict[str, Any]) -> None:
        self.by_subject.setdefault(subject, {})[measure["name"]] = measure


def make_audit(
    rows: Rows,
    rules: AuditRules,
    *,
    stored: Limits,
    readings: Readings = Readings(),
    step: Callable[[float], None] = lambda _: None,
) -> Audit:
    """The audit of these rows; those before the window are history. `step` is told how far it is,
    0 to 1, and may raise to end it."""
    changes = model_changes(Frame(rows, rules.views, rules.last_day))
    frame = Frame(rows, rules.views, rules.last_day, tuple(each.day for each in changes))
    window = rows.day >= rules.first_day
    limits = dict[LimitKey, PointLimits]()
    by_kind = {kind: _Measures() for kind in KINDS}
    everybody = _Measures()
    for place, counted in enumerate(iter_counted(frame, window)):
        step(0.4 * place / (12 + 2 * len(rows.criteria)))
        _add_group(everybody, counted)
        for kind in KINDS:
            _add_shares(by_kind[kind], frame, counted, kind, rules)
    step(0.4)
    for kind in KINDS:
        _add_seconds(by_kind[kind], frame, window, kind)
        _add_nuchal(by_kind[kind], frame, window, kind, rules, stored, limits)
    step(0.5)
    trending = _add_trends(by_kind["person"], frame)
    for kind in KINDS:
        _add_histories(by_kind[kind], frame, kind, stored, limits)
    _add_group_history(everybody, frame, stored, limits)
    step(0.7)
    left_out = np.isin(rows.person, trending)
    device_drift = drifts(frame, "device", rules.level, left_out)
    moved = [each.subject for each in device_drift if each.is_alarm]
    # A site is not named for what one of its devices does.
    site_drift = drifts(frame, "site", rules.level, left_out | np.isin(rows.device, moved))
    step(0.9)
    subjects = []
    for kind in KINDS:
        _call(by_kind[kind], rules.level)
        subjects += _subjects(by_kind[kind], by_kind["device"], frame, kind, window)
    content = {
        "window": _period(rules.first_day, rules.last_day),
        "history": _period(int(rows.day.min()) if len(rows) else rules.first_day, rules.last_day),
        "bundle": _bundle_of_most(rows, window),
        "bundles": _bundles(rows),
        "data_sha256": rows.digest,
        "rules": _rules(rules),
        "counts": _counts(frame, window),
        "group": {"measures": list(everybody.by_subject.get(0, {}).values())},
        "subjects": subjects,
        "changes": [_change(each) for each in changes],
        "drift": [
            *(_drift(each, "device", frame) for each in device_drift),
            *(_drift(each, "site", frame) for each in site_drift),
        ],
        "agreement": _agreement(readings),
    }
    step(1.0)
    return Audit(content, limits)


# Measures of the window.


def _measure(
    name: str, unit: str, n: int, is_better: str, view: str | None = None
) -> dict[str, Any]:
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
    }


def _share(counted: Counted, x: float, n: int) -> dict[str, Any]:
    measure = _measure(counted.name, "1", n, counted.is_better, counted.view)
    low, high = wilson(np.array([x]), np.array([float(n)]))
    return measure | {
        "x": count(x),
        "value": rounded(x / n),
        "low": rounded(low[0]),
        "high": rounded(high[0]),
    }


def _add_group(everybody: _Measures, counted: Counted) -> None:
    if len(counted.outcome):
        everybody.add(0, _share(counted, float(counted.outcome.sum()), len(counted.outcome)))


def _add_shares(
    measures: _Measures, frame: Frame, counted: Counted, kind: Kind, rules: AuditRules
) -> None:
    trials = frame.trials(counted, kind)
    subjects = len(frame.names(kind))
    if not subjects or not len(counted.outcome):
        return
    comparison = compare(trials, subjects, frame.cells) if counted.is_judged else None
    if counted.name == "standard":
        measures.standard = comparison
    own = trials.subject >= 0
    n = np.bincount(trials.subject[own], minlength=subjects)
    x = np.bincount(trials.subject[own], trials.outcome[own], minlength=subjects)
    for subject in np.flatnonzero(n).tolist():
        measure = _share(counted, float(x[subject]), int(n[subject]))
        if comparison is not None:
            measure |= _comparison(comparison, subject, counted, kind)
            p = comparison.p_values[subject]
            if np.isfinite(p):
                measures.p_values[subject, counted.name] = float(p)
                measures.effects[subject, counted.name] = float(comparison.effect[subject])
        measures.add(subject, measure)


_ADJUSTED_BY = {
    "person": ["view", "gestational-age", "bmi", "device", "quarter"],
    "device": ["view", "gestational-age", "bmi", "person"],
    "site": ["view", "gestational-age", "bmi"],
}


def _comparison(
    comparison: Comparison, subject: int, counted: Counted, kind: Kind
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
        "by": _ADJUSTED_BY[kind],
    }
    values["unadjusted"] = {
        "p": rounded(plain, 12),
        "flag": "alarm" if values["judged"] and plain < 2 * ALARM else None,
    }
    target = expected / n
    values["limits"] = _limits(funnel, target, comparison.between, comparison, subject)
    if values["judged"]:
        worse = target - WORSE_BY if counted.is_better == "high" else target + WORSE_BY
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


def _add_seconds(measures: _Measures, frame: Frame, window: Bools, kind: Kind) -> None:
    """Seconds a view: the median of the exams with its exact interval; nobody is judged by it."""
    seconds, row = seconds_per_view(frame, window)
    subject = _subject_of_exams(frame, row, kind)
    for each in np.unique(subject[subject >= 0]).tolist():
        values = np.sort(seconds[subject == each])
        n = len(values)
        # Ranks between which the median lies with 95 % (binomial).
        low = int(stats.binom.ppf(0.025, n, 0.5))
        high = min(n - 1, int(stats.binom.ppf(0.975, n, 0.5)))
        measure = _measure("seconds-per-view", "s", n, "none")
        measures.add(
            each,
            measure
            | {
                "value": rounded(float(np.median(values)), 1),
                "low": rounded(values[max(0, low - 1)], 1),
                "high": rounded(values[high], 1),
            },
        )


def _subject_of_exams(frame: Frame, row: Ints, kind: Kind) -> Ints:
    rows = frame.rows
    if kind == "person":
        return frame.exam_person[rows.exam[row]]
    return (rows.device if kind == "device" else rows.site)[row]


def _add_nuchal(
    measures: _Measures,
    frame: Frame,
    window: Bools,
    kind: Kind,
    rules: AuditRules,
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    """Bias and spread of log10 MoM, with the history of the bias."""
    every = np.ones(len(frame.rows), bool)
    values, row = log_multiples(frame, every, rules.curve)
    subjects, inside = len(frame.names(kind)), window[row]
    subject = _subject_of_exams(frame, row, kind)
    if not subjects or not inside.any():
        return
    device = frame.rows.device[row]
    stratum = device if kind == "person" else np.full(len(row), -1)
    now = np.flatnonzero(inside)
    effect, error, n, between = compare_means(values[now], subject[now], subjects, stratum[now])
    spreads, spread_errors, spread_between = _spreads(values[now], subject[now], subjects)
    for each in np.flatnonzero(n).tolist():
        own = values[now][subject[now] == each]
        is_judged = bool(n[each] >= MIN_JUDGED and np.isfinite(effect[each]))
        bias = _measure("nt-bias", "log10", int(n[each]), "none", "NT")
        reach = float(stats.norm.ppf(1 - WARNING)) * error[each]
        mean = float(own.mean())
        bias |= {"value": rounded(mean), "judged": is_judged}
        bias |= {"low": rounded(mean - reach), "high": rounded(mean + reach)}
        target = mean - float(effect[each]) if np.isfinite(effect[each]) else 0.0
        if np.isfinite(effect[each]):
            score = effect[each] / np.sqrt(error[each] ** 2 + between**2)
            p = 2 * float(stats.norm.sf(abs(score)))
            bias["limits"] = _mean_limits(target, error[each], between, int(n.sum() - n[each]))
            bias["adjusted"] = {
                "value": rounded(float(effect[each])),
                "low": rounded(float(effect[each]) - reach),
                "high": rounded(float(effect[each]) + reach),
                "expected": rounded(target),
                "overall": rounded(float(values[now].mean())),
                "p": rounded(p, 12),
                "q": None,
                "by": ["crl", "device"] if kind == "person" else ["crl"],
            }
            if is_judged:
                measures.p_values[each, "nt-bias"] = p
                measures.effects[each, "nt-bias"] = float(effect[each])
        is_own = subject == each
        all_values, day = values[is_own], frame.rows.day[row[is_own]]
        points = mean_points(*_complete(all_values, day, frame))
        _set_history(bias, points, frame, (kind, frame.names(kind)[each]), stored, limits)
        bias["ewma"] = _ewma(all_values, day, own, target)
        measures.add(each, bias)
        spread = _measure("nt-spread", "log10", int(n[each]), "low", "NT")
        if len(own) > 1 and own.std() > 0:
            z = float(stats.norm.ppf(1 - WARNING)) * spread_errors[each]
            deviation = float(own.std(ddof=1))
            spread |= {
                "value": rounded(deviation),
                "low": rounded(deviation * float(np.exp(-z))),
                "high": rounded(deviation * float(np.exp(z))),
                "judged": is_judged,
            }
            if is_judged and np.isfinite(spreads[each]):
                score = spreads[each] / np.hypot(spread_errors[each], spread_between)
                measures.p_values[each, "nt-spread"] = 2 * float(stats.norm.sf(abs(score)))
                measures.effects[each, "nt-spread"] = float(spreads[each])
        measures.add(each, spread)


def _mean_limits(target: float, error: float, between: float, others: int) -> dict[str, Any]:
    reach = float(np.hypot(error, between))
    z = stats.norm.ppf([ALARM, WARNING, 1 - WARNING, 1 - ALARM]) * reach + target
    names = ("low_alarm", "low_warning", "high_warning", "high_alarm")
    drawn = {name: rounded(each) for name, each in zip(names, z.tolist(), strict=True)}
    return {"target": rounded(target), **drawn, "between": rounded(between), "others": others}


def _spreads(values: Floats, subject: Ints, subjects: int) -> tuple[Floats, Floats, float]:
    """Logarithms of each subject's spread over the usual one, their errors, and how much spreads
    vary between subjects. A normal variable's log spread has the error 1 / sqrt(2 (n - 1))."""
    logs, errors = np.full(subjects, np.nan), np.full(subjects, np.nan)
    for each in np.unique(subject[subject >= 0]).tolist():
        own = values[subject == each]
        if len(own) > 1 and own.std() > 0:
            logs[each] = np.log(own.std(ddof=1))
            errors[each] = 1 / np.sqrt(2 * (len(own) - 1))
    n = np.bincount(subject[subject >= 0], minlength=subjects)
    judged = np.isfinite(logs) & (n >= MIN_JUDGED)
    if not judged.any():
        return np.full(subjects, np.nan), errors, 0.0
    usual = float(np.median(logs[judged]))
    between = np.sqrt(between_variance(logs[judged] - usual, errors[judged]))
    return logs - usual, errors, float(between)


def _ewma(values: Floats, day: Ints, own: Floats, target: float) -> dict[str, Any] | None:
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


# Histories.


def _complete(values: Floats, day: Ints, frame: Frame) -> tuple[Floats, Ints]:
    """Values and weeks of the weeks that are over."""
    week = week_of(day)
    over = (week + 1) * 7 <= frame.last_day
    return values[over], week[over]


def _set_history(
    measure: dict[str, Any],
    points: Points,
    frame: Frame,
    of: tuple[str, str],
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    bundles = frame.model_of_week
    drawn, signals, new = history(points, stored, *of, measure["name"], bundles)
    measure["history"], measure["signals"] = drawn, signals
    limits.update(new)


def _history_measures(frame: Frame) -> Iterable[Counted]:
    every = np.ones(len(frame.rows), bool)
    for counted in iter_counted(frame, every):
        if counted.name in WITH_HISTORY:
            yield counted
        if counted.name == "standard":
            return


def _add_histories(
    measures: _Measures,
    frame: Frame,
    kind: Kind,
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    names = frame.names(kind)
    for counted in _history_measures(frame):
        trials = frame.trials(counted, kind)
        day = frame.rows.day[counted.row]
        order = np.argsort(trials.subject, kind="stable")
        ends = np.searchsorted(trials.subject[order], np.arange(len(names) + 1))
        cusums = _cusums(frame, counted, trials) if _has_cusum(counted, kind) else None
        for subject in measures.by_subject:
            own = order[ends[subject] : ends[subject + 1]]
            measure = measures.by_subject[subject].get(counted.name)
            if measure is None:
                continue
            points = share_points(*_complete(trials.outcome[own], day[own], frame))
            _set_history(measure, points, frame, (kind, names[subject]), stored, limits)
            if cusums is not None:
                measure["cusum"] = cusums.of(own, day[own], frame)


def _has_cusum(counted: Counted, kind: Kind) -> bool:
    return counted.name == "standard" and kind == "person"


def _add_group_history(
    everybody: _Measures, frame: Frame, stored: Limits, limits: dict[LimitKey, PointLimits]
) -> None:
    for counted in _history_measures(frame):
        measure = everybody.by_subject.get(0, {}).get(counted.name)
        if measure is not None:
            day = frame.rows.day[counted.row]
            points = share_points(*_complete(counted.outcome, day, frame))
            _set_history(measure, points, frame, ("group", ""), stored, limits)


@dataclass(frozen=True, slots=True, eq=False)
class _Cusums:
    """Weights (n,) of each trial for worse and for better odds, and where sums signal."""

    worse: Floats
    better: Floats
    limit: float

    def of(self, own: Ints, day: Ints, frame: Frame) -> dict[str, Any] | None:
        """The sums of a person at the end of each week that is over, by its points of history."""
        _, week = _complete(np.zeros(len(own)), day, frame)
        own = own[: len(week)] if len(week) < len(own) else own
        if not len(week):
            return None
        last = np.flatnonzero(np.append(np.diff(week) > 0, True))
        sums = {}
        for name, weights in (("upper", self.worse), ("lower", self.better)):
            total, path = 0.0, []
            for weight in weights[own].tolist():
                total = max(0.0, total + weight)
                path.append(total)
            sums[name] = [rounded(path[place], 4) for place in last.tolist()]
        return {"limit": rounded(self.limit, 4), "ratio": CUSUM_RATIO, **sums}


def _cusums(frame: Frame, counted: Counted, trials: Trials) -> _Cusums | None:
    """Risk-adjusted CUSUMs (Steiner 2000): the risk is what others would have had of the case, on
    the device in that quarter."""
    subjects = len(frame.names("person"))
    comparison = compare(trials, subjects, frame.cells)
    risk = np.clip(1 - (trials.outcome - comparison.residual), 0.01, 0.99)
    if len(risk) < MIN_JUDGED:
        return None
    sample = np.quantile(risk, np.linspace(0.01, 0.99, 50))
    limit = limit_for_run_length(sample, CUSUM_RATIO, CUSUM_RUN_LENGTH, states=100)
    failed = 1 - trials.outcome
    return _Cusums(
        risk_adjusted_weights(failed, risk, CUSUM_RATIO),
        risk_adjusted_weights(failed, risk, 1 / CUSUM_RATIO),
        limit,
    )


def _add_trends(measures: _Measures, frame: Frame) -> list[int]:
    """The trend of each person over the whole history; returns those who have one."""
    rows = frame.rows
    counted = standard(frame, rows.is_view & (rows.verdict != UNDECIDED))
    subjects = len(rows.persons)
    if not subjects or not len(counted.row):
        return []
    trials = frame.trials(counted, "person")
    comparison = compare(trials, subjects, frame.cells)
    result = trends(trials, comparison, rows.day[counted.row], subjects)
    z = float(stats.norm.ppf(1 - WARNING))
    for subject in np.flatnonzero(result.n).tolist():
        slope, error = float(result.slope[subject]), float(result.error[subject])
        p = result.p_values[subject]
        measure = _measure("trend", "log-odds/year", int(result.n[subject]), "high")
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
                "by": _ADJUSTED_BY["person"],
            }
            measures.trend_p_values[subject, "trend"] = float(p)
            measures.effects[subject, "trend"] = slope
        measures.add(subject, measure)
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(result.p_values < _TREND_AT).tolist()


# What is called.


def _call(measures: _Measures, level: float) -> None:
    """Set flags: what is beyond the false discovery rate; beyond the outer limit alone is a note.
    Trends are a family of their own."""
    q_values = adjust_families(measures.p_values, level)
    trend_q = adjust(list(measures.trend_p_values.values())).tolist()
    q_values |= dict(zip(measures.trend_p_values, trend_q, strict=True))
    p_values = measures.p_values | measures.trend_p_values
    for (subject, name), q in q_values.items():
        measure = measures.by_subject[subject][name]
        effect = measures.effects[subject, name]
        if measure["adjusted"] is not None:
            measure["adjusted"]["q"] = rounded(q, 12)
        if q <= level:
            measure["flag"], measure["rule"] = _flag(measure, effect), "false-discovery"
            if name == "trend":
                measure["rule"] = "trend"
        elif p_values[subject, name] < 2 * ALARM:
            measure["flag"], measure["rule"] = "note", "beyond-limit"


def _flag(measure: Mapping[str, Any], effect: float) -> str:
    if measure["name"] == "trend":
        return "improving" if effect > 0 else "declining"
    better = {"high": 1, "low": -1, "none": 0}[measure["is_better"]]
    return "better" if better and effect * better > 0 else "alarm"


_ORDER = {"alarm": 0, "declining": 1, "improving": 2, "better": 3, "note": 4}


def _flags(measures: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The flags of a subject, worst first, with a sentence each."""
    flags = [
        {
            "flag": each["flag"],
            "measure": each["name"],
            "rule": each["rule"],
            "q": (each["adjusted"] or {}).get("q"),
            "words": _words(each),
        }
        for each in measures.values()
        if each["flag"] is not None
    ]
    return sorted(flags, key=lambda flag: (_ORDER[flag["flag"]], *_measure_order(flag["measure"])))


def _words(measure: Mapping[str, Any]) -> str:
    name, adjusted = measure["name"], measure["adjusted"] or {}
    if name == "trend":
        direction = "better" if measure["value"] > 0 else "poorer"
        return (
            f"own pictures became {direction}: {measure['value']:+.2f} log odds a year"
            f" ({measure['low']:+.2f} to {measure['high']:+.2f}, {measure['n']} images)"
        )
    if name == "nt-bias" and adjusted:
        factor = 10 ** adjusted["value"]
        return (
            f"nuchal translucency measured at {factor:.2f} times what others measure at the same"
            f" crown-rump length ({measure['n']} exams)"
        )
    if measure["unit"] == "1" and measure["limits"]:
        return (
            f"{name}: {measure['value']:.1%} of {measure['n']},"
            f" others with the same cases {measure['limits']['target']:.1%}"
        )
    return f"{name}: {measure['value']} of {measure['n']}, others differ"


# Subjects and the rest of the content.


def _subjects(
    measures: _Measures, of_devices: _Measures, frame: Frame, kind: Kind, window: Bools
) -> list[dict[str, Any]]:
    rows, names = frame.rows, frame.names(kind)
    column = {"person": rows.person, "device": rows.device, "site": rows.site}[kind]
    own = window & (column >= 0)
    findings = np.bincount(column[own], minlength=len(names))
    pairs = np.unique(np.stack((column[own], rows.exam[own])), axis=1)
    exams = np.bincount(pairs[0], minlength=len(names)) if pairs.size else findings
    subjects = []
    for subject, name in enumerate(names):
        of_subject = measures.by_subject.get(subject, {})
        listed = [of_subject[each] for each in sorted(of_subject, key=_measure_order)]
        values: dict[str, Any] = {
            "kind": kind,
            "id": name,
            "findings": int(findings[subject]),
            "exams": int(exams[subject]),
            "assessable": any(each["judged"] for each in listed),
            "measures": listed,
            "flags": _flags(of_subject),
        }
        if kind == "person":
            chosen = np.flatnonzero(window & (rows.person == subject))
            values["devices"] = _devices(chosen, of_devices, frame)
            values["examples"] = _examples(chosen, rows)
        subjects.append(values)
    return subjects


_FIRST = ("standard", "exam-score", "completion", "probability", "trend")


def _measure_order(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _devices(chosen: Ints, of_devices: _Measures, frame: Frame) -> list[dict[str, Any]]:
    """A person's devices, with what each is like by itself: `effect` is the difference of its
    share from everybody's, other things being equal."""
    rows = frame.rows
    device = rows.device[chosen]
    decided = rows.is_view[chosen] & (rows.verdict[chosen] != UNDECIDED)
    total = int((device >= 0).sum())
    listed = []
    for each in np.unique(device[device >= 0]).tolist():
        own = decided & (device == each)
        measure = of_devices.by_subject.get(each, {}).get("standard", {})
        adjusted = measure.get("adjusted")
        x, n = int((rows.verdict[chosen[own]] == 1).sum()), int(own.sum())
        effect = None if adjusted is None else adjusted["value"] - adjusted["overall"]
        listed.append(
            {
                "id": rows.devices[each],
                "share": rounded(int((device == each).sum()) / total),
                "x": x,
                "n": n,
                "value": rounded(x / n) if n else None,
                "device_x": measure.get("x"),
                "device_n": measure.get("n"),
                "effect": rounded(effect),
            }
        )
    return listed


def _examples(chosen: Ints, rows: Rows) -> dict[str, list[int]]:
    """Findings to look at: the most and the least probably standard ones, of unlike views."""
    scored = chosen[rows.is_view[chosen] & np.isfinite(rows.probability[chosen])]
    order = scored[np.argsort(rows.probability[scored], kind="stable")]
    good = [row for row in order[::-1].tolist() if rows.verdict[row] == 1]
    poor = [row for row in order.tolist() if rows.verdict[row] == 0]
    return {
        "good": _of_unlike_views(good, rows),
        "instructive": _of_unlike_views(poor, rows),
    }


def _of_unlike_views(ordered: Sequence[int], rows: Rows) -> list[int]:
    views, chosen = set[int](), list[int]()
    for row in ordered:
        if len(chosen) == EXAMPLES:
            break
        if int(rows.view[row]) not in views:
            views.add(int(rows.view[row]))
            chosen.append(int(rows.finding_id[row]))
    return chosen


def _period(first: int, last: int) -> dict[str, str]:
    return {"from": date.fromordinal(first).isoformat(), "to": date.fromordinal(last).isoformat()}


def _bundle_json(bundle: BundleKey) -> dict[str, str]:
    return {"name": bundle.name, "version": bundle.version, "model_id": bundle.model_id}


def _bundle_of_most(rows: Rows, window: Bools) -> dict[str, str] | None:
    counts = np.bincount(rows.bundle[window], minlength=len(rows.bundles))
    return _bundle_json(rows.bundles[int(counts.argmax())]) if counts.any() else None


def _bundles(rows: Rows) -> list[dict[str, Any]]:
    """The bundles of the history, in the order in which they came."""
    listed = []
    for place, bundle in enumerate(rows.bundles):
        days = rows.day[rows.bundle == place]
        period = _period(int(days.min()), int(days.max()))
        listed.append(_bundle_json(bundle) | period | {"n": len(days)})
    return sorted(listed, key=lambda each: (each["from"], each["model_id"]))


def _rules(rules: AuditRules) -> dict[str, Any]:
    curve = rules.curve
    return {
        "min_judged": MIN_JUDGED,
        "alarm": ALARM,
        "warning": WARNING,
        "false_discovery_rate": rules.level,
        "expected_views": list(rules.views),
        "nt_curve": {
            "kind": "lab" if curve is None else "cited",
            "citation": None if curve is None else curve.citation,
        },
        "cusum": {"ratio": CUSUM_RATIO, "run_length": CUSUM_RUN_LENGTH},
        "drift": {"signals": SIGNALS, "of": NIGHTS, "days": RECENT_DAYS},
    }


def _counts(frame: Frame, window: Bools) -> dict[str, int]:
    rows = frame.rows
    undecided = window & rows.is_view & (rows.verdict == UNDECIDED)
    return {
        "findings": int(window.sum()),
        "exams": len(np.unique(rows.exam[window])),
        "reviewed": int((window & rows.is_reviewed).sum()),
        "shared": int((window & (rows.person == -2)).sum()),
        "without_person": int((window & (rows.person == -1)).sum()),
        "undecided": int(undecided.sum()),
        "other": int((window & ~rows.is_view).sum()),
    }


def _change(change: ModelChange) -> dict[str, Any]:
    day = date.fromordinal(change.day).isoformat()
    moved, of = change.devices
    cause = "with a new bundle" if change.is_bundle_change else "without a new bundle"
    return {
        "kind": "model",
        "date": day,
        "measure": "log-odds",
        "before": rounded(change.before),
        "after": rounded(change.after),
        "shift": rounded(change.shift),
        "p": rounded(change.p, 12),
        "devices": list(change.devices),
        "persons": list(change.persons),
        "bundle_changed": change.is_bundle_change,
        "words": f"the models' answers changed for everybody on {day}, {cause}:"
        f" {change.shift:+.2f} log odds, on {moved} of {of} devices; no person is called for it",
    }


def _drift(drift: Drift, kind: Kind, frame: Frame) -> dict[str, Any]:
    name = frame.names(kind)[drift.subject]
    since = None if drift.since is None else date.fromordinal(drift.since).isoformat()
    words = None
    if drift.is_alarm:
        words = (
            f"{kind} {name}: {drift.feature} of its pictures moved away from what it began with"
            + (f", since about {since}" if since else "")
            + ("; fit its site's calibration anew" if drift.needs_calibration else "")
        )
    return {
        "kind": kind,
        "id": name,
        "feature": drift.feature,
        "n": drift.n,
        "reference_n": drift.reference_n,
        "value": rounded(drift.value),
        "shift": rounded(drift.shift),
        "p": rounded(drift.p, 12),
        "q": rounded(drift.q, 12),
        "nights": list(drift.nights),
        "since": since,
        "flag": "alarm" if drift.is_alarm else None,
        "rule": f"{SIGNALS}-of-{NIGHTS}" if drift.is_alarm else None,
        "calibrate": drift.needs_calibration,
        "words": words,
    }


ANSWERS = ("standard", "non-standard")


def _agreement(readings: Readings) -> dict[str, Any]:
    return {
        "model_first": _agreement_table(readings.model_first, readings.unblinded),
        "first_second": _agreement_table(readings.first_second, 0),
    }


def _agreement_table(pairs: Sequence[ReadingPair], left_out: int) -> dict[str, Any] | None:
    """Raw table, kappa and AC1 with intervals by exam; None for no pair."""
    if not pairs:
        return None
    first = np.array([ANSWERS.index(pair.first) for pair in pairs])
    second = np.array([ANSWERS.index(pair.second) for pair in pairs])
    table = cross_table([p.first for p in pairs], [p.second for p in pairs], ANSWERS)
    agreement = Agreement.of(table)
    exams = [pair.exam for pair in pairs]

    def figure(name: str) -> Callable[[Ints], float]:
        def of(rows: Ints) -> float:
            counts = np.bincount(first[rows] * 2 + second[rows], minlength=4).reshape(2, 2)
            return float(getattr(Agreement.of(counts), name))

        return of

    intervals = {name: bootstrap_interval(figure(name), exams) for name in ("kappa", "ac1")}
    return {
        "answers": list(ANSWERS),
        "table": table.tolist(),
        "n": len(pairs),
        "exams": len(set(exams)),
        "observed": rounded(agreement.observed),
        "kappa": rounded(agreement.kappa),
        "kappa_low": rounded(intervals["kappa"][0]),
        "kappa_high": rounded(intervals["kappa"][1]),
        "ac1": rounded(agreement.ac1),
        "ac1_low": rounded(intervals["ac1"][0]),
        "ac1_high": rounded(intervals["ac1"][1]),
        "prevalence": [rounded(each) for each in agreement.prevalence.tolist()],
        "left_out": left_out,
    }
