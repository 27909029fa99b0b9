"""Charts along time: a share with its control limits, EWMA and CUSUM, with what happened meanwhile.

Each point is drawn with the limits that were stored with it: a later setting changes no history.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby, pairwise

from qc_daemon.audit.charts.axes import (
    EDGE,
    WIDTH,
    LegendEntry,
    Scale,
    area_sample,
    date_ticks,
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
)
from qc_daemon.audit.statistics.control_charts import RUN, Rule
from qc_daemon.language.fonts import text_width
from qc_daemon.language.wording import Wording

_PLOT, _SUM_PLOT = 190.0, 140.0
_LANE = 18.0
_DASH = (2.0, 3.0)
_FINE, _FINE_DIGITS = 0.5, 3
"""Values that lie within so narrow a span are written with so many digits."""


@dataclass(frozen=True, slots=True)
class TimePoint:
    """A value of the period that begins on `day`, with the centre and limits that it was judged by
    (None: it was not judged), the rules that it breaks, and x and n where it is a share."""

    day: date
    value: float
    centre: float | None = None
    low: float | None = None
    high: float | None = None
    rules: tuple[str, ...] = ()
    x: int | None = None
    n: int | None = None
    href: str = ""


@dataclass(frozen=True, slots=True)
class ChartEvent:
    """What happened on a day: a service, another probe, software, bundle or criteria."""

    day: date
    words: str


@dataclass(frozen=True, slots=True)
class SumPoint:
    """The two sums of a CUSUM after the period that begins on `day`; both at least 0."""

    day: date
    upper: float
    lower: float
    href: str = ""


def control_chart(
    points: Sequence[TimePoint],
    events: Sequence[ChartEvent],
    title: str,
    w: Wording,
    *,
    is_share: bool = True,
    limit_words: str = "",
) -> Chart:
    """Values along time with their limits; a share (0..1) is written in percent. Also an EWMA.

    Raises ValueError without points.
    """
    ordered = sorted(points, key=lambda point: point.day)
    if not ordered:
        raise ValueError("a chart needs a point")
    values = [point.value for point in ordered]
    values += [v for p in ordered for v in (p.low, p.high, p.centre) if v is not None]
    span = padded_scale(values, 0.1, *((0.0, 1.0) if is_share else (-math.inf, math.inf)))
    digits = _FINE_DIGITS if span.high - span.low < _FINE else 2

    def label(value: float) -> str:
        return w.percent(value) if is_share else w.decimal(value, digits)

    frame = _Frame.of(ordered[0].day, ordered[-1].day, span, events, label)
    shapes = [
        *_limits(ordered, frame),
        *frame.axes(label),
        *_middles(ordered, frame),
        Line(tuple((frame.x_of(p.day), frame.y(p.value)) for p in ordered), Tone.LIGHT, 1.2)
        if len(ordered) > 1
        else Line(((frame.left, frame.bottom), (frame.right, frame.bottom)), Tone.MIDDLE, 1.0),
        *frame.event_marks(),
        *(_mark(point, frame, label) for point in ordered),
    ]
    alarms = [p for p in ordered if _shape(p.rules)[0] is not MarkerShape.DOT]
    description = w.gettext(
        "{count} periods from {first} to {last}; marked: {marked}. Last value {value}."
    ).format(
        count=len(ordered),
        first=ordered[0].day.isoformat(),
        last=ordered[-1].day.isoformat(),
        marked=w.join([p.day.isoformat() for p in alarms]) or "–",
        value=label(ordered[-1].value),
    )
    entries = _entries(ordered, limit_words or w.gettext("limits, as stored then"), w)
    return frame.chart(shapes, entries, title, description, _table(ordered, label, title, w))


def cusum_chart(
    points: Sequence[SumPoint],
    limit: float,
    events: Sequence[ChartEvent],
    title: str,
    w: Wording,
) -> Chart:
    """Both sums of a CUSUM, the lower one drawn downwards, with the limit on either side.

    Raises ValueError without points.
    """
    ordered = sorted(points, key=lambda point: point.day)
    if not ordered:
        raise ValueError("a chart needs a point")
    reach = max(limit, *(max(p.upper, p.lower) for p in ordered)) * 1.1

    def label(value: float) -> str:
        return w.decimal(abs(value), 1)

    span = Scale(-reach, reach, 0, 1)
    frame = _Frame.of(ordered[0].day, ordered[-1].day, span, events, label, _SUM_PLOT)
    zero = frame.y(0.0)
    shapes: list[Shape] = [*frame.axes(label), Line(((frame.left, zero), (frame.right, zero)))]
    for side in (1, -1):
        y = frame.y(side * limit)
        shapes.append(Line(((frame.left, y), (frame.right, y)), Tone.MIDDLE, 1.3))
        sums = [(p, p.upper if side > 0 else p.lower) for p in ordered]
        if len(ordered) > 1:
            path = tuple((frame.x_of(p.day), frame.y(side * each)) for p, each in sums)
            shapes.append(Line(path, Tone.ACCENT, 1.6, () if side > 0 else (7.0, 3.0)))
        shapes += [
            Marker(
                frame.x_of(p.day),
                frame.y(side * each),
                MarkerShape.DIAMOND,
                6.0,
                Tone.INK,
                f"{p.day.isoformat()}: {label(each)}",
                p.href,
            )
            for p, each in sums
            if each > limit
        ]
    shapes += frame.event_marks()
    signal_days = [p.day.isoformat() for p in ordered if max(p.upper, p.lower) > limit]
    description = w.gettext("CUSUM with the limit {limit}; beyond it: {days}.").format(
        limit=label(limit), days=w.join(signal_days) or "–"
    )
    entries = [
        LegendEntry(line_sample(Tone.ACCENT, 1.6), w.gettext("poorer than expected (upwards)")),
        LegendEntry(
            line_sample(Tone.ACCENT, 1.6, (7.0, 3.0)),
            w.gettext("better than expected (downwards)"),
        ),
        LegendEntry(
            line_sample(Tone.MIDDLE, 1.3), w.gettext("limit {limit}").format(limit=label(limit))
        ),
    ]
    if signal_days:
        entries.append(
            LegendEntry(
                Marker(0, 0, MarkerShape.DIAMOND, 6.0), w.gettext("signal: the sum begins again")
            )
        )
    columns = (w.gettext("From"), w.gettext("Sum, poorer"), w.gettext("Sum, better"))
    rows = tuple((p.day.isoformat(), w.decimal(p.upper), w.decimal(p.lower)) for p in ordered)
    table = Table(title, columns, rows, tuple(p.href for p in ordered))
    return frame.chart(shapes, entries, title, description, table)


@dataclass(frozen=True, slots=True)
class _EventMark:
    """One or several events that lie too near to each other to be told apart."""

    x: float
    first: int
    last: int

    @property
    def label(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plot's place, its scales, and the events above it in the order of their days."""

    left: float
    top: float
    x: Scale
    y: Scale
    first: date
    last: date
    events: tuple[ChartEvent, ...]

    @classmethod
    def of(
        cls,
        first: date,
        last: date,
        span: Scale,
        events: Sequence[ChartEvent],
        label: Callable[[float], str],
        plot: float = _PLOT,
    ) -> "_Frame":
        inside = sorted((e for e in events if first <= e.day <= last), key=lambda e: e.day)
        left = left_margin([label(tick) for tick in ticks(span.low, span.high)])
        top = EDGE + (_LANE if inside else 6)
        days = max(1, (last - first).days)
        # Half a period before the first and after the last point.
        x = Scale(-0.02 * days, 1.02 * days, left, WIDTH - EDGE)
        y = Scale(span.low, span.high, top + plot, top)
        return cls(left, top, x, y, first, last, tuple(inside))

    @property
    def right(self) -> float:
        return WIDTH - EDGE

    @property
    def bottom(self) -> float:
        return self.y.start

    def x_of(self, day: date) -> float:
        """The pixel of a day."""
        return self.x((day - self.first).days)

    def axes(self, label: Callable[[float], str]) -> Iterator[Shape]:
        yield from horizontal_grid(self.y, self.left, self.right, label)
        yield Line(
            ((self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)),
            Tone.MIDDLE,
        )
        days = [((day - self.first).days, day.isoformat()) for day in self.tick_days()]
        yield from labels_below(self.x, days, self.bottom, self.left, self.right)

    def tick_days(self) -> list[date]:
        """The days that the axis names."""
        return date_ticks(self.first, self.last)

    def event_marks(self) -> Iterator[Shape]:
        for mark in self._merged_events():
            half = text_width(mark.label, SMALL) / 2
            x = min(max(mark.x, self.left + half), self.right - half)
            yield Line(((mark.x, self.top), (mark.x, self.bottom)), Tone.INK, 1.0, _DASH)
            yield Text(x, self.top - 5, mark.label, SMALL, Anchor.MIDDLE, bold=True)

    def _merged_events(self) -> list[_EventMark]:
        """Marks whose labels do not touch; those that would are one."""
        marks: list[_EventMark] = []
        for number, event in enumerate(self.events, 1):
            marks.append(_EventMark(self.x_of(event.day), number, number))
            while len(marks) > 1 and _touch(marks[-2], marks[-1], self.left, self.right):
                later, earlier = marks.pop(), marks.pop()
                x = (earlier.x + later.x) / 2
                marks.append(_EventMark(x, earlier.first, later.last))
        return marks

    def chart(
        self,
        shapes: Sequence[Shape],
        entries: Sequence[LegendEntry],
        title: str,
        description: str,
        table: Table,
    ) -> Chart:
        """The whole, with its legend below and the events as notes."""
        below = self.bottom + 26
        height = below + legend_height(entries, self.left, self.right) + EDGE / 2
        whole = (*shapes, *legend(entries, self.left, self.right, below))
        notes = tuple(
            f"{number}: {event.day.isoformat()}, {event.words}"
            for number, event in enumerate(self.events, 1)
        )
        return Chart(Drawing(WIDTH, height, title, description, whole), table, notes)


