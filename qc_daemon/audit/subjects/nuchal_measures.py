"""Bias and spread of nuchal translucency by person, device and site. They judge measuring, not the
fetus."""

from typing import Any

import numpy as np
from scipy import stats

from qc_daemon.audit.measures import Frame, Kind
from qc_daemon.audit.nuchal import NuchalCurve, log_multiples
from qc_daemon.audit.statistics.benchmark import (
    Bools,
    Floats,
    Ints,
    between_variance,
    compare_means,
)
from qc_daemon.audit.statistics.history import LimitKey, Limits, PointLimits, mean_points, rounded
from qc_daemon.audit.statistics.proportions import ALARM, MIN_JUDGED, WARNING
from qc_daemon.audit.subjects.subject_histories import (
    complete_weeks,
    set_history,
    set_own_trend,
    weekly_ewma,
)
from qc_daemon.audit.subjects.subject_measures import SubjectMeasures, new_measure, subject_of_exams


def add_nuchal(
    measures: SubjectMeasures,
    frame: Frame,
    window: Bools,
    kind: Kind,
    curve: NuchalCurve | None,
    stored: Limits,
    limits: dict[LimitKey, PointLimits],
) -> None:
    """Bias and spread of log10 MoM, with the history of the bias."""
    every = np.ones(len(frame.rows), bool)
    values, row = log_multiples(frame, every, curve)
    subjects, inside = len(frame.names(kind)), window[row]
    subject = subject_of_exams(frame, row, kind)
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
        bias = new_measure("nt-bias", "log10", int(n[each]), "none", "NT")
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
        points = mean_points(*complete_weeks(all_values, day, frame))
        of = (kind, frame.names(kind)[each])
        set_history(bias, points, frame, of, stored, limits)
        if kind == "person":
            set_own_trend(bias, all_values, day, frame, of, stored, limits)
        bias["ewma"] = weekly_ewma(all_values, day, own, target)
        measures.add(each, bias)
        spread = new_measure("nt-spread", "log10", int(n[each]), "low", "NT")
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
    limits = {name: rounded(each) for name, each in zip(names, z.tolist(), strict=True)}
    return {"target": rounded(target), **limits, "between": rounded(between), "others": others}


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
