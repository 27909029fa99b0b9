"""What a report says first: flags, drift, or that nothing calls for a talk."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from model.criteria.faults import FAULTS
from qc_daemon.audit.reports import measure_facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, Callout, Heading, Items, Paragraph
from qc_daemon.audit.reports.measure_facts import Measure
from qc_daemon.audit.reports.sections.drift import drift_lines
from qc_daemon.audit.reports.words import (
    benchmark_words,
    chart_rule_words,
    flag_rule_words,
    flag_words,
    range_words,
    value_words,
)
from qc_daemon.audit.statistics.control_charts import ALARMS
from qc_daemon.audit.statistics.proportions import MIN_JUDGED


def summary_section(composer: Composer) -> Iterator[Block]:
    """What there is to say, or that nothing can be said."""
    w = composer.w
    yield Heading(w.gettext("In short"))
    if not composer.subject.is_assessable:
        yield Callout(
            w.gettext("Not assessable in this period"),
            (
                w.gettext(
                    "There are fewer than {least} pictures of every kind. No share is judged"
                    " and none is compared; the numbers below are there to be seen, and the"
                    " pictures to learn from."
                ).format(least=MIN_JUDGED),
            ),
        )
        return
    flagged_measures = [m for m in composer.subject.measures if m.flag is not None and m.is_judged]
    alarms = [
        m
        for m in flagged_measures
        if m.flag in (measure_facts.FLAG_ALARM, measure_facts.FLAG_DECLINING)
    ]
    for measure in alarms:
        yield Callout(_flag_title(composer, measure), tuple(_flag_lines(composer, measure)))
    drifts = [drift for drift in composer.own_drift() if drift.is_alarm]
    if drifts:
        title = w.gettext("What the models see of these pictures has moved")
        if all(drift.is_against_bundle for drift in drifts):
            title = w.gettext("These pictures are unlike those that the bundle knows")
        yield Callout(title, tuple(drift_lines(composer, drifts)))
    others = [
        f"{_flag_title(composer, m)} ({flag_rule_words(m.rule, w)})"
        for m in flagged_measures
        if m not in alarms
    ]
    others += _trend_alarms(composer, flagged_measures)
    if others:
        yield Items(tuple(others))
    if not alarms and not drifts:
        reason = w.gettext("Every share lies where chance and the mix of exams may put it.")
        if others:
            reason = w.gettext("What stands above is worth a look, and no more.")
        yield Callout(w.gettext("Nothing in this period calls for a talk"), (reason,))
    yield Paragraph(
        w.gettext(
            "A flag is about this period's numbers, not about a person: look at the machine's"
            " settings, the mix of exams and the models first."
        ),
        is_small=True,
    )


def _trend_alarms(composer: Composer, flagged_measures: Sequence[Measure]) -> Iterator[str]:
    """Of each measure that has no flag: the alarm of its own chart that goes on till its
    last point."""
    for name in (measure_facts.STANDARD, measure_facts.COMPLETION):
        measure = composer.measure(name)
        if measure is None or measure in flagged_measures or not measure.points:
            continue
        last = measure.points[-1]
        rule = next((rule for rule in last.rules if rule in ALARMS), None)
        if rule is None:
            continue
        run = takewhile(lambda p: set(p.rules) & set(ALARMS), reversed(measure.points))
        yield composer.w.gettext("{measure}, own trend: {rule}, since {day}").format(
            measure=composer.title(measure),
            rule=chart_rule_words(rule, composer.w),
            day=list(run)[-1].start.isoformat(),
        )


def _flag_title(composer: Composer, measure: Measure) -> str:
    return f"{composer.title(measure)}: {value_words(measure, composer.w)}, " + flag_words(
        measure.flag, composer.w
    )


def _flag_lines(composer: Composer, measure: Measure) -> Iterator[str]:
    """Period, rule, limit, models and criteria that the flag was raised by."""
    w = composer.w
    counted = f"{measure.x}/{measure.n}" if measure.x is not None else f"n = {measure.n}"
    yield w.gettext("Period {period}: {counted}.").format(period=composer.period(), counted=counted)
    rule = flag_rule_words(measure.rule, w)
    if measure.limits is None:
        yield w.gettext("Rule: {rule}.").format(rule=rule)
    else:
        at_n = measure.limits.at_n
        limit = w.gettext("benchmark {target}, outer limits {limits}").format(
            target=benchmark_words(measure, w),
            limits=range_words(measure, at_n.low_alarm, at_n.high_alarm, w),
        )
        yield w.gettext("Rule: {rule}; {limit}.").format(rule=rule, limit=limit)
    fault = FAULTS.get(measure.code) if measure.kind == measure_facts.FAILURE else None
    if fault is not None and fault.fix:
        yield w.gettext("What to change: {fix}.").format(fix=w.gettext(fault.fix))
    yield w.gettext("Models {models}; criteria version {criteria}.").format(
        models=composer.audit.models or "–", criteria=composer.audit.criteria_version or "–"
    )
