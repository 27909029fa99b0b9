"""Measuring of NT and CRL."""

from collections.abc import Iterator

from qc_daemon.audit.charts.time_charts import TimePoint, control_chart
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, ChartBlock, Heading, Paragraph
from qc_daemon.audit.reports.sections.trend import trend_section


def nuchal_section(composer: Composer) -> Iterator[Block]:
    """Measuring NT and CRL: bias apart from spread."""
    w = composer.w
    kinds = ("nt-bias", "nt-spread", "nt-digits", "crl-range")
    chosen = [m for m in composer.subject.measures if m.kind in kinds and m.n]
    if not chosen:
        return
    yield Heading(w.gettext("Measuring NT and CRL"))
    yield composer.values(chosen)
    title = w.gettext("NT: bias against the curve, by period")
    yield from trend_section(composer, "nt-bias", title, "nt-bias")
    bias = composer.measure("nt-bias")
    if bias is not None and bias.ewma:
        points = [TimePoint(a.day, a.value, a.centre, a.low, a.high) for a in bias.ewma]
        title = w.gettext("NT: bias against the curve, weighted average (EWMA)")
        chart = control_chart(points, composer.events(), title, w, is_share=False)
        yield ChartBlock("nt-ewma", chart)
    if bias is not None and bias.power is not None and bias.is_judged:
        yield Paragraph(
            w.gettext(
                "Power: a true bias of 10 % would be named in at least so many of all periods"
                " with {n} exams: {power}. In the others it passes."
            ).format(n=bias.n, power=w.chance(bias.power)),
            is_small=True,
        )
    citation = composer.audit.nt_citation or w.gettext("the lab's own curve")
    yield Paragraph(
        w.gettext(
            "Curve: {citation}. This judges measuring, not the fetus; bias and spread are"
            " judged apart."
        ).format(citation=citation),
        is_small=True,
    )
