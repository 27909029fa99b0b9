"""The funnel plot: shares against the number of pictures, within limits that narrow with it.

Spiegelhalter 2005 (Stat. Med. 24:1185). The limits that are drawn are interpolated; whether a share
is beyond them was decided by the exact tail and is said by its marker.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qc_daemon.audit.charts.axes import (
    EDGE,
    WIDTH,
    LegendEntry,
    Scale,
    area_sample,
    horizontal_grid,
    labels_below,
    left_margin,
    legend,
    legend_height,
    line_sample,
    padded_scale,
    ticks,
)
from qc_daemon.audit.charts.drawing import (
    SMALL,
    TEXT,
    Anchor,
    Area,
    Box,
    Chart,
    Drawing,
    Line,
    Marker,
    MarkerShape,
    Shape,
    Table,
    Text,
    Tone,
    overlap,
    shorten,
)
from qc_daemon.audit.statistics.proportions import MIN_JUDGED, FunnelLimits, Proportion
from qc_daemon.language.wording import Wording

_PLOT = 230.0
_STEPS = 80
_DASH = (6.0, 4.0)
_LABEL = 220.0


@dataclass(frozen=True, slots=True)
class FunnelUnit:
    """A person, device or site with its share. Only a marked one is named in the chart; `is_beyond`
    says that the audit has called it. `adjusted` is the share with the case mix taken out (None:
    drawn is the share itself)."""

    share: Proportion
    name: str = ""
    is_marked: bool = False
    is_beyond: bool = False
    href: str = ""
    adjusted: float | None = None

    @property
    def height(self) -> float:
        """The share that is drawn (0..1); of one with pictures."""
        return self.share.x / self.share.n if self.adjusted is None else self.adjusted


def funnel_chart(
    units: Sequence[FunnelUnit],
    target: float,
    limits: Callable[[int], FunnelLimits],
    title: str,
    w: Wording,
) -> Chart:
    """The funnel of the units that have pictures, about a target (0..1); `limits` gives those at n.

    Raises ValueError where no unit has pictures.
    """
    with_images = [unit for unit in units if unit.share.n]
    if not with_images:
        raise ValueError("a funnel needs a unit with pictures")
    most = max(*(unit.share.n for unit in with_images), MIN_JUDGED + 10)
    grid = sorted({max(1, round(most * step / _STEPS)) for step in range(1, _STEPS + 1)})
    curve = [(n, limits(n)) for n in grid]
    y_values = [unit.height for unit in with_images] + [target]
    y_values += [v for n, each in curve if n >= MIN_JUDGED for v in _all(each)]
    span = padded_scale(y_values, 0.1, 0.0, 1.0)
    left = left_margin([w.percent(tick) for tick in ticks(span.low, span.high)])
    right, top = WIDTH - EDGE, EDGE + 6
    x = Scale(0.0, 1.04 * most, left, right)
    y = Scale(span.low, span.high, top + _PLOT, top)
    curves = _curves(curve, x, y)
    benchmark = Line(((left, y(target)), (right, y(target))), Tone.INK, 1.4)
    shapes: list[Shape] = [
        Area(_rectangle(left, top, x(MIN_JUDGED), top + _PLOT), Tone.FAINT),
        *horizontal_grid(y, left, right, w.percent),
        *curves,
        benchmark,
        Line(((left, top), (left, top + _PLOT), (right, top + _PLOT)), Tone.MIDDLE, 1.0),
        *labels_below(
            x,
            [(value, f"{value:.0f}") for value in ticks(0.0, x.high, 8)],
            top + _PLOT,
            left,
            right,
        ),
        Text(
            (left + right) / 2,
            top + _PLOT + 33,
            w.gettext("Number of pictures"),
            SMALL,
            Anchor.MIDDLE,
            Tone.MIDDLE,
        ),
    ]
    # Marked ones lie on top.
    for unit in sorted(with_images, key=lambda unit: unit.is_marked):
        shapes.append(_marker(unit, x, y, w))
    shapes += _names(with_images, x, y, (left, top, right), [*curves, benchmark])
    entries = _entries(with_images, target, w)
    below = top + _PLOT + 42
    shapes += legend(entries, left, right, below)
    height = below + legend_height(entries, left, right) + EDGE / 2
    marked = [unit for unit in with_images if unit.is_marked]
    description = w.gettext(
        "Funnel plot of {count} shares about {target}; marked: {marked}."
    ).format(
        count=len(with_images),
        target=w.percent(target),
        marked="; ".join(f"{unit.name} {_share(unit.share, w)}" for unit in marked) or "–",
    )
    return Chart(
        Drawing(WIDTH, height, title, description, tuple(shapes)),
        _table(with_images, limits, title, w),
    )


def _all(limits: FunnelLimits) -> tuple[float, ...]:
    return (limits.low_alarm, limits.low_warning, limits.high_warning, limits.high_alarm)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> tuple[tuple[float, float], ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _curves(curve: Sequence[tuple[int, FunnelLimits]], x: Scale, y: Scale) -> list[Line]:
    """The four limits, where they lie within the plot."""
    lines = []
    for index in range(4):
        is_outer = index in (0, 3)
        points = [(n, _all(limits)[index]) for n, limits in curve]
        pieces: list[list[tuple[float, float]]] = [[]]
        for (n, value), (next_n, next_value) in pairwise(points):
            if all(y.low < each < y.high for each in (value, next_value)):
                pieces[-1] = pieces[-1] or [(x(n), y(value))]
                pieces[-1].append((x(next_n), y(next_value)))
            elif pieces[-1]:
                pieces.append([])
        lines += [
            Line(tuple(piece), Tone.MIDDLE, 1.3 if is_outer else 1.1, () if is_outer else _DASH)
            for piece in pieces
            if len(piece) > 1
        ]
    return lines


def _marker(unit: FunnelUnit, x: Scale, y: Scale, w: Wording) -> Marker:
    share = unit.share
    shape, radius, tone = MarkerShape.RING, 3.5, Tone.MIDDLE
    if unit.is_beyond:
        shape, radius, tone = MarkerShape.SQUARE, 4.0, Tone.MIDDLE
    if unit.is_marked:
        shape, radius, tone = MarkerShape.DIAMOND, 6.5, Tone.ACCENT
    note = f"{unit.name} {_share(share, w)}" if unit.is_marked else _share(share, w)
    return Marker(x(share.n), y(unit.height), shape, radius, tone, note, unit.href)


def _names(
    units: Sequence[FunnelUnit],
    x: Scale,
    y: Scale,
    plot: tuple[float, float, float],
    lines: Sequence[Line],
) -> list[Text]:
    """The names of marked units beside their markers, where they hide as few others, and as little
    of the lines, as can be; one that finds no place is left to the table."""
    points = [(x(unit.share.n), y(unit.height)) for unit in units]
    marks = [(px - 4, py - 4, px + 4, py + 4) for px, py in points]
    marks += [box for line in lines for box in _boxes(line)]
    labels: list[Text] = []
    for unit, (px, py) in zip(units, points, strict=True):
        name = shorten(unit.name, TEXT, _LABEL, bold=True) if unit.is_marked else ""
        places = [label for label in _places(name, px, py) if _is_free(label, labels, plot)]
        if name and places:
            labels.append(min(places, key=lambda p: _overlapped_width(p.box, marks)))
    return labels


def _places(name: str, x: float, y: float) -> list[Text]:
    """Right of a marker, left of it, above and below; then between these."""
    return [
        Text(x + dx, y + dy, name, TEXT, anchor, Tone.ACCENT, bold=True)
        for dx, dy, anchor in (
            (10, 4, Anchor.START),
            (-10, 4, Anchor.END),
            (0, -11, Anchor.MIDDLE),
            (0, 20, Anchor.MIDDLE),
            (6, -9, Anchor.START),
            (-6, -9, Anchor.END),
            (6, 18, Anchor.START),
            (-6, 18, Anchor.END),
        )
    ]


def _overlapped_width(box: Box, others: Sequence[Box]) -> float:
    """How many pixels across the others overlap the box, all together."""
    widths = (
        min(box[2], other[2]) - max(box[0], other[0]) for other in others if overlap(box, other)
    )
    return sum(widths)


def _boxes(line: Line) -> Iterator[Box]:
    """A box around each piece of a line."""
    for (x0, y0), (x1, y1) in pairwise(line.points):
        yield (min(x0, x1), min(y0, y1) - 1, max(x0, x1), max(y0, y1) + 1)


def _is_free(label: Text, others: Sequence[Text], plot: tuple[float, float, float]) -> bool:
    left, top, right = plot
    x0, y0, x1, y1 = label.box
    is_inside = left <= x0 and x1 <= right and top - EDGE <= y0 and y1 <= top + _PLOT
    return is_inside and not any(overlap(label.box, other.box, 2) for other in others)


def _entries(units: Sequence[FunnelUnit], target: float, w: Wording) -> list[LegendEntry]:
    entries = []
    marked = [unit.name for unit in units if unit.is_marked]
    if marked:
        entries.append(
            LegendEntry(Marker(0, 0, MarkerShape.DIAMOND, 6.0, Tone.ACCENT), w.join(marked[:3]))
        )
    if any(not unit.is_marked and not unit.is_beyond for unit in units):
        entries.append(
            LegendEntry(Marker(0, 0, MarkerShape.RING, 3.5, Tone.MIDDLE), w.gettext("others"))
        )
    if any(not unit.is_marked and unit.is_beyond for unit in units):
        words = w.gettext("others beyond the outer limits")
        entries.append(LegendEntry(Marker(0, 0, MarkerShape.SQUARE, 4.0, Tone.MIDDLE), words))
    return [
        *entries,
        LegendEntry(
            line_sample(Tone.INK, 1.4),
            w.gettext("benchmark {share}").format(share=w.percent(target, 1)),
        ),
        LegendEntry(
            line_sample(Tone.MIDDLE, 1.1, _DASH),
            w.gettext("inner limits ({share})").format(share=w.percent(0.95)),
        ),
        LegendEntry(
            line_sample(Tone.MIDDLE, 1.3),
            w.gettext("outer limits ({share})").format(share=w.percent(0.998, 1)),
        ),
        LegendEntry(
            area_sample(Tone.FAINT),
            w.gettext("fewer than {n} pictures: not assessable").format(n=MIN_JUDGED),
        ),
    ]


def _share(share: Proportion, w: Wording) -> str:
    return f"{share.x}/{share.n} = {w.percent(share.value)}"


def _table(
    units: Sequence[FunnelUnit], limits: Callable[[int], FunnelLimits], title: str, w: Wording
) -> Table:
    """Marked units first, then the others by their number of pictures."""
    ordered = sorted(units, key=lambda unit: (not unit.is_marked, -unit.share.n, -unit.share.x))
    has_adjusted = any(unit.adjusted is not None for unit in units)
    rows = []
    for unit in ordered:
        outer = limits(unit.share.n)
        rows.append(
            (
                unit.name if unit.is_marked else w.gettext("another"),
                f"{unit.share.x}/{unit.share.n}",
                w.percent(unit.share.value),
                w.interval(*unit.share.interval()),
                *((w.percent(unit.adjusted),) if has_adjusted else ()),
                w.interval(outer.low_warning, outer.high_warning),
                w.interval(outer.low_alarm, outer.high_alarm),
            )
        )
    columns = (
        w.gettext("Who"),
        "x/n",
        w.gettext("Share"),
        w.gettext("95 % interval"),
        *((w.gettext("Adjusted"),) if has_adjusted else ()),
        w.gettext("Inner limits"),
        w.gettext("Outer limits"),
    )
    return Table(title, columns, tuple(rows), tuple(unit.href for unit in ordered))
