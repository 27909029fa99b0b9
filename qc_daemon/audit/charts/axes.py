"""Scales, ticks and legends that the charts share."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from qc_daemon.audit.charts.drawing import (
    SMALL,
    Anchor,
    Area,
    Line,
    Marker,
    Shape,
    Text,
    Tone,
    shorten,
)
from qc_daemon.language.fonts import text_width

WIDTH = 700.0
"""Of every chart: the width of an A4 page between its margins."""
EDGE = 8.0
_GAP = 6.0
_SAMPLE_GAP = 4.0
_SAMPLE = 24.0
_ROW = 17.0


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, linearly: `low` lies at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; one beyond the scale lies at its end."""
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def padded_scale(values: Sequence[float], least: float, floor: float, ceiling: float) -> Scale:
    """The span of the values with some space around, at least `least` wide and between `floor` and
    `ceiling`; its pixels are to be set."""
    finite = [value for value in values if math.isfinite(value)] or [floor, ceiling]
    low, high = min(finite), max(finite)
    space = max(0.08 * (high - low), (least - (high - low)) / 2)
    low, high = max(floor, low - space), min(ceiling, high + space)
    if high - low < least:
        # At the floor or ceiling there is space on the other side only.
        low, high = max(floor, high - least), min(ceiling, low + least)
    return Scale(low, high, 0.0, 1.0)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most`."""
    span = high - low
    step = 10 ** math.floor(math.log10(span / most))
    step *= next(each for each in (1, 2, 5, 10, 20) if span / (each * step) < most)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + index) * step for index in range(count)]


def left_margin(labels: Sequence[str]) -> float:
    """The space that the labels of a vertical axis need."""
    return EDGE + max((text_width(label, SMALL) for label in labels), default=0.0) + _GAP


def horizontal_grid(
    scale: Scale, left: float, right: float, labels: Callable[[float], str]
) -> Iterator[Shape]:
    """Faint lines at round values, with their labels at the left."""
    for value in ticks(scale.low, scale.high):
        y = scale(value)
        yield Line(((left, y), (right, y)), Tone.PALE, 0.8)
        yield Text(left - _GAP, y + 4, labels(value), SMALL, Anchor.END, Tone.MIDDLE)


def labels_below(
    scale: Scale, places: Sequence[tuple[float, str]], y: float, left: float, right: float
) -> Iterator[Shape]:
    """Ticks at y with labels below, each kept between `left` and `right`, and left out where it
    would come too near to the one before."""
    end = -math.inf
    for value, label in places:
        x, half = scale(value), text_width(label, SMALL) / 2
        centre = min(max(x, left + half), right - half)
        if centre - half < end + 2 * _GAP:
            continue
        end = centre + half
        yield Line(((x, y), (x, y + 4)), Tone.MIDDLE, 0.8)
        yield Text(centre, y + 16, label, SMALL, Anchor.MIDDLE, Tone.MIDDLE)


def date_ticks(first: date, last: date) -> list[date]:
    """Days to name on an axis of time: beginnings of months or years, else single days."""
    days = (last - first).days
    if days < 60:
        step = max(1, math.ceil(days / 6))
        return [first + timedelta(days=step * index) for index in range(days // step + 1)]
    months = max(1, math.ceil(days / 30.4 / 9))
    months = next(each for each in (1, 2, 3, 6, 12, 24, 60, 120, 1200) if each >= months)
    result = []
    number = first.year * 12 + first.month - 1
    number += (-number) % months
    while (number // 12) <= last.year:
        day = date(number // 12, number % 12 + 1, 1)
        if first <= day <= last:
            result.append(day)
        number += months
    return result or [first, last]


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """What a marker, a line or an area means; `sample` draws it around (0, 0)."""

    sample: Marker | Line | Area
    words: str


def legend(entries: Sequence[LegendEntry], left: float, right: float, y: float) -> list[Shape]:
    """The entries in rows from y on; `legend_height` says how much they take."""
    shapes: list[Shape] = []
    for entry, x, row in _legend_places(entries, left, right):
        middle = y + row * _ROW + _ROW / 2
        shapes.append(_move_to(entry.sample, x + _SAMPLE / 2, middle))
        words = shorten(entry.words, SMALL, right - x - _SAMPLE - _SAMPLE_GAP)
        shapes.append(Text(x + _SAMPLE + _SAMPLE_GAP, middle + 4, words, SMALL))
    return shapes


def legend_height(entries: Sequence[LegendEntry], left: float, right: float) -> float:
    """The height of the legend, in pixels."""
    rows = [row for _, _, row in _legend_places(entries, left, right)]
    return _ROW * (max(rows) + 1) if rows else 0.0


def _legend_places(
    entries: Sequence[LegendEntry], left: float, right: float
) -> Iterator[tuple[LegendEntry, float, int]]:
    x, row = left, 0
    for entry in entries:
        width = _SAMPLE + _SAMPLE_GAP + text_width(entry.words, SMALL)
        if x > left and x + width > right:
            x, row = left, row + 1
        yield entry, x, row
        x += width + 16


def line_sample(tone: Tone = Tone.INK, width: float = 1.0, dash: tuple[float, ...] = ()) -> Line:
    """A line of a legend."""
    return Line(((-_SAMPLE / 2, 0.0), (_SAMPLE / 2, 0.0)), tone, width, dash)


def area_sample(tone: Tone = Tone.PALE) -> Area:
    """An area of a legend."""
    half = _SAMPLE / 2
    return Area(((-half, -5.0), (half, -5.0), (half, 5.0), (-half, 5.0)), tone)


def _move_to(sample: Marker | Line | Area, x: float, y: float) -> Shape:
    if isinstance(sample, Marker):
        return Marker(x, y, sample.shape, sample.radius, sample.tone)
    points = tuple((x + dx, y + dy) for dx, dy in sample.points)
    if isinstance(sample, Area):
        return Area(points, sample.tone)
    return Line(points, sample.tone, sample.width, sample.dash)
