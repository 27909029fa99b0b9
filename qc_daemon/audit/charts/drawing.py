"""Drawings of lines, areas, markers and texts, and how they are written as SVG.

Lengths are pixels of CSS (1/96 inch), y runs down. The SVG has presentation attributes only: no
script, no style attribute, so that it stands in pages with `style-src 'self'`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from xml.sax.saxutils import escape, quoteattr

from qc_daemon.language.fonts import text_width

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max."""

TEXT, SMALL = 12.0, 11.0
"""Sizes of letters: of labels, and of ticks and legends."""
FONT_FAMILY = "'DejaVu Sans', Verdana, 'Noto Sans', 'Noto Sans SC', sans-serif"
# Parts of a letter's size above and below its base line.
_ASCENT, _DESCENT = 0.76, 0.24


class Tone(StrEnum):
    """Colours that stay apart in grey: from dark to light."""

    INK = "#111111"
    ACCENT = "#00507d"
    MIDDLE = "#666666"
    LIGHT = "#a6a6a6"
    PALE = "#dedede"
    FAINT = "#f2f2f2"
    PAPER = "#ffffff"


class MarkerShape(StrEnum):
    """What a point looks like: each means one thing in a chart."""

    DOT = "dot"
    RING = "ring"
    DIAMOND = "diamond"
    SQUARE = "square"
    TRIANGLE = "triangle"


@dataclass(frozen=True, slots=True)
class Line:
    """A broken line through two or more points; `dash` are lengths of stroke and gap."""

    points: tuple[Point, ...]
    tone: Tone = Tone.INK
    width: float = 1.0
    dash: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Area:
    """A filled polygon."""

    points: tuple[Point, ...]
    tone: Tone = Tone.PALE


@dataclass(frozen=True, slots=True)
class Marker:
    """A point at its centre; `radius` half its size. `note` is shown when it is pointed at, `href`
    is where a click leads."""

    x: float
    y: float
    shape: MarkerShape = MarkerShape.DOT
    radius: float = 3.5
    tone: Tone = Tone.INK
    note: str = ""
    href: str = ""

    @property
    def outline(self) -> tuple[Point, ...]:
        """The corners of a marker that has any."""
        x, y, r = self.x, self.y, self.radius
        corners: dict[MarkerShape, tuple[Point, ...]] = {
            MarkerShape.DIAMOND: ((x, y - r), (x + r, y), (x, y + r), (x - r, y)),
            MarkerShape.SQUARE: ((x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)),
            MarkerShape.TRIANGLE: ((x, y - r), (x + r, y + r), (x - r, y + r)),
        }
        return corners.get(self.shape, ())


