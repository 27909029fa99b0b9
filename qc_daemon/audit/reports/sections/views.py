"""Views, criteria, and pictures to learn from."""

from collections.abc import Iterator, Sequence

from qc_daemon.audit.charts.rows import ForestRow, forest_chart
from qc_daemon.audit.reports import measure_facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import (
    Block,
    ChartBlock,
    Heading,
    Items,
    Paragraph,
    Picture,
    Pictures,
)
from qc_daemon.audit.reports.measure_facts import Measure
from qc_daemon.audit.reports.words import measure_words
from qc_daemon.audit.statistics.proportions import Proportion
from qc_daemon.language.wording import Wording

MAX_CRITERIA = 12
"""At most so many criteria stand in a chart; all of them in the audit."""


def views_section(composer: Composer) -> Iterator[Block]:
    """Standard rate of each view, then which criteria fail."""
    w = composer.w
    rows = [
        ForestRow(
            composer.names.view(m.code),
            m.share,
            _benchmark(m),
        )
        for m in composer.subject.measures
        if m.kind == measure_facts.STANDARD and m.code and m.share is not None
    ]
    if any(row.share.n for row in rows):
        yield Heading(w.gettext("Views"))
        title = w.gettext("Standard pictures of each view")
        chart = forest_chart(rows, title, w, reference_words=w.gettext("benchmark"))
        yield ChartBlock("views", chart)
    failures = [
        m for m in composer.subject.measures if m.kind == measure_facts.FAILURE and m.x and m.share
    ]
    failures.sort(key=lambda m: (-(m.value or 0.0), m.name))
    if failures:
        yield Heading(w.gettext("What fails most"))
        chosen = [
            ForestRow(
                measure_words(m, composer.names, w),
                m.share or Proportion(0, 0),
                _benchmark(m),
            )
            for m in failures[:MAX_CRITERIA]
        ]
        title = w.gettext("Criteria that are not met, of the pictures that were checked")
        chart = forest_chart(chosen, title, w, reference_words=w.gettext("benchmark"))
        yield ChartBlock("criteria", chart)
    sets = [m for m in composer.subject.measures if m.kind == measure_facts.SET_FAILURE and m.x]
    if sets:
        lines = [
            w.gettext("{fault}: in every picture of {x} of {n} exams").format(
                fault=measure_words(m, composer.names, w), x=m.x, n=m.n
            )
            for m in sets
        ]
        yield Items(tuple(lines))


def _benchmark(measure: Measure) -> float | None:
    """What the measure is compared with; None where nobody is judged by so few."""
    return measure.limits.target if measure.limits is not None and measure.is_judged else None


def examples_section(
    w: Wording, good: Sequence[Picture], instructive: Sequence[Picture], left_out: int
) -> Iterator[Block]:
    """Good pictures, then instructive ones with what to change; how many may not be shown."""
    yield Heading(w.gettext("Good pictures"))
    if good:
        yield Pictures(tuple(good))
    else:
        yield Paragraph(w.gettext("No standard picture of this period can be shown."))
    yield Heading(w.gettext("Pictures to learn from"))
    if instructive:
        yield Pictures(tuple(instructive))
    else:
        yield Paragraph(w.gettext("No such picture of this period can be shown."))
    if left_out:
        sentence = w.ngettext(
            "{count} picture is not shown: its file is gone, text may be burned into it, or"
            " somebody is still to read it blinded.",
            "{count} pictures are not shown: their files are gone, text may be burned into"
            " them, or somebody is still to read them blinded.",
            left_out,
        )
        yield Paragraph(sentence.format(count=left_out), is_small=True)
