"""Charts of a row each: shares with their intervals, and where one lies among others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qc_daemon.audit.charts.axes import (
    EDGE,
    WIDTH,
    LegendEntry,
    Scale,
    area_sample,
    labels_below,
    legend,
    legend_height,
    line_sample,
    ticks,
)
from qc_daemon.audit.charts.drawing import (
    SMALL,
    TEXT,
    Anchor,
    Area,
    Chart,
    Drawing,
    Line,
    Marker,
    MarkerShape,
    Shape,
    Table,
    Text,
    Tone,
    shorten,
)
from qc_daemon.audit.statistics.proportions import Proportion
from qc_daemon.language.fonts import text_width
from qc_daemon.language.wording import Wording

_ROW = 26.0
_MAX_LABEL = 0.36
_GAP = 12.0
_LEAST_OTHERS = 5
"""Of fewer a band would single someone out."""


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A share with its name; `reference` is what it is compared with (None: nothing)."""

    label: str
    share: Proportion
    reference: float | None = None
    href: str = ""


@dataclass(frozen=True, slots=True)
class StripRow:
    """The share of one among those of others, who are not named."""

    label: str
    share: Proportion
    others: tuple[float, ...]
    href: str = ""


def forest_chart(
    rows: Sequence[ForestRow], title: str, w: Wording, *, reference_words: str = ""
) -> Chart:
    """x of n with the Wilson interval, a row each; what has no pictures has no mark.

    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("a forest needs a row")
    values = [
        w.gettext("{x}/{n} = {share} ({interval})").format(
            x=row.share.x,
            n=row.share.n,
            share=w.percent(row.share.value),
            interval=w.interval(*row.share.interval()),
        )
        if row.share.n
        else w.gettext("no pictures")
        for row in rows
    ]
    plot = _RowPlot.of([row.label for row in rows], values)
    shapes: list[Shape] = list(plot.grid(w))
    for index, row in enumerate(rows):
        y = plot.y(index)
        shapes += plot.texts(index, row.label, values[index], row.href)
        if row.reference is not None:
            x = plot.x(row.reference)
            shapes.append(Line(((x, y - 9), (x, y + 9)), Tone.MIDDLE, 1.6, (3.0, 2.0)))
        if row.share.value is not None:
            low, high = row.share.interval()
            shapes.append(Line(((plot.x(low), y), (plot.x(high), y)), Tone.INK, 1.6))
            shapes += [
                Line(((plot.x(end), y - 4), (plot.x(end), y + 4)), Tone.INK, 1.2)
                for end in (low, high)
            ]
            shapes.append(
                Marker(
                    plot.x(row.share.value),
                    y,
                    MarkerShape.SQUARE,
                    4.5,
                    Tone.ACCENT,
                    values[index],
                    row.href,
                )
            )
    entries = [
        LegendEntry(Marker(0, 0, MarkerShape.SQUARE, 4.5, Tone.ACCENT), w.gettext("share")),
        LegendEntry(line_sample(Tone.INK, 1.6), w.gettext("95 % interval (Wilson)")),
    ]
    if any(row.reference is not None for row in rows):
        entries.append(
            LegendEntry(
                Line(((0.0, -7.0), (0.0, 7.0)), Tone.MIDDLE, 1.6, (3.0, 2.0)),
                reference_words or w.gettext("compared with"),
            )
        )
    has_reference = any(row.reference is not None for row in rows)
    columns = (
        w.gettext("What"),
        "x/n",
        w.gettext("Share"),
        w.gettext("95 % interval"),
        *((reference_words or w.gettext("compared with"),) if has_reference else ()),
    )
    table = Table(
        title,
        columns,
        tuple(
            (
                row.label,
                f"{row.share.x}/{row.share.n}",
                w.percent(row.share.value),
                w.interval(*row.share.interval()) if row.share.n else "–",
                *((w.percent(row.reference),) if has_reference else ()),
            )
            for row in rows
        ),
        tuple(row.href for row in rows),
    )
    description = w.gettext("Shares with their 95 % intervals: {rows}.").format(
        rows="; ".join(f"{row.label} {text}" for row, text in zip(rows, values, strict=True))
    )
    return plot.chart(shapes, entries, title, description, table)


def strip_chart(rows: Sequence[StripRow], title: str, w: Wording) -> Chart:
    """Where a share lies among others': the middle half and the median as a band, without names,
    counts, extremes or ranks. Raises ValueError without rows."""
    if not rows:
        raise ValueError("a strip needs a row")
    values = [
        f"{row.share.x}/{row.share.n} = {w.percent(row.share.value)}"
        if row.share.n
        else w.gettext("no pictures")
        for row in rows
    ]
    plot = _RowPlot.of([row.label for row in rows], values)
    shapes: list[Shape] = list(plot.grid(w))
    table_rows = []
    for index, row in enumerate(rows):
        y = plot.y(index)
        shapes += plot.texts(index, row.label, values[index], row.href)
        span = _quantiles(row.others)
        if span is not None:
            lower, median, upper = (plot.x(each) for each in span)
            shapes += [
                Area(_bar(lower, upper, y, 7.0), Tone.LIGHT),
                Line(((median, y - 9), (median, y + 9)), Tone.INK, 1.6),
            ]
        if row.share.value is not None:
            shapes.append(
                Marker(
                    plot.x(row.share.value),
                    y,
                    MarkerShape.DIAMOND,
                    7.0,
                    Tone.ACCENT,
                    values[index],
                    row.href,
                )
            )
        table_rows.append(
            (
                row.label,
                f"{row.share.x}/{row.share.n}",
                w.percent(row.share.value),
                str(len(row.others)),
                "–" if span is None else w.interval(span[0], span[2]),
                "–" if span is None else w.percent(span[1]),
            )
        )
    entries = [
        LegendEntry(Marker(0, 0, MarkerShape.DIAMOND, 6.5, Tone.ACCENT), w.gettext("own share"))
    ]
    if any(_quantiles(row.others) is not None for row in rows):
        sample = Line(((0.0, -7.0), (0.0, 7.0)), Tone.INK, 1.6)
        entries += [
            LegendEntry(area_sample(Tone.LIGHT), w.gettext("middle half of the others")),
            LegendEntry(sample, w.gettext("median of the others")),
        ]
    columns = (
        w.gettext("What"),
        "x/n",
        w.gettext("Share"),
        w.gettext("Others"),
        w.gettext("Middle half"),
        w.gettext("Median"),
    )
    table = Table(title, columns, tuple(table_rows), tuple(row.href for row in rows))
    description = w.gettext("Own shares among those of others: {rows}.").format(
        rows="; ".join(f"{row.label} {text}" for row, text in zip(rows, values, strict=True))
    )
    few = w.gettext("There is no band where fewer than {least} others can be judged.")
    notes = (few.format(least=_LEAST_OTHERS),)
    has_all = all(_quantiles(row.others) is not None for row in rows)
    chart = plot.chart(shapes, entries, title, description, table)
    return chart if has_all else replace(chart, notes=notes)


def _quantiles(shares: Sequence[float]) -> tuple[float, float, float] | None:
    """Quarter, median and three quarters, between neighbours; None of fewer than five."""
    if len(shares) < _LEAST_OTHERS:
        return None
    ordered = sorted(shares)

    def at(part: float) -> float:
        place = part * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return at(0.25), at(0.5), at(0.75)


def _bar(x0: float, x1: float, y: float, half: float) -> tuple[tuple[float, float], ...]:
    # A span of no width is still to be seen.
    x1 = max(x1, x0 + 1.5)
    return ((x0, y - half), (x1, y - half), (x1, y + half), (x0, y + half))


@dataclass(frozen=True, slots=True)
class _RowPlot:
    """Rows with labels at the left and values at the right of a scale from 0 to 1."""

    x: Scale
    rows: int
    label_width: float

    @classmethod
    def of(cls, labels: Sequence[str], values: Sequence[str]) -> "_RowPlot":
        widest = max(text_width(label, TEXT) for label in labels)
        label_width = min(widest, _MAX_LABEL * WIDTH)
        value_width = max(text_width(value, SMALL) for value in values)
        left = EDGE + label_width + _GAP
        right = WIDTH - EDGE - value_width - _GAP
        return cls(Scale(0.0, 1.0, left, right), len(labels), label_width)

    def y(self, index: int) -> float:
        return EDGE + _ROW * (index + 0.5)

    @property
    def bottom(self) -> float:
        return EDGE + _ROW * self.rows

    def grid(self, w: Wording) -> list[Shape]:
        shapes: list[Shape] = [
            Line(((self.x(value), EDGE), (self.x(value), self.bottom)), Tone.PALE, 0.8)
            for value in ticks(0.0, 1.0)
        ]
        shapes.append(
            Line(((self.x.start, self.bottom), (self.x.end, self.bottom)), Tone.MIDDLE, 1.0)
        )
        labels = [(value, w.percent(value)) for value in ticks(0.0, 1.0)]
        # The first and last label may reach beyond the scale: there are gaps.
        shapes += labels_below(self.x, labels, self.bottom, self.x.start - _GAP, self.x.end + _GAP)
        return shapes

    def texts(self, index: int, label: str, value: str, href: str) -> list[Text]:
        y = self.y(index) + 4
        name = shorten(label, TEXT, self.label_width + 0.01)
        return [
            Text(EDGE, y, name, TEXT, href=href),
            Text(WIDTH - EDGE, y, value, SMALL, Anchor.END),
        ]

    def chart(
        self,
        shapes: Sequence[Shape],
        entries: Sequence[LegendEntry],
        title: str,
        description: str,
        table: Table,
    ) -> Chart:
        below = self.bottom + 26
        height = below + legend_height(entries, EDGE, WIDTH - EDGE) + EDGE / 2
        whole = (*shapes, *legend(entries, EDGE, WIDTH - EDGE, below))
        return Chart(Drawing(WIDTH, height, title, description, whole), table)