class Anchor(StrEnum):
    """Which part of a text lies at its x."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


@dataclass(frozen=True, slots=True)
class Text:
    """One line; y is its base line."""

    x: float
    y: float
    text: str
    size: float = TEXT
    anchor: Anchor = Anchor.START
    tone: Tone = Tone.INK
    bold: bool = False
    href: str = ""

    @property
    def width(self) -> float:
        return text_width(self.text, self.size, bold=self.bold)

    @property
    def left(self) -> float:
        part = {Anchor.START: 0.0, Anchor.MIDDLE: 0.5, Anchor.END: 1.0}[self.anchor]
        return self.x - part * self.width

    @property
    def box(self) -> Box:
        left = self.left
        return (
            left,
            self.y - _ASCENT * self.size,
            left + self.width,
            self.y + _DESCENT * self.size,
        )


Shape = Line | Area | Marker | Text


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes on paper of a width and height, drawn in this order. `title` says in a line what it
    is, `description` what it shows to somebody who does not see it."""

    width: float
    height: float
    title: str
    description: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers of a chart: a caption, the heads of the columns, and rows of as many words.

    `hrefs` has where each row leads, or is empty.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hrefs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, the table of its numbers, and lines that belong below it."""

    drawing: Drawing
    table: Table
    notes: tuple[str, ...] = ()


def write_svg(drawing: Drawing, name: str) -> str:
    """The drawing as an SVG element for a page; `name` (letters, digits, hyphens) is unique there.

    The same drawing and name make the same text.
    """
    # A picture has no links in it, for who hears the page: then it is a group of them.
    has_links = any(getattr(shape, "href", "") for shape in drawing.shapes)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart"'
        f' role="{"group" if has_links else "img"}"'
        f' aria-labelledby="{name}-title {name}-description"'
        f' viewBox="0 0 {number(drawing.width)} {number(drawing.height)}"'
        f' width="{number(drawing.width)}" height="{number(drawing.height)}"'
        f' font-family="{FONT_FAMILY}">'
    )
    return "".join(
        (
            head,
            f'<title id="{name}-title">{clean(drawing.title)}</title>',
            f'<desc id="{name}-description">{clean(drawing.description)}</desc>',
            *map(_element, drawing.shapes),
            "</svg>",
        )
    )


def clean(text: str) -> str:
    """The text for the inside of an element: escaped, without letters that XML does not allow."""
    return escape("".join(filter(_is_allowed, text)))


def number(value: float) -> str:
    """A coordinate to a hundredth of a pixel. Raises ValueError for one that is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"a coordinate of {value}")
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def shorten(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """The text, cut with an ellipsis where it is wider than `width`."""
    if text_width(text, size, bold=bold) <= width:
        return text
    while text and text_width(f"{text}…", size, bold=bold) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def overlap(one: Box, other: Box, gap: float = 0.0) -> bool:
    """Whether two boxes come nearer than `gap`."""
    return (
        one[0] < other[2] + gap
        and other[0] < one[2] + gap
        and one[1] < other[3] + gap
        and other[1] < one[3] + gap
    )


def bounds(shape: Shape) -> Box:
    """The box around a shape, without the width of its lines."""
    if isinstance(shape, Text):
        return shape.box
    if isinstance(shape, Marker):
        r = shape.radius
        return (shape.x - r, shape.y - r, shape.x + r, shape.y + r)
    xs, ys = zip(*shape.points, strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


def texts(shapes: Iterable[Shape]) -> Iterator[Text]:
    """The texts among the shapes."""
    return (shape for shape in shapes if isinstance(shape, Text))


def _is_allowed(letter: str) -> bool:
    """Whether XML 1.0 (production 2) has the letter; a line's end is none in a text of one line."""
    code = ord(letter)
    return code == 9 or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def _element(shape: Shape) -> str:
    if isinstance(shape, Line):
        dash = f' stroke-dasharray="{" ".join(map(number, shape.dash))}"' if shape.dash else ""
        return (
            f'<polyline points="{_points(shape.points)}" fill="none" stroke="{shape.tone}"'
            f' stroke-width="{number(shape.width)}"{dash}/>'
        )
    if isinstance(shape, Area):
        return f'<polygon points="{_points(shape.points)}" fill="{shape.tone}"/>'
    if isinstance(shape, Marker):
        return _with_link(_marker(shape), shape.href)
    weight = ' font-weight="700"' if shape.bold else ""
    return _with_link(
        f'<text x="{number(shape.x)}" y="{number(shape.y)}" font-size="{number(shape.size)}"'
        f' text-anchor="{shape.anchor}" fill="{shape.tone}"{weight}>{clean(shape.text)}</text>',
        shape.href,
    )


def _marker(marker: Marker) -> str:
    note = f"<title>{clean(marker.note)}</title>" if marker.note else ""
    if marker.outline:
        return f'<polygon points="{_points(marker.outline)}" fill="{marker.tone}">{note}</polygon>'
    circle = f'cx="{number(marker.x)}" cy="{number(marker.y)}" r="{number(marker.radius)}"'
    if marker.shape is MarkerShape.RING:
        paint = f'fill="{Tone.PAPER}" stroke="{marker.tone}" stroke-width="1.2"'
    else:
        paint = f'fill="{marker.tone}"'
    return f"<circle {circle} {paint}>{note}</circle>"


def _with_link(element: str, href: str) -> str:
    if not href:
        return element
    return f"<a href={quoteattr(''.join(filter(_is_allowed, href)))}>{element}</a>"


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)
