"""A person among her machines, and a subject among the others of its kind."""

from collections.abc import Iterator

from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.charts.funnel import FunnelUnit, funnel_chart
from qc_daemon.audit.charts.rows import StripRow, strip_chart
from qc_daemon.audit.reports import facts, measure_facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, ChartBlock, Heading, Paragraph, TableBlock
from qc_daemon.audit.reports.measure_facts import Measure
from qc_daemon.audit.reports.sections.drift import drift_lines
from qc_daemon.audit.reports.words import adjustment_words, measure_words, value_words
from qc_daemon.audit.statistics.proportions import MIN_JUDGED
from qc_daemon.language.wording import Wording

_POWER_DIFFERENCE = 0.15
"""The audit's power is the chance to call a share that is worse than the benchmark by this."""


def devices_section(composer: Composer) -> Iterator[Block]:
    """The person's machines, and how much of a difference is theirs."""
    w = composer.w
    if not composer.subject.devices:
        return
    yield Heading(w.gettext("The machines first"))
    rows = tuple(
        (
            composer.names.device(each.id),
            w.percent(each.part),
            f"{each.own.x}/{each.own.n} = {w.percent(each.own.value)}",
            # Of a machine that two share, everybody's count tells the other's.
            w.percent(each.everybody.value),
            "–" if each.effect is None else _points(each.effect, w),
        )
        for each in composer.subject.devices
    )
    columns = (
        w.gettext("Device"),
        w.gettext("Part of these pictures"),
        w.gettext("Own standard views on it"),
        w.gettext("Everybody's"),
        w.gettext("Device against the lab"),
    )
    yield TableBlock(Table("", columns, rows))
    yield Paragraph(
        w.gettext(
            "What a machine takes from everybody's pictures is no one person's: comparisons"
            " below are adjusted for the device where that could be computed."
        ),
        is_small=True,
    )
    mine = {device.id for device in composer.subject.devices}
    alarms = [
        d for d in composer.audit.drift if d.is_alarm and d.kind == facts.DEVICE and d.id in mine
    ]
    yield from map(Paragraph, drift_lines(composer, alarms))


def comparison_section(composer: Composer, kind_words: str) -> Iterator[Block]:
    """Own shares within the band of the others', the funnel, and what the case mix explains."""
    w = composer.w
    yield Heading(kind_words)
    if not composer.subject.is_assessable:
        yield Paragraph(
            w.gettext("Not compared: fewer than {least} pictures of every kind.").format(
                least=MIN_JUDGED
            )
        )
        return
    rows = []
    for measure in composer.subject.measures:
        if (
            measure.kind not in (measure_facts.STANDARD, measure_facts.COMPLETION)
            or measure.share is None
        ):
            continue
        if measure.is_judged:
            shares = tuple(_other_shares(composer, measure.name))
            label = measure_words(measure, composer.names, w)
            rows.append(StripRow(label, measure.share, shares))
    if rows:
        yield ChartBlock("strip", strip_chart(rows, w.gettext("Own shares and others'"), w))
    yield from _funnel(composer)
    yield from _case_mix(composer)
    yield from _power(composer)


def _other_shares(composer: Composer, name: str) -> Iterator[float]:
    for other in composer.audit.others(composer.subject):
        measure = other.measure(name)
        if measure is not None and measure.is_judged and measure.value is not None:
            yield measure.value


