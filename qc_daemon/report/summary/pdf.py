"""The summary as a PDF/A-2b file: a grid of views, on one A4 page where the words fit."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from io import BytesIO
from typing import Any

from fpdf.enums import DocumentCompliance, MethodReturnValue, XPos, YPos
from PIL import Image

from detector.frame import Pixels
from qc_daemon.language import fonts
from qc_daemon.language.catalogues import CHINESE
from qc_daemon.language.pdf_text import MixedFontPDF
from qc_daemon.report.objects.overlay import BLACK, VERDICT_COLOURS, WHITE, Colour
from qc_daemon.report.summary.summary import ImageKey, ViewStatus
from qc_daemon.report.summary.text import Cell, Page, Point

Pictures = Mapping[ImageKey, Pixels]
"""Drawn frames (rows, columns, 3) by `SummaryImage.key`."""

# Lengths on the page, in millimetres.
_MARGIN, _GUTTER, _FOOTER = 12.0, 6.0, 5.0
_CELL = (210.0 - 2 * _MARGIN - _GUTTER) / 2
_PICTURE_HEIGHT = 54.0
_BAR = 12.0
_MARK = 4.5
_LINE = 3.9
# Font sizes, in points.
_TITLE, _TEXT, _SMALL = 15, 8.5, 7
_JPEG_QUALITY = 92
_GREY: Colour = (90, 90, 90)
_YELLOW: Colour = (240, 228, 66)
_HAN = re.compile(r"(?<=[\u3400-\u9fff，。；：、）])(?=[\u3400-\u9fff（])")
"""A line of Chinese may break here: between its letters, not before a closing mark."""


def summary_pdf(page: Page, pictures: Pictures, created: datetime) -> bytes:
    """The PDF/A file. The same arguments make the same bytes; fonts are embedded."""
    sheet = _Sheet(page, created)
    sheet.add_page()
    sheet.head()
    for start in range(0, len(page.cells), 2):
        sheet.row(page.cells[start : start + 2], pictures)
    sheet.notes()
    return bytes(sheet.output())


class _Sheet(MixedFontPDF):
    def __init__(self, page: Page, created: datetime) -> None:
        super().__init__(enforce_compliance=DocumentCompliance.PDFA_2B)
        self.page_words = page
        self.set_creation_date(created)
        self.set_title(page.title)
        self.set_lang(page.language)
        self.set_margins(_MARGIN, _MARGIN)
        self.set_auto_page_break(True, _MARGIN + _FOOTER)
        self.add_font("text", "", fonts.font_path(page.language))
        self.add_font("text", "B", fonts.font_path(page.language, bold=True))
        fallback = fonts.LATIN if page.language == CHINESE else fonts.HAN
        self.add_font("other", "", fallback)
        self.set_fallback_fonts(["other"], exact_match=False)
        self.set_xmp_metadata(_metadata(page, created))

    def file_id(self) -> str:
        """A fixed file id: the DICOM object around it distinguishes two summaries."""
        return f"<{'0' * 32}><{'0' * 32}>"

    def footer(self) -> None:
        self.set_y(-_MARGIN - 4)
        self._style(_SMALL, _GREY)
        page_number = self.page_words.page_of.format(page=self.page_no(), pages="{nb}")
        self.cell(0, 4, self.page_words.banner, align="L", new_x=XPos.LMARGIN)
        self.cell(0, 4, page_number, align="R")

    def head(self) -> None:
        """Draw title, patient, study and tasks."""
        if self.page_words.banner:
            self._style(_TEXT + 1.5, bold=True)
            self.set_fill_color(*_YELLOW)
            self.cell(
                0, 6, self.page_words.banner, fill=True, new_x=XPos.LMARGIN, new_y=YPos.NEXT
            )  # fmt: skip
            self.ln(1)
        self._style(_TITLE, bold=True)
        self.cell(0, 8, self.page_words.title, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self._style(_TEXT)
        facts = self.page_words.facts
        for start in range(0, len(facts), 2):
            top, heights = self.get_y(), []
            for column, (label, value) in enumerate(facts[start : start + 2]):
                self.set_xy(_MARGIN + column * (_CELL + _GUTTER), top)
                heights.append(self._paragraph(f"{label}: {value}", _CELL))
            self.set_xy(_MARGIN, top + max(heights))
        self.ln(2)
        for task in self.page_words.tasks:
            self._style(_TEXT + 1.5, bold=True)
            self._paragraph(task, self.epw, line=5.0)
        self.ln(3)

    def row(self, cells: Sequence[Cell], pictures: Pictures) -> None:
        """Draw cells side by side, together on one page."""
        height = max(self._cell_height(cell, pictures) for cell in cells)
        if self.will_page_break(height):
            self.add_page()
        top = self.get_y()
        for column, cell in enumerate(cells):
            self._draw_cell(cell, _MARGIN + column * (_CELL + _GUTTER), top, pictures)
        self.set_xy(_MARGIN, top + height + 4)

    def notes(self) -> None:
        """Draw the notes, which hold for the whole page."""
        self._style(_SMALL, _GREY)
        for note in self.page_words.notes:
            self._paragraph(note, self.epw, line=3.4)

    def _cell_height(self, cell: Cell, pictures: Pictures) -> float:
        self._style(_TEXT)
        height = _BAR + 1.5 + self._picture_size(cell, pictures)[1]
        if cell.caption:
            height += self._height(cell.caption, _CELL) + 1.5
        return height + sum(
            self._height(_point_text(point), _CELL - _MARK) for point in cell.points
        )

    def _picture_size(self, cell: Cell, pictures: Pictures) -> tuple[float, float]:
        """Millimetres; none where there is no picture."""
        if cell.image is None or cell.image.key not in pictures:
            return (0.0, 0.0)
        rows, columns = pictures[cell.image.key].shape[:2]
        scale = min(_CELL / columns, _PICTURE_HEIGHT / rows)
        return (columns * scale, rows * scale)

    def _draw_cell(self, cell: Cell, x: float, y: float, pictures: Pictures) -> None:
        background, letters = VERDICT_COLOURS.get(cell.status, (WHITE, BLACK))
        self.set_fill_color(*background)
        self.set_draw_color(*BLACK)
        # A missing view is an empty frame.
        self.rect(x, y, _CELL, _BAR, style="DF" if cell.status is ViewStatus.MISSING else "F")
        for line, (text, bold) in enumerate([(cell.view, True), (cell.verdict, False)]):
            self._style(_TEXT + 1.5 * bold, letters, bold=bold)
            self.set_xy(x + 1, y + 1 + 5 * line)
            self.cell(_CELL - 2, 5, text)
        y += _BAR + 1.5
        width, height = self._picture_size(cell, pictures)
        if cell.image is not None and height:
            self.image(
                _jpeg(pictures[cell.image.key]), x + (_CELL - width) / 2, y, width, height,
                alt_text=f"{cell.view}, {cell.verdict}",
            )  # fmt: skip
            y += height
        if cell.caption:
            self._style(_TEXT, _GREY)
            self.set_xy(x, y + 0.5)
            y += self._paragraph(cell.caption, _CELL) + 1.5
        self._style(_TEXT)
        for point in cell.points:
            self.set_xy(x, y)
            self.cell(_MARK, _LINE, point.mark)
            self.set_xy(x + _MARK, y)
            y += self._paragraph(_point_text(point), _CELL - _MARK)

    def _style(self, size: float, colour: Colour = BLACK, *, bold: bool = False) -> None:
        self.set_font("text", "B" if bold else "", size)
        self.set_text_color(*colour)

    def _paragraph(self, text: str, width: float, line: float = _LINE) -> float:
        """Write it from where we are; its height."""
        height = self._height(text, width, line)
        self.multi_cell(
            width, line, _with_line_breaks(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT
        )
        return height

    def _height(self, text: str, width: float, line: float = _LINE) -> float:
        height: Any = self.multi_cell(
            width, line, _with_line_breaks(text), align="L", dry_run=True,
            output=MethodReturnValue.HEIGHT,
        )  # fmt: skip
        return float(height)


def _metadata(page: Page, created: datetime) -> str:
    """XMP as PDF/A asks for it (ISO 19005-2, 6.6); fpdf2's own tells the time of the run."""
    moment = created.isoformat(timespec="seconds")
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/"'
        f' xmp:CreateDate="{moment}" xmp:ModifyDate="{moment}"'
        ' pdfaid:part="2" pdfaid:conformance="B"><dc:title><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{escape(page.title)}</rdf:li>'
        "</rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def _point_text(point: Point) -> str:
    return f"{point.text} → {point.fix}" if point.fix else point.text


def _with_line_breaks(text: str) -> str:
    return _HAN.sub("\u200b", text)


def _jpeg(pixels: Pixels) -> BytesIO:
    buffer = BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer
