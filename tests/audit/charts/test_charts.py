"""Charts whatever the numbers and names: all marks on the paper, no label on another, valid XML."""

from datetime import date, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qc_daemon.audit.charts.agreement_table import agreement_chart
from qc_daemon.audit.charts.axes import LegendEntry, legend, line_sample
from qc_daemon.audit.charts.drawing import (
    SMALL,
    Drawing,
    Line,
    Marker,
    MarkerShape,
    Text,
    Tone,
    overlap,
    texts,
    write_svg,
)
from qc_daemon.audit.charts.funnel import FunnelUnit, funnel_chart
from qc_daemon.audit.charts.rows import ForestRow, StripRow, forest_chart, strip_chart
from qc_daemon.audit.charts.time_charts import (
    ChartEvent,
    SumPoint,
    TimePoint,
    control_chart,
    cusum_chart,
)
from qc_daemon.audit.statistics.control_charts import Rule
from qc_daemon.audit.statistics.proportions import FunnelLimits, Proportion, funnel_limits
from qc_daemon.language.catalogues import LANGUAGES
from qc_daemon.language.fonts import text_width
from qc_daemon.language.wording import Wording
from tests.support.charts import check_chart

SVG = "{http://www.w3.org/2000/svg}"
ENGLISH = Wording("en")
WORDINGS = st.sampled_from(LANGUAGES).map(Wording)
# Any letters, controls, quotes and markup among them, and scripts that run the other way.
NAMES = st.one_of(
    st.text(max_size=64),
    st.sampled_from(
        [
            "张伟明",
            "نور الهدى العبد الله",
            "<script>alert(1)</script>",
            'a"b&c',
            "W" * 64,
            "Dr \x00\x1b Ng",
        ]
    ),
)
SHARES = st.integers(0, 4000).flatmap(lambda n: st.integers(0, n).map(lambda x: Proportion(x, n)))
DAYS = st.dates(date(2020, 1, 1), date(2030, 12, 31))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(SHARES, NAMES, st.booleans(), st.booleans()), min_size=1, max_size=20),
    st.floats(0.02, 0.98),
    NAMES,
    WORDINGS,
)
def test_funnel(
    units: list[tuple[Proportion, str, bool, bool]], target: float, title: str, w: Wording
) -> None:
    dots = [FunnelUnit(*unit) for unit in units] + [FunnelUnit(Proportion(20, 40), "A", True)]
    chart = funnel_chart(dots, target, lambda n: funnel_limits(target, max(1, n)), title, w)
    check_chart(chart)
    assert len(chart.table.rows) == sum(unit.share.n > 0 for unit in dots)


def test_a_name_in_a_funnel_stands_on_no_line() -> None:
    """Its marker lies on an inner limit, which a name to the left would be struck through by."""
    units = [FunnelUnit(Proportion(600, 1200), "A device with a name", True)]
    units += [FunnelUnit(Proportion(800, 1200))]
    limits = FunnelLimits(0.42, 0.5, 0.75, 0.82)
    chart = funnel_chart(units, 0.65, lambda _: limits, "Funnel", ENGLISH)
    name = next(t for t in texts(chart.drawing.shapes) if t.bold)
    for line in (each for each in chart.drawing.shapes if isinstance(each, Line)):
        for (x0, y0), (x1, y1) in pairwise(line.points):
            is_grid = line.tone is Tone.PALE
            box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            assert is_grid or not overlap(name.box, box)


@st.composite
def time_points(draw: st.DrawFn) -> list[TimePoint]:
    start = draw(DAYS)
    step = draw(st.integers(1, 31))
    points = []
    for index in range(draw(st.integers(1, 60))):
        share = draw(SHARES.filter(lambda each: each.n > 0))
        low, centre, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
        points.append(
            TimePoint(
                start + timedelta(days=step * index),
                share.x / share.n,
                centre,
                *((low, high) if draw(st.booleans()) else (None, None)),
                tuple(draw(st.lists(st.sampled_from([*Rule, "another"]), max_size=2))),
                share.x,
                share.n,
                draw(st.sampled_from(["", "?exam=1&x=2"])),
            )
        )
    return points


EVENTS = st.lists(st.builds(ChartEvent, DAYS, NAMES), max_size=12)


@settings(max_examples=15, deadline=None)
@given(time_points(), EVENTS, NAMES, WORDINGS, st.booleans())
def test_control_chart(
    points: list[TimePoint], events: list[ChartEvent], title: str, w: Wording, is_share: bool
) -> None:
    first, last = points[0].day, points[-1].day
    inside = [event for event in events if first <= event.day <= last]
    # Events of the whole time, so that many of them lie near to each other.
    days = (last - first).days
    near = [ChartEvent(first + timedelta(days=(7 * i) % (days + 1)), "x") for i in range(9)]
    chart = control_chart(points, [*events, *near], title, w, is_share=is_share)
    check_chart(chart)
    assert len(chart.notes) == len(inside) + 9


