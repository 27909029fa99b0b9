"""A measure along time."""

from collections.abc import Iterator
from datetime import timedelta

from qc_daemon.audit.charts.time_charts import SumPoint, TimePoint, control_chart, cusum_chart
from qc_daemon.audit.reports import measure_facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, ChartBlock, Paragraph


def trend_section(composer: Composer, name: str, title: str, chart_name: str) -> Iterator[Block]:
    """A measure along time, with its limits as they were, and its CUSUM."""
    w, measure = composer.w, composer.subject.measure(name)
    if measure is None or not measure.periods:
        return
    is_share = measure.unit == "1"
    own, periods = measure.own_trend, measure.points
    if len(periods) == 1:
        yield Paragraph(_single_words(composer, periods[0], title, is_share=is_share))
        return
    points = [
        TimePoint(
            period.start,
            period.value,
            period.centre,
            period.low,
            period.high,
            period.rules,
            period.x,
            period.n if period.x is not None else None,
            composer.href(chart_name, index, period.start, period.end),
        )
        for index, period in enumerate(periods)
    ]
    chart = control_chart(points, composer.events(), title, w, is_share=is_share)
    yield ChartBlock(chart_name, chart)
    if own is not None:
        yield Paragraph(_points_words(composer, own, is_share=is_share), is_small=True)
    if measure.cusum is not None and measure.is_judged:
        sums = [
            SumPoint(
                day,
                upper,
                lower,
                composer.href(f"{chart_name}-cusum", index, day, day + timedelta(days=6)),
            )
            for index, (day, upper, lower) in enumerate(measure.cusum.sums)
        ]
        cusum_title = w.gettext("{title}: small steady changes (CUSUM)").format(title=title)
        yield ChartBlock(
            f"{chart_name}-cusum",
            cusum_chart(sums, measure.cusum.limit, composer.events(), cusum_title, w),
        )


def _single_words(
    composer: Composer, period: measure_facts.Period, title: str, *, is_share: bool
) -> str:
    """The value of a history that has no other."""
    w = composer.w
    value = w.decimal(period.value, 3)
    if is_share:
        value = f"{period.x}/{period.n} = {w.percent(period.value)}"
    return w.gettext(
        "{title}: {value}, from {start} to {end}. A trend needs more than one period."
    ).format(title=title, value=value, start=period.start.isoformat(), end=period.end.isoformat())


def _points_words(composer: Composer, own: measure_facts.OwnTrend, *, is_share: bool) -> str:
    """Of how long and how much each point is."""
    w = composer.w
    if not own.periods:
        return w.gettext(
            "Each point is a week: even a quarter of a year has fewer than {least}, so single"
            " points say little."
        ).format(least=own.least)
    lengths = {4: w.gettext("four weeks"), 13: w.gettext("a quarter of a year (13 weeks)")}
    length = lengths.get(own.weeks, w.gettext("{weeks} weeks").format(weeks=own.weeks))
    counted = w.gettext("pictures or views") if is_share else w.gettext("exams")
    words = w.gettext("Each point is {length}, with at least {least} {counted}.").format(
        length=length, least=own.least, counted=counted
    )
    if own.left_out:
        words += " " + w.gettext("Points not drawn, for there are fewer: {count}.").format(
            count=own.left_out
        )
    return words
