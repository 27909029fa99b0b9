"""A report as a PDF/A-2b file; charts are drawn from the same drawings as the SVG."""

import re
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

from fpdf.enums import DocumentCompliance, MethodReturnValue, XPos, YPos

from qc_daemon.audit.charts.drawing import (
    Area,
    Drawing,
    Line,
    Marker,
    MarkerShape,
    Point,
    Shape,
    Table,
    Text,
    Tone,
)
from qc_daemon.audit.reports.document import (
    Block,
    Callout,
    ChartBlock,
    Document,
    Heading,
    Items,
    Paragraph,
    Picture,
    Pictures,
    TableBlock,
)
from qc_daemon.audit.reports.html import encode_jpeg
from qc_daemon.language import fonts
from qc_daemon.language.catalogues import CHINESE
from qc_daemon.language.pdf_text import MixedFontPDF
from qc_daemon.language.right_to_left import printable

# Lengths in millimetres.
_MARGIN, _FOOTER, _GUTTER = 12.0, 8.0, 5.0
_LINE = 4.3
_PICTURE_HEIGHT = 50.0
_FOLDED_ROWS = 14  # Tables of charts with so many rows stand in two columns, where they are narrow.
# Sizes of letters in points.
_TITLE, _HEADING, _TEXT, _SMALL = 15.0, 11.5, 8.5, 7.5
_MIN_TITLE = 8.0
_POINT = 25.4 / 72
_MAX_SCALE = 0.3
"""A chart is enlarged to at most so many millimetres a pixel: 12 pixels are some ten points."""
_HAN = re.compile(r"(?<=[\u3400-\u9fff，。；：、）])(?=[\u3400-\u9fff（])")
"""A line of Chinese may break here: between its letters, not before a closing mark."""


def report_pdf(document: Document) -> bytes:
    """The PDF/A file, on A4. The same document makes the same bytes; fonts are embedded."""
    sheet = _Sheet(document)
    sheet.add_page()
    sheet.head()
    for index, block in enumerate(document.blocks):
        following = document.blocks[index + 1] if index + 1 < len(document.blocks) else None
        sheet.block(block, following)
    sheet.numbers()
    return bytes(sheet.output())