def _touch(one: _EventMark, other: _EventMark, left: float, right: float) -> bool:
    def span(mark: _EventMark) -> tuple[float, float]:
        half = text_width(mark.label, SMALL, bold=True) / 2
        centre = min(max(mark.x, left + half), right - half)
        return centre - half, centre + half

    return span(one)[1] + 4 > span(other)[0]


def _is_judged(point: TimePoint) -> bool:
    return point.low is not None and point.high is not None


def _edges(points: Sequence[TimePoint], frame: _Frame) -> list[tuple[float, float]]:
    """Left and right edge of each point's period: half way to its neighbours."""
    xs = [frame.x_of(point.day) for point in points]
    cuts = [(a + b) / 2 for a, b in pairwise(xs)]
    return list(zip([frame.left, *cuts], [*cuts, frame.right], strict=True))


def _limits(points: Sequence[TimePoint], frame: _Frame) -> Iterator[Shape]:
    """The band between the limits of each point, and its edges as steps."""
    edges = _edges(points, frame)
    for is_judged, group in groupby(
        zip(points, edges, strict=True), key=lambda pair: _is_judged(pair[0])
    ):
        if not is_judged:
            continue
        pairs = list(group)
        high = [(x, frame.y(_or(p.high))) for p, edge in pairs for x in edge]
        low = [(x, frame.y(_or(p.low))) for p, edge in pairs for x in edge]
        yield Area((*high, *reversed(low)), Tone.FAINT)
        yield Line(tuple(high), Tone.MIDDLE, 1.1)
        yield Line(tuple(low), Tone.MIDDLE, 1.1)


