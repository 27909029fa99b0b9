"""An audit: from rows of findings to what is said of persons, devices and sites.

A function of its arguments: the same rows, rules and stored limits give the same content.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats

from model.criteria.rules import RULES
from qc_daemon.audit.drift import bundle_reference
from qc_daemon.audit.drift.bundle_reference import References
from qc_daemon.audit.drift.changes import ModelChange, model_changes
from qc_daemon.audit.drift.drift import NIGHTS, SIGNALS, Drift, drifts
from qc_daemon.audit.drift.drift_windows import BUNDLE, RECENT_DAYS, REFERENCE_DAYS
from qc_daemon.audit.drift.image_drift import (
    EMBEDDING,
    LEAST_EFFECT,
    MOST_EMBEDDINGS,
    STATISTIC,
    STATISTIC_WORDS,
)
from qc_daemon.audit.measures import KINDS, Frame, Kind, iter_outcomes
from qc_daemon.audit.nuchal import NuchalCurve
from qc_daemon.audit.readings import NO_READINGS, Readings, agreement_tables
from qc_daemon.audit.rows import UNDECIDED, BundleKey, Rows
from qc_daemon.audit.statistics.benchmark import Bools
from qc_daemon.audit.statistics.history import LimitKey, Limits, PointLimits, rounded
from qc_daemon.audit.statistics.proportions import ALARM, MIN_JUDGED, WARNING
from qc_daemon.audit.subjects.flags import TREND_FALSE_DISCOVERY_RATE, call_measures
from qc_daemon.audit.subjects.nuchal_measures import add_nuchal
from qc_daemon.audit.subjects.subject_histories import (
    CUSUM_RATIO,
    CUSUM_RUN_LENGTH,
    add_group_history,
    add_histories,
    add_trends,
)
from qc_daemon.audit.subjects.subject_measures import (
    SubjectMeasures,
    add_group,
    add_seconds,
    add_shares,
)
from qc_daemon.audit.subjects.subjects import subjects_of

_REACH = float(stats.norm.ppf(1 - WARNING))
_WHOLE = 20
FALSE_DISCOVERY_RATE = 0.01
"""Share of the names that may be there by chance. A false one costs more than a late one."""

_VERSION_DIGITS = 16


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
class Audit:
    """The content (JSON values), and the limits of weeks that had none stored. Examples are ids of
    findings in `content`."""

    content: dict[str, Any]
    limits: dict[LimitKey, PointLimits]


def make_audit(
    rows: Rows,
    rules: AuditRules,
    *,
    stored: Limits,
    readings: Readings = NO_READINGS,
    references: References = MappingProxyType({}),
    step: Callable[[float], None] = lambda _: None,
) -> Audit:
    """The audit of these rows; those before the window are history. `references` are what bundles
    say of their pictures, by model id. `step` is told how far it is, 0 to 1, and may raise to end
    it."""
    changes = model_changes(Frame(rows, rules.views, rules.last_day))
    frame = Frame(rows, rules.views, rules.last_day, tuple(each.day for each in changes))
    window = rows.day >= rules.first_day
    limits = dict[LimitKey, PointLimits]()
    by_kind = {kind: SubjectMeasures() for kind in KINDS}
    everybody = SubjectMeasures()
    for place, outcomes in enumerate(iter_outcomes(frame, window)):
        step(0.4 * place / (12 + 2 * len(rows.criteria)))
        add_group(everybody, outcomes)
        for kind in KINDS:
            add_shares(by_kind[kind], frame, outcomes, kind)
    step(0.4)
    for kind in KINDS:
        add_seconds(by_kind[kind], frame, window, kind)
        add_nuchal(by_kind[kind], frame, window, kind, rules.curve, stored, limits)
    step(0.5)
    persons_with_trend = add_trends(by_kind["person"], frame)
    for kind in KINDS:
        add_histories(by_kind[kind], frame, kind, stored, limits)
    add_group_history(everybody, frame, stored, limits)
    step(0.7)
    left_out = np.isin(rows.person, persons_with_trend)
    device_drift = drifts(frame, "device", rules.level, left_out, references)
    drifting = [each.subject for each in device_drift if each.is_alarm]
    # A site is not named for what one of its devices does.
    is_of_drifting = left_out | np.isin(rows.device, drifting)
    site_drift = drifts(frame, "site", rules.level, is_of_drifting, references)
    step(0.9)
    bundle = _bundle_of_most(rows, window)
    version = None if bundle is None else criteria_version(bundle["model_id"])
    subjects = []
    for kind in KINDS:
        call_measures(by_kind[kind], rules.level)
        of_kind = subjects_of(by_kind[kind], by_kind["device"], frame, kind, window)
        for flag in (flag for each in of_kind for flag in each["flags"]):
            # It is read apart from its audit, too: it names what it was raised by.
            flag["model_id"] = None if bundle is None else bundle["model_id"]
            flag["criteria_version"] = version
        subjects += of_kind
    content = {
        "window": _period(rules.first_day, rules.last_day),
        "history": _period(int(rows.day.min()) if len(rows) else rules.first_day, rules.last_day),
        "bundle": bundle,
        "bundles": _bundles(rows),
        "criteria_version": version,
        "data_sha256": rows.digest,
        "rules": _rules(rules, references),
        "counts": _counts(frame, window),
        "group": {"measures": list(everybody.by_subject.get(0, {}).values())},
        "subjects": subjects,
        "changes": [_change(each) for each in changes],
        "drift": [
            *(_drift(each, "device", frame) for each in device_drift),
            *(_drift(each, "site", frame) for each in site_drift),
        ],
        "agreement": agreement_tables(readings),
    }
    step(1.0)
    return Audit(content, limits)


def criteria_version(model_id: str) -> str:
    """Which criteria were judged by: 16 hexadecimal digits of this program's rules and of the
    bundle, which has their thresholds."""
    rules = [(view.value, [rule.code for rule in RULES[view]]) for view in sorted(RULES)]
    return sha256(repr((model_id, rules)).encode()).hexdigest()[:_VERSION_DIGITS]


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


def _rules(rules: AuditRules, references: References) -> dict[str, Any]:
    curve = rules.curve
    return {
        "min_judged": MIN_JUDGED,
        "alarm": ALARM,
        "warning": WARNING,
        "false_discovery_rate": rules.level,
        "trend_false_discovery_rate": TREND_FALSE_DISCOVERY_RATE,
        "expected_views": list(rules.views),
        "nt_curve": {
            "kind": "lab" if curve is None else "cited",
            "citation": None if curve is None else curve.citation,
        },
        "cusum": {"ratio": CUSUM_RATIO, "run_length": CUSUM_RUN_LENGTH},
        "drift": {
            "signals": SIGNALS,
            "of": NIGHTS,
            "days": RECENT_DAYS,
            "reference_days": REFERENCE_DAYS,
            "least_effect": LEAST_EFFECT,
            "embeddings": MOST_EMBEDDINGS,
            "least_effect_of_bundle": bundle_reference.LEAST_EFFECT,
            "references": [
                {
                    "model_id": model_id,
                    "pictures": reference.pictures,
                    "data_sha256": reference.data_sha256,
                }
                for model_id, reference in sorted(references.items())
            ],
        },
    }


def _counts(frame: Frame, window: Bools) -> dict[str, int]:
    rows = frame.rows
    is_undecided = window & rows.is_view & (rows.verdict == UNDECIDED)
    return {
        "findings": int(window.sum()),
        "exams": len(np.unique(rows.exam[window])),
        "reviewed": int((window & rows.is_reviewed).sum()),
        "shared": int((window & (rows.person == -2)).sum()),
        "without_person": int((window & (rows.person == -1)).sum()),
        "undecided": int(is_undecided.sum()),
        "other": int((window & ~rows.is_view).sum()),
    }


def _change(change: ModelChange) -> dict[str, Any]:
    day = date.fromordinal(change.day).isoformat()
    count, of = change.devices
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
        f" {change.shift:+.2f} log odds, on {count} of {of} devices; no person is called for it",
    }


def _drift(drift: Drift, kind: Kind, frame: Frame) -> dict[str, Any]:
    name = frame.names(kind)[drift.subject]
    since = None if drift.since is None else date.fromordinal(drift.since).isoformat()
    return {
        "kind": kind,
        "id": name,
        "feature": drift.feature,
        "n": drift.n,
        "reference_n": drift.reference_n,
        "compared_with": drift.compared_with,
        "value": rounded(drift.value),
        "shift": rounded(drift.shift),
        "p": rounded(drift.p, 12),
        "q": rounded(drift.q, 12),
        "nights": list(drift.nights),
        "since": since,
        "flag": "alarm" if drift.is_alarm else None,
        "rule": f"{SIGNALS}-of-{NIGHTS}" if drift.is_alarm else None,
        "calibrate": drift.needs_calibration,
        "words": _drift_words(drift, kind, name, since) if drift.is_alarm else None,
        "before": rounded(drift.before),
        "after": rounded(drift.after),
        "energy": rounded(drift.energy),
        "months": [
            {
                "from": date.fromordinal(each.day).isoformat(),
                "n": each.n,
                "value": rounded(each.value),
                "low": rounded(each.value - _REACH * each.error),
                "high": rounded(each.value + _REACH * each.error),
            }
            for each in drift.months
        ],
    }


def _drift_words(drift: Drift, kind: Kind, name: str, since: str | None) -> str:
    if drift.compared_with == BUNDLE:
        return _words_of_bundle(drift, kind, name)
    about = f"since about {since}" if since else "lately"
    if drift.feature == EMBEDDING:
        return f"embeddings of the pictures of {kind} {name} changed {about}"
    if drift.before is not None and drift.after is not None:
        return f"image statistics of {kind} {name} changed {about}: {_change_of_mean(drift)}"
    return (
        f"{kind} {name}: {drift.feature} of its pictures moved away from what it began with"
        + (f", {about}" if since else "")
        + ("; fit its site's calibration anew" if drift.needs_calibration else "")
    )


def _words_of_bundle(drift: Drift, kind: Kind, name: str) -> str:
    what = "embeddings" if drift.feature == EMBEDDING else "image statistics"
    by_how_much = "" if drift.before is None else f": {_change_of_mean(drift)}"
    return (
        f"{what} of the pictures of {kind} {name} are unlike those that the bundle was"
        f" calibrated on{by_how_much}; calibrate its site before its probabilities are relied on"
    )


def _change_of_mean(drift: Drift) -> str:
    assert drift.before is not None
    assert drift.after is not None
    words = STATISTIC_WORDS[drift.feature.removeprefix(STATISTIC)]
    return f"{words} {_short(drift.before)} → {_short(drift.after)}"


def _short(value: float) -> str:
    """A number with the digits that say something."""
    if abs(value) >= _WHOLE:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
