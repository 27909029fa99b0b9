"""fpdf2's document with the font of each line set anew, for texts in several fonts."""

from typing import Any

from fpdf import FPDF


class MixedFontPDF(FPDF):  # type: ignore[misc]
    """A document whose lines may begin with letters of a fallback font.

    fpdf2 (2.8.9) takes the font that such a line sets within its own graphics state for the page's,
    so that the next line is written in the codes of one font and drawn in another.
    """

    def _render_styled_text_line(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super()._render_styled_text_line(*arguments, **options)
        finally:
            self.current_font_is_set_on_page = False