def _middles(points: Sequence[TimePoint], frame: _Frame) -> Iterator[Shape]:
    edges = _edges(points, frame)
    for has_centre, group in groupby(
        zip(points, edges, strict=True), key=lambda pair: pair[0].centre is not None
    ):
        if has_centre:
            path = [(x, frame.y(_or(p.centre))) for p, edge in group for x in edge]
            yield Line(tuple(path), Tone.INK, 1.2, (6.0, 4.0))


def _or(value: float | None) -> float:
    assert value is not None
    return value


def _shape(rules: Sequence[str]) -> tuple[MarkerShape, float]:
    """What a point looks like: the gravest rule that it breaks."""
    if Rule.BEYOND in rules:
        return MarkerShape.DIAMOND, 6.0
    if Rule.RUN in rules:
        return MarkerShape.SQUARE, 4.5
    if Rule.TWO_OF_THREE in rules:
        return MarkerShape.TRIANGLE, 4.5
    return MarkerShape.DOT, 3.2


def _mark(point: TimePoint, frame: _Frame, label: Callable[[float], str]) -> Marker:
    shape, radius = _shape(point.rules)
    note = f"{point.day.isoformat()}: {label(point.value)}"
    if point.n is not None:
        note += f" ({point.x}/{point.n})"
    return Marker(
        frame.x_of(point.day),
        frame.y(point.value),
        shape,
        radius,
        Tone.ACCENT if shape is MarkerShape.DOT else Tone.INK,
        note,
        point.href,
    )