def _funnel(composer: Composer) -> Iterator[Block]:
    """Shares of standard views by the number of pictures; with the case mix taken out where the
    audit could, as then one benchmark is everybody's. Of people only the own share: in a small lab
    a number of pictures tells who it is."""
    w, own = composer.w, composer.measure(measure_facts.STANDARD)
    if own is None or own.limits is None or own.share is None:
        return
    limits, centre, title = (
        own.limits,
        own.limits.target,
        w.gettext("Standard views by the number of pictures"),
    )
    is_adjusted = own.adjusted is not None and own.adjusted.overall is not None
    if own.adjusted is not None and own.adjusted.overall is not None:
        centre = own.adjusted.overall
        title = w.gettext("Standard views by the number of pictures, adjusted")
    if not 0 < centre < 1:
        return
    is_person = composer.subject.kind == facts.PERSON
    others = [] if is_person else composer.audit.others(composer.subject)
    units = []
    for each in [*others, composer.subject]:
        measure = each.measure(own.name)
        if measure is None or measure.share is None:
            continue
        if is_adjusted and measure.adjusted is None:
            continue
        is_own = each is composer.subject
        units.append(
            FunnelUnit(
                measure.share,
                composer.name if is_own else "",
                is_own,
                measure.flag == measure_facts.FLAG_ALARM,
                adjusted=measure.adjusted.value if is_adjusted and measure.adjusted else None,
            )
        )
    chart = funnel_chart(units, centre, lambda n: limits.at(n, centre), title, w)
    yield ChartBlock("funnel", chart)


def _case_mix(composer: Composer) -> Iterator[Block]:
    w = composer.w
    kinds = (measure_facts.STANDARD, measure_facts.COMPLETION)
    adjusted = [
        m
        for m in composer.subject.measures
        if m.adjusted is not None and m.is_judged and m.kind in kinds
    ]
    if not adjusted:
        return
    rows = []
    for measure in adjusted:
        assert measure.adjusted is not None
        interval = (
            w.interval(measure.adjusted.low, measure.adjusted.high)
            if measure.adjusted.low is not None and measure.adjusted.high is not None
            else "–"
        )
        rows.append(
            (
                composer.title(measure),
                value_words(measure, w),
                f"{w.percent(measure.adjusted.value)} ({interval})",
                w.percent(measure.adjusted.expected),
            )
        )
    columns = (
        w.gettext("What"),
        w.gettext("As it is"),
        w.gettext("Adjusted"),
        w.gettext("Expected of these exams"),
    )
    by = dict.fromkeys(each for m in adjusted if m.adjusted for each in m.adjusted.by)
    caption = w.gettext("Adjusted for {facts}").format(facts=adjustment_words(tuple(by), w))
    yield TableBlock(Table(caption, columns, tuple(rows)))
    cleared = [m for m in adjusted if m.unadjusted_flag is not None and m.flag is None]
    explained = [m for m in cleared if _is_explained(m)]
    if explained:
        yield Paragraph(
            w.gettext(
                "Without adjustment this would have been called: {measures}. The mix of exams"
                " explains it."
            ).format(measures="; ".join(map(composer.title, explained)))
        )
    within = [m for m in cleared if m not in explained]
    if within:
        yield Paragraph(
            w.gettext(
                "Without adjustment this would have been called: {measures}. The mix of exams"
                " does not explain it, but others differ from each other as much."
            ).format(measures="; ".join(map(composer.title, within)))
        )


def _power(composer: Composer) -> Iterator[Block]:
    w = composer.w
    parts = [
        (composer.title(m), w.chance(m.power))
        for m in composer.subject.measures
        if m.power is not None
        and m.is_judged
        and m.kind in (measure_facts.STANDARD, measure_facts.COMPLETION)
    ]
    if parts:
        yield Paragraph(
            w.gettext(
                "Power: a true share {points} points worse than the benchmark would be called in"
                " so many of all periods with as many pictures as this one: {parts}. In the"
                " others it passes."
            ).format(points=round(100 * _POWER_DIFFERENCE), parts=w.join_pairs(parts)),
            is_small=True,
        )


def _is_explained(measure: Measure) -> bool:
    """Whether the measure, with the case mix taken out, comes nearer to what all have of all."""
    adjusted = measure.adjusted
    if adjusted is None or adjusted.overall is None or measure.value is None:
        return False
    return abs(adjusted.value - adjusted.overall) < abs(measure.value - adjusted.overall)


def _points(effect: float, w: Wording) -> str:
    sign = "+" if effect > 0 else "−" if effect < 0 else ""
    return w.gettext("{sign}{value} points").format(
        sign=sign, value=w.decimal(abs(100 * effect), 1)
    )