@settings(max_examples=15, deadline=None)
@given(
    DAYS,
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 50)), min_size=1, max_size=90),
    st.floats(0.1, 30),
    WORDINGS,
)
def test_cusum(first: date, sums: list[tuple[float, float]], limit: float, w: Wording) -> None:
    points = [
        SumPoint(first + timedelta(days=7 * i), upper, lower)
        for i, (upper, lower) in enumerate(sums)
    ]
    root = check_chart(cusum_chart(points, limit, [ChartEvent(first, "probe")], "CUSUM", w))
    crossings = sum(each > limit for pair in sums for each in pair)
    legend = 1 if crossings else 0
    assert len(root.findall(f".//{SVG}polygon")) == crossings + legend


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(NAMES, SHARES, st.none() | st.floats(0, 1)), min_size=1, max_size=25),
    WORDINGS,
)
def test_forest(rows: list[tuple[str, Proportion, float | None]], w: Wording) -> None:
    check_chart(forest_chart([ForestRow(*row) for row in rows], "Criteria", w))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(NAMES, SHARES, st.lists(st.floats(0, 1), max_size=50).map(tuple)),
        min_size=1,
        max_size=12,
    ),
    WORDINGS,
)
def test_strip(rows: list[tuple[str, Proportion, tuple[float, ...]]], w: Wording) -> None:
    chart = strip_chart([StripRow(*row) for row in rows], "Among others", w)
    check_chart(chart)


def test_a_band_needs_five_others_and_has_no_extremes() -> None:
    shares = (0.11, 0.42, 0.5, 0.61, 0.93)
    chart = strip_chart([StripRow("All", Proportion(30, 40), shares)], "Others", ENGLISH)
    everything = write_svg(chart.drawing, "c") + str(chart.table)
    assert chart.table.rows[0][4:] == (ENGLISH.interval(0.42, 0.61), ENGLISH.percent(0.5))
    assert ENGLISH.percent(0.11) not in everything
    assert ENGLISH.percent(0.93) not in everything
    assert chart.notes == ()
    few = strip_chart([StripRow("All", Proportion(30, 40), shares[:4])], "Others", ENGLISH)
    assert few.table.rows[0][4:] == ("–", "–")
    assert "fewer than 5 others" in few.notes[0]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda k: st.tuples(
            st.lists(
                st.lists(st.integers(0, 99999), min_size=k, max_size=k), min_size=k, max_size=k
            ),
            st.lists(NAMES, min_size=k, max_size=k),
        )
    ),
    NAMES,
    NAMES,
    WORDINGS,
)
def test_agreement(
    table: tuple[list[list[int]], list[str]], first: str, second: str, w: Wording
) -> None:
    check_chart(agreement_chart(*table, first, second, "Agreement", w))


def test_others_have_no_name_in_the_funnel() -> None:
    units = [
        FunnelUnit(Proportion(30, 40), "Own Name", is_marked=True),
        FunnelUnit(Proportion(20, 50), "Other Name"),
    ]
    chart = funnel_chart(units, 0.7, lambda n: funnel_limits(0.7, n), "Funnel", ENGLISH)
    everything = write_svg(chart.drawing, "c") + str(chart.table)
    assert "Own Name" in everything
    assert "Other Name" not in everything


def test_a_point_links_and_says_its_numbers() -> None:
    point = TimePoint(date(2026, 7, 6), 0.8, 0.7, 0.5, 0.9, x=16, n=20, href="/exams?week=28&p=1")
    root = ElementTree.fromstring(write_svg(control_chart([point], [], "A", ENGLISH).drawing, "c"))
    (link,) = root.findall(f"{SVG}a")
    assert link.get("href") == "/exams?week=28&p=1"
    (note,) = link.findall(f".//{SVG}title")
    assert note.text == "2026-07-06: 80\N{NO-BREAK SPACE}% (16/20)"


def test_an_alarm_has_another_shape_than_a_point_within_its_limits() -> None:
    day = date(2026, 7, 6)
    shapes = {
        rule: next(
            each.shape
            for each in control_chart(
                [TimePoint(day, 0.5, rules=(rule,))], [], "A", ENGLISH
            ).drawing.shapes
            if isinstance(each, Marker)
        )
        for rule in ("", *Rule)
    }
    assert len(set(shapes.values())) == len(shapes)
    assert shapes[Rule.BEYOND] is MarkerShape.DIAMOND


def test_limits_are_those_of_each_point() -> None:
    """A step where the limits changed, at the place between the points."""
    points = [
        TimePoint(date(2026, 1, 5), 0.5, 0.5, 0.4, 0.6),
        TimePoint(date(2026, 1, 12), 0.5, 0.5, 0.2, 0.8),
    ]
    chart = control_chart(points, [], "A", ENGLISH)
    assert [row[3] for row in chart.table.rows] == [
        "40\N{NO-BREAK SPACE}% – 60\N{NO-BREAK SPACE}%",
        "20\N{NO-BREAK SPACE}% – 80\N{NO-BREAK SPACE}%",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_drawn(value: float) -> None:
    drawing = Drawing(10, 10, "t", "d", (Text(value, 5, "x"),))
    with pytest.raises(ValueError, match="coordinate"):
        write_svg(drawing, "c")


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_written_as_the_language_does(language: str) -> None:
    w = Wording(language)
    space = "" if language == "zh" else "\N{NO-BREAK SPACE}"
    comma = "," if language == "de" else "."
    assert w.percent(0.4567, 1) == f"45{comma}7{space}%"
    assert w.percent(None) == w.decimal(float("nan")) == "–"
    assert w.interval(0.714, 0.921) == f"71–92{space}%"


@given(st.lists(st.text("abc ", min_size=1, max_size=40), min_size=1, max_size=5), st.data())
def test_legends_cut_no_words_that_fit(words: list[str], data: st.DataObject) -> None:
    """Also where a row ends just at the edge."""
    entries = [LegendEntry(line_sample(), each) for each in words]
    widest = max(text_width(each, SMALL) for each in words)
    right = 8.0 + 28.0 + widest + data.draw(st.floats(0.0, 300.0))
    texts = [shape for shape in legend(entries, 8.0, right, 0.0) if isinstance(shape, Text)]
    assert [each.text for each in texts] == words
    assert all(each.box[2] <= right + 1e-6 for each in texts)