def _entries(points: Sequence[TimePoint], limit_words: str, w: Wording) -> list[LegendEntry]:
    entries = [
        LegendEntry(Marker(0, 0, MarkerShape.DOT, 3.2, Tone.ACCENT), w.gettext("value of a period"))
    ]
    for shape, words in (
        (MarkerShape.DIAMOND, w.gettext("alarm: beyond a limit")),
        (MarkerShape.SQUARE, w.gettext("alarm: {run} in a row on one side").format(run=RUN)),
        (MarkerShape.TRIANGLE, w.gettext("note: two of three near a limit")),
    ):
        if any(_shape(point.rules)[0] is shape for point in points):
            entries.append(LegendEntry(Marker(0, 0, shape, 5.0), words))
    if any(point.centre is not None for point in points):
        entries.append(LegendEntry(line_sample(Tone.INK, 1.2, (6.0, 4.0)), w.gettext("centre")))
    if any(map(_is_judged, points)):
        entries.append(LegendEntry(area_sample(Tone.FAINT), limit_words))
    return entries


def rule_words(rule: str, w: Wording) -> str:
    """A rule of a control chart in words; one that is not known as it is."""
    return {
        str(Rule.BEYOND): w.gettext("beyond a limit"),
        str(Rule.RUN): w.gettext("{run} in a row on one side").format(run=RUN),
        str(Rule.TWO_OF_THREE): w.gettext("two of three near a limit (a note)"),
    }.get(rule, rule)


def _table(
    points: Sequence[TimePoint], label: Callable[[float], str], title: str, w: Wording
) -> Table:
    has_counts = any(point.n is not None for point in points)
    columns = (
        w.gettext("From"),
        *(("x/n",) if has_counts else ()),
        w.gettext("Value"),
        w.gettext("Centre"),
        w.gettext("Limits"),
        w.gettext("Remark"),
    )
    rows = []
    for point in points:
        counts = (f"{point.x}/{point.n}" if point.n is not None else "–",)
        bounds = "–"
        if point.low is not None and point.high is not None:
            bounds = f"{label(point.low)} – {label(point.high)}"
        rows.append(
            (
                point.day.isoformat(),
                *(counts if has_counts else ()),
                label(point.value),
                "–" if point.centre is None else label(point.centre),
                bounds,
                w.join([rule_words(rule, w) for rule in point.rules]),
            )
        )
    return Table(title, columns, tuple(rows), tuple(point.href for point in points))
