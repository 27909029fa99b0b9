"""The words of reports: measures, rules, drift, and what a flag says."""

from collections.abc import Mapping
from dataclasses import dataclass

from detector.anatomy import View
from model.criteria.faults import FAULTS, capitalise
from qc_daemon.audit.drift.image_drift import STATISTIC, STATISTIC_WORDS
from qc_daemon.audit.reports import measure_facts
from qc_daemon.audit.reports.facts import Drift
from qc_daemon.audit.reports.measure_facts import Measure
from qc_daemon.audit.statistics.control_charts import RUN, Rule
from qc_daemon.language.wording import Wording

_WHOLE = 20


@dataclass(frozen=True, slots=True)
class Names:
    """What things are called: views by code, in the report's language; devices and sites by id."""

    views: Mapping[str, str]
    devices: Mapping[str, str]

    def view(self, code: str) -> str:
        """The view in words; an unknown code as it is."""
        return self.views.get(code, code)

    def device(self, id: str) -> str:
        """The device's name; its id where it has none."""
        return self.devices.get(id) or id


def measure_words(measure: Measure, names: Names, w: Wording) -> str:
    """What a measure counts."""
    if measure.kind == measure_facts.STANDARD:
        if measure.code in set(View):
            return names.view(measure.code)
        return w.gettext("Standard views")
    if measure.kind in (measure_facts.FAILURE, measure_facts.SET_FAILURE):
        return criterion_words(measure.code, w)
    return {
        measure_facts.COMPLETION: w.gettext("Expected views present"),
        measure_facts.SCORE: w.gettext("Exam score (expected views that are standard)"),
        "probability": w.gettext("Mean probability of a standard view"),
        "seconds-per-view": w.gettext("Seconds per view"),
        "nt-bias": w.gettext("NT: bias against the curve"),
        "nt-spread": w.gettext("NT: spread about the curve"),
        "nt-digits": w.gettext("NT: preferred last digits"),
        "crl-range": w.gettext("CRL within 45 to 84 mm"),
        "trend": w.gettext("Trend over the history"),
    }.get(measure.kind, measure.name)


def criterion_words(code: str, w: Wording) -> str:
    """What is wrong where a criterion is not met; an unknown code as it is."""
    fault = FAULTS.get(code)
    return code if fault is None else w.gettext(fault.words)


def flag_rule_words(rule: str | None, w: Wording) -> str:
    """The rule that a flag of a measure was raised by."""
    return {
        "false-discovery": w.gettext(
            "exact tail beyond the limit, adjusted for the number of comparisons"
        ),
        "beyond-limit": w.gettext("beyond the outer limit, as one of many comparisons may be"),
        "trend": w.gettext("a steady trend over the history"),
    }.get(rule or "", rule or "–")


def chart_rule_words(rule: str, w: Wording) -> str:
    """The rule of a control chart that periods break."""
    return {
        str(Rule.BEYOND): w.gettext("a period beyond its control limit"),
        str(Rule.RUN): w.gettext("{run} periods in a row on one side").format(run=RUN),
    }.get(rule, rule)


def flag_words(flag: str | None, w: Wording) -> str:
    """A flag in a word; empty for none."""
    return {
        "alarm": w.gettext("to be talked about"),
        "note": w.gettext("note"),
        "better": w.gettext("better than the benchmark"),
        "improving": w.gettext("improving"),
        "declining": w.gettext("declining"),
    }.get(flag or "", flag or "")


def value_words(measure: Measure, w: Wording) -> str:
    """The value with its interval, in the measure's unit."""
    if measure.value is None:
        return "–"
    value = _number(measure, measure.value, w)
    if measure.low is not None and measure.high is not None:
        value += f" ({range_words(measure, measure.low, measure.high, w)})"
    return value + _unit(measure, w)


def benchmark_words(measure: Measure, w: Wording) -> str:
    """What the measure is compared with; a dash for nothing, or where nobody is judged by it."""
    if measure.limits is None or not measure.is_judged:
        return "–"
    return _number(measure, measure.limits.target, w)


def range_words(measure: Measure, low: float, high: float, w: Wording) -> str:
    """Two values of the measure, without their unit."""
    if _is_share(measure):
        return w.interval(low, high)
    return f"{_number(measure, low, w)} – {_number(measure, high, w)}"


def _is_share(measure: Measure) -> bool:
    """Whether the value is written in percent."""
    return measure.unit == "1"


def _number(measure: Measure, value: float, w: Wording) -> str:
    if _is_share(measure):
        return w.percent(value)
    return w.decimal(value, 1 if measure.unit == "s" else 3)


def _unit(measure: Measure, w: Wording) -> str:
    units = {"s": " s", "log10": " log₁₀", "log-odds/year": w.gettext(" log odds a year")}
    return units.get(measure.unit, "")


def adjustment_words(by: tuple[str, ...], w: Wording) -> str:
    """What was adjusted for."""
    words = {
        "gestational-age": w.gettext("gestational age"),
        "bmi": w.gettext("body mass index"),
        "view": w.gettext("view"),
        "device": w.gettext("device"),
        "crl": w.gettext("crown-rump length"),
        "quarter": w.gettext("quarter of the year"),
        "person": w.gettext("who made the picture"),
    }
    return w.join([words.get(each, each) for each in by]) or "–"


def feature_words(feature: str, w: Wording) -> str:
    """A feature that drift is watched by."""
    if feature.startswith(STATISTIC):
        name = feature.removeprefix(STATISTIC)
        return w.gettext(STATISTIC_WORDS[name]) if name in STATISTIC_WORDS else name
    return {
        "log-odds": w.gettext("models' log odds of a standard view"),
        "confidence": w.gettext("confidence of the detected structures"),
        "detections": w.gettext("number of detected structures"),
        "view-probability": w.gettext("probability of the view"),
        "embedding": w.gettext("embeddings of the pictures"),
    }.get(feature, feature)


SHARE_FEATURES = frozenset(("image:black", "image:saturated", "image:colour"))
"""Features that are written in percent."""


def change_words(drift: Drift, w: Wording) -> str:
    """The mean of an image statistic before and now; a dash where there is none."""
    if drift.before is None or drift.after is None:
        return "–"
    if drift.feature in SHARE_FEATURES:
        return f"{w.percent(drift.before, 1)} → {w.percent(drift.after, 1)}"
    digits = 0 if abs(drift.before) >= _WHOLE else 3 if abs(drift.before) < 1 else 1
    return f"{w.decimal(drift.before, digits)} → {w.decimal(drift.after, digits)}"


def answer_words(answer: str, w: Wording) -> str:
    """A reader's answer."""
    return {
        "standard": w.gettext("standard"),
        "non-standard": w.gettext("non-standard"),
    }.get(answer, capitalise(answer))