class _Sheet(MixedFontPDF):
    def __init__(self, document: Document) -> None:
        super().__init__(enforce_compliance=DocumentCompliance.PDFA_2B)
        self.document = document
        self.set_creation_date(document.created)
        self.set_title(document.title)
        self.set_lang(document.language)
        self.set_margins(_MARGIN, _MARGIN)
        self.c_margin = 0.0
        self.set_auto_page_break(True, _MARGIN + _FOOTER)
        language = document.language
        self.add_font("text", "", fonts.font_path(language))
        self.add_font("text", "B", fonts.font_path(language, bold=True))
        self.add_font("other", "", fonts.LATIN if language == CHINESE else fonts.HAN)
        self.set_fallback_fonts(["other"], exact_match=False)
        self.set_xmp_metadata(_metadata(document))

    def file_id(self) -> str:
        """A fixed file id, so that the same document makes the same bytes."""
        return f"<{'0' * 32}><{'0' * 32}>"

    def footer(self) -> None:
        self.set_y(-_MARGIN - 4)
        self._style(_SMALL, Tone.MIDDLE)
        page_number = self.document.page_of.format(page=self.page_no(), pages="{nb}")
        self.cell(0, 4, printable(self.document.notice), new_x=XPos.LMARGIN)
        self.cell(0, 4, page_number, align="R")

    def head(self) -> None:
        """Draw notice, title and facts."""
        self._style(_TEXT, bold=True)
        self.set_draw_color(0)
        self.set_line_width(0.5)
        self._paragraph(self.document.notice, self.epw, line=6.0, is_framed=True, padding=1)
        self.ln(3)
        title = printable(self.document.title)
        size = _TITLE
        self._style(size, bold=True)
        while size > _MIN_TITLE and self.get_string_width(title) > self.epw:
            size -= 0.5
            self._style(size, bold=True)
        self._paragraph(self.document.title, self.epw, line=0.5 * size)
        self.ln(1)
        for name, value in self.document.facts:
            self._style(_TEXT, Tone.MIDDLE)
            self.cell(38, _LINE, name)
            self._style(_TEXT)
            self._paragraph(value, self.epw - 38)
        self.ln(1)

    def block(self, block: Block, following: Block | None) -> None:
        """Draw a block; a heading stays with what follows it."""
        if isinstance(block, Heading):
            self._heading(block.text, 12.0 if following is None else self._least(following))
        elif isinstance(block, Paragraph):
            size = _SMALL if block.is_small else _TEXT
            self._style(size, Tone.MIDDLE if block.is_small else Tone.INK)
            self._paragraph(block.text, self.epw, line=_LINE if size == _TEXT else 3.7)
            self.ln(1.5)
        elif isinstance(block, Items):
            self._items(block)
        elif isinstance(block, Callout):
            self._callout(block)
        elif isinstance(block, ChartBlock):
            self._chart(block)
        elif isinstance(block, TableBlock):
            self._table(block.table)
        else:
            self._pictures(block.pictures)

    def numbers(self) -> None:
        """Draw the tables of the charts."""
        tables = [block.chart.table for block in self.document.charts()]
        if tables:
            self._heading(self.document.numbers, 20.0)
        for table in tables:
            self._table(self._fold(table))

    def _fold(self, table: Table) -> Table:
        """A long and narrow table with its second half beside the first."""
        if len(table.rows) < _FOLDED_ROWS or 2 * sum(self._natural(table)) + 10 > self.epw:
            return table
        half = (len(table.rows) + 1) // 2
        empty = ("",) * len(table.columns)
        rows = [
            (*table.rows[i], "", *(table.rows[half + i] if half + i < len(table.rows) else empty))
            for i in range(half)
        ]
        return Table(table.caption, (*table.columns, "", *table.columns), tuple(rows))

    def _heading(self, text: str, least: float) -> None:
        """A heading that stays with what follows: at least that many millimetres of it."""
        self.ln(3)
        if self.will_page_break(9.0 + least):
            self.add_page()
        self.set_line_width(0.4)
        self.set_draw_color(0)
        y = self.get_y()
        self.line(_MARGIN, y, _MARGIN + self.epw, y)
        self.ln(1.5)
        self._style(_HEADING, bold=True)
        self._paragraph(text, self.epw, line=5.5)
        self.ln(1)

    def _least(self, block: Block) -> float:
        """The height of a block that a heading has to stay with."""
        if isinstance(block, ChartBlock):
            return self._chart_height(block)
        if isinstance(block, Pictures):
            return max(self._picture_height(picture) for picture in block.pictures[:3])
        return 14.0

    def _items(self, items: Items) -> None:
        for line in items.lines:
            if items.is_command:
                self._style(_TEXT)
                self.set_fill_color(*_rgb(Tone.FAINT))
                self._paragraph(line, self.epw, line=5.0, fill=True, padding=1)
                continue
            self._style(_TEXT)
            height = self._height(line, self.epw - 4)
            if self.will_page_break(height):
                self.add_page()
            self.cell(4, _LINE, "•")
            self._paragraph(line, self.epw - 4)
        self.ln(1.5)

    def _callout(self, callout: Callout) -> None:
        width = self.epw - 6
        self._style(_TEXT + 1, bold=True)
        heights = [self._height(callout.title, width, 5.0)]
        self._style(_TEXT)
        heights += [self._height(line, width) for line in callout.lines]
        whole = sum(heights) + 3
        if self.will_page_break(whole):
            self.add_page()
        top = self.get_y()
        self.set_fill_color(*_rgb(Tone.FAINT))
        self.rect(_MARGIN, top, self.epw, whole, style="F")
        self.set_fill_color(0)
        self.rect(_MARGIN, top, 1.4, whole, style="F")
        self.set_xy(_MARGIN + 4, top + 1.5)
        self._style(_TEXT + 1, bold=True)
        self._paragraph(callout.title, width, line=5.0)
        self._style(_TEXT)
        for line in callout.lines:
            self.set_x(_MARGIN + 4)
            self._paragraph(line, width)
        self.set_xy(_MARGIN, top + whole + 2)

    def _chart_height(self, block: ChartBlock) -> float:
        drawing = block.chart.drawing
        notes = len(block.chart.notes) * 3.7
        return 6.0 + drawing.height * self._scale(drawing) + notes + 2

    def _scale(self, drawing: Drawing) -> float:
        """Millimetres of a pixel."""
        return min(_MAX_SCALE, float(self.epw) / drawing.width)

    def _chart(self, block: ChartBlock) -> None:
        drawing = block.chart.drawing
        if self.will_page_break(self._chart_height(block)):
            self.add_page()
        self._style(_TEXT, bold=True)
        self._paragraph(drawing.title, self.epw, line=5.0)
        scale, top = self._scale(drawing), self.get_y()
        for shape in drawing.shapes:
            self._shape(shape, scale, top)
        self.set_dash_pattern()
        self.set_xy(_MARGIN, top + drawing.height * scale)
        for note in block.chart.notes:
            self._style(_SMALL, Tone.MIDDLE)
            self._paragraph(note, self.epw, line=3.7)
        self.ln(2)

    def _shape(self, shape: Shape, scale: float, top: float) -> None:
        def place(points: Sequence[Point]) -> list[Point]:
            return [(_MARGIN + x * scale, top + y * scale) for x, y in points]

        if isinstance(shape, Line):
            self.set_draw_color(*_rgb(shape.tone))
            self.set_line_width(shape.width * scale)
            if shape.dash:
                self.set_dash_pattern(shape.dash[0] * scale, shape.dash[1] * scale)
            else:
                self.set_dash_pattern()
            self.polyline(place(shape.points))
        elif isinstance(shape, Area):
            self.set_fill_color(*_rgb(shape.tone))
            self.polygon(place(shape.points), style="F")
        elif isinstance(shape, Marker):
            self._marker(shape, place, scale)
        else:
            self._text(shape, scale, top)

    def _marker(self, marker: Marker, place: Any, scale: float) -> None:
        self.set_fill_color(*_rgb(marker.tone))
        if marker.outline:
            self.polygon(place(marker.outline), style="F")
            return
        ((x, y),) = place([(marker.x, marker.y)])
        if marker.shape is MarkerShape.RING:
            self.set_dash_pattern()
            self.set_fill_color(*_rgb(Tone.PAPER))
            self.set_draw_color(*_rgb(marker.tone))
            self.set_line_width(1.2 * scale)
            self.circle(x, y, marker.radius * scale, style="DF")
        else:
            self.circle(x, y, marker.radius * scale, style="F")

    def _text(self, text: Text, scale: float, top: float) -> None:
        size = text.size * scale
        self._style(size / _POINT, text.tone, bold=text.bold)
        words = printable(text.text)
        width = float(self.get_string_width(words))
        # The space that was planned is for the width of our own measure.
        planned = text.width * scale
        part = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor]
        x = _MARGIN + text.x * scale - part * min(width, planned)
        self.set_xy(x, top + text.y * scale - 0.76 * size)
        self.cell(width + 0.1, size, words)

    def _table(self, table: Table) -> None:
        if table.caption:
            self._style(_TEXT, bold=True)
            if self.will_page_break(18.0):
                self.add_page()
            self._paragraph(table.caption, self.epw, line=5.0)
        widths = self._widths(table)
        self._row(table.columns, widths, is_head=True)
        for row in table.rows:
            if self.will_page_break(self._row_height(row, widths)):
                self.add_page()
                self._row(table.columns, widths, is_head=True)
            self._row(row, widths, is_head=False)
        self.ln(2.5)

    def _widths(self, table: Table) -> list[float]:
        """The columns' widths: as their words need, the longest shortened where they are too wide
        together."""
        natural = self._natural(table)
        room = float(self.epw)
        if sum(natural) <= room:
            # Some air between the columns, but no lines across the page for two numbers.
            air = min(6.0, (room - sum(natural)) / len(natural))
            return [width + air for width in natural]
        # The widest give way until all fit, none below its share.
        limit, low = max(natural), room / len(natural)
        while sum(min(width, limit) for width in natural) > room and limit > low:
            limit = max(low, limit - 1.0)
        widths = [min(width, limit) for width in natural]
        factor = min(1.0, room / sum(widths))
        return [width * factor for width in widths]

    def _natural(self, table: Table) -> list[float]:
        """The columns' widths where no cell is broken, with a gap."""
        self._style(_SMALL, bold=True)
        widths = [float(self.get_string_width(printable(name))) for name in table.columns]
        self._style(_SMALL)
        for row in table.rows:
            for index, cell in enumerate(row):
                width = float(self.get_string_width(printable(cell)))
                widths[index] = max(widths[index], width)
        return [width + 3.0 for width in widths]

    def _row_height(self, row: Sequence[str], widths: Sequence[float]) -> float:
        self._style(_SMALL)
        return (
            max(
                self._height(cell, width - 2.0, 3.7)
                for cell, width in zip(row, widths, strict=True)
            )
            + 1.2
        )

    def _row(self, row: Sequence[str], widths: Sequence[float], *, is_head: bool) -> None:
        height = self._row_height(row, widths)
        if is_head:
            self._style(_SMALL, bold=True)
            height = max(
                self._height(cell, width - 2.0, 3.7)
                for cell, width in zip(row, widths, strict=True)
            ) + 1.2  # fmt: skip
        top, x = self.get_y(), _MARGIN
        for cell, width in zip(row, widths, strict=True):
            self.set_xy(x, top + 0.6)
            self._style(_SMALL, bold=is_head)
            self._paragraph(cell, width - 2.0, line=3.7)
            x += width
        self.set_draw_color(*_rgb(Tone.MIDDLE if is_head else Tone.LIGHT))
        self.set_line_width(0.3 if is_head else 0.15)
        self.set_dash_pattern()
        self.line(_MARGIN, top + height, _MARGIN + sum(widths) - 2.0, top + height)
        self.set_xy(_MARGIN, top + height)

    @property
    def _picture_width(self) -> float:
        return float(self.epw - 2 * _GUTTER) / 3

    def _picture_size(self, picture: Picture) -> tuple[float, float]:
        rows, columns = picture.pixels.shape[:2]
        scale = min(self._picture_width / columns, _PICTURE_HEIGHT / rows)
        return columns * scale, rows * scale

    def _picture_height(self, picture: Picture) -> float:
        self._style(_TEXT, bold=True)
        height = (
            self._picture_size(picture)[1] + 1 + self._height(picture.title, self._picture_width)
        )
        self._style(_SMALL)
        return height + sum(
            self._height(line, self._picture_width, 3.7) for line in picture.lines
        ) + 2  # fmt: skip

    def _pictures(self, pictures: Sequence[Picture]) -> None:
        for start in range(0, len(pictures), 3):
            row = pictures[start : start + 3]
            height = max(self._picture_height(picture) for picture in row)
            if self.will_page_break(height):
                self.add_page()
            top = self.get_y()
            for column, picture in enumerate(row):
                left = _MARGIN + column * (self._picture_width + _GUTTER)
                width, tall = self._picture_size(picture)
                self.image(
                    BytesIO(encode_jpeg(picture.pixels)), left, top, width, tall,
                    alt_text=picture.title,
                )  # fmt: skip
                self.set_xy(left, top + tall + 1)
                self._style(_TEXT, bold=True)
                self._paragraph(picture.title, self._picture_width)
                self._style(_SMALL)
                for line in picture.lines:
                    self.set_x(left)
                    self._paragraph(line, self._picture_width, line=3.7)
            self.set_xy(_MARGIN, top + height)

    def _style(self, size: float, tone: Tone = Tone.INK, *, bold: bool = False) -> None:
        self.set_font("text", "B" if bold else "", size)
        self.set_text_color(*_rgb(tone))

    def _paragraph(
        self,
        text: str,
        width: float,
        line: float = _LINE,
        *,
        is_framed: bool = False,
        fill: bool = False,
        padding: int = 0,
    ) -> None:
        """Write it from where we are."""
        self.multi_cell(
            width, line, _with_line_breaks(text), align="L", fill=fill, padding=padding,
            border=1 if is_framed else 0, new_x=XPos.LMARGIN, new_y=YPos.NEXT,
        )  # fmt: skip

    def _height(self, text: str, width: float, line: float = _LINE) -> float:
        height: Any = self.multi_cell(
            width, line, _with_line_breaks(text), align="L", dry_run=True,
            output=MethodReturnValue.HEIGHT,
        )  # fmt: skip
        return float(height) if text else line


def _rgb(tone: Tone) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(tone[1:]))  # type: ignore[return-value]


def _with_line_breaks(text: str) -> str:
    return _HAN.sub("\u200b", printable(text))


def _metadata(document: Document) -> str:
    """XMP as PDF/A asks for it (ISO 19005-2, 6.6); fpdf2's own tells the time of the run."""
    moment = document.created.isoformat(timespec="seconds")
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/"'
        f' xmp:CreateDate="{moment}" xmp:ModifyDate="{moment}"'
        ' pdfaid:part="2" pdfaid:conformance="B"><dc:title><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{escape(document.title)}</rdf:li>'
        "</rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
