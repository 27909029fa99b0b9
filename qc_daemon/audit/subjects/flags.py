"""What is called of the subjects of a kind, and in which words."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from scipy import stats

from qc_daemon.audit.statistics.discoveries import adjust_families
from qc_daemon.audit.statistics.history import rounded
from qc_daemon.audit.statistics.proportions import ALARM, adjust
from qc_daemon.audit.subjects.subject_measures import SubjectMeasures

TREND_FALSE_DISCOVERY_RATE = 0.05
"""Of persons' own trends: they compare nobody with others."""

BIAS_OF_POWER = math.log10(1.1)
"""The power is said of a bias of a tenth of the median, beyond which measuring is poor (Sahota et
al. 2011)."""

_FIRST = ("standard", "exam-score", "completion", "probability", "trend")
_ORDER = {"alarm": 0, "declining": 1, "improving": 2, "better": 3, "note": 4}


def call_measures(measures: SubjectMeasures, level: float) -> None:
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
        if q <= (TREND_FALSE_DISCOVERY_RATE if name == "trend" else level):
            measure["flag"], measure["rule"] = _flag(measure, effect), "false-discovery"
            if name == "trend":
                measure["rule"] = "trend"
        elif p_values[subject, name] < 2 * ALARM:
            measure["flag"], measure["rule"] = "note", "beyond-limit"
    _add_bias_power(measures, level)


def _add_bias_power(measures: SubjectMeasures, level: float) -> None:
    """The least chance that a bias of BIAS_OF_POWER is named: as if nobody else were, and by no
    other measure of the subject."""
    counts = Counter(subject for subject, _ in measures.p_values)
    for subject, name in measures.p_values:
        measure = measures.by_subject[subject][name]
        if name != "nt-bias" or measure["limits"] is None:
            continue
        limits = measure["limits"]
        error = (limits["high_alarm"] - limits["target"]) / float(stats.norm.isf(ALARM))
        if error > 0:
            beyond = float(stats.norm.isf(level / (len(counts) * counts[subject]) / 2))
            measure["power"] = rounded(float(stats.norm.sf(beyond - BIAS_OF_POWER / error)))


def flags_of(measures: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The flags of a subject, worst first, with a sentence each."""
    flags = [
        {
            "flag": each["flag"],
            "measure": each["name"],
            "rule": each["rule"],
            "q": (each["adjusted"] or {}).get("q"),
            "limit": _limit(each),
            "words": _words(each),
        }
        for each in measures.values()
        if each["flag"] is not None
    ]
    return sorted(flags, key=lambda flag: (_ORDER[flag["flag"]], *measure_order(flag["measure"])))


def _limit(measure: Mapping[str, Any]) -> dict[str, Any] | None:
    """The benchmark and outer limits that the measure is drawn against; None where it has none."""
    limits = measure["limits"]
    if limits is None:
        return None
    return {name: limits[name] for name in ("target", "low_alarm", "high_alarm")}


def measure_order(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _flag(measure: Mapping[str, Any], effect: float) -> str:
    if measure["name"] == "trend":
        return "improving" if effect > 0 else "declining"
    better = {"high": 1, "low": -1, "none": 0}[measure["is_better"]]
    return "better" if better and effect * better > 0 else "alarm"


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
