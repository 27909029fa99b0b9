"""The fonts of pictures and pages. They come with the packages: servers have no fonts."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from fontTools.ttLib import TTFont
from PIL import ImageFont

from qc_daemon.language.catalogues import CHINESE, ENGLISH

_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LATIN = _DEJAVU / "DejaVuSans.ttf"
LATIN_BOLD = _DEJAVU / "DejaVuSans-Bold.ttf"
HAN = Path(__file__).parent / "fonts" / "NotoSansSC-Regular.woff"
"""Simplified Chinese (SIL Open Font License). It has one weight."""

_RIGHT_TO_LEFT = ("R", "AL", "AN")
_PARTS = re.compile(r"[\u3400-\u9fff][，。：；、） ]*|[^ \u3400-\u9fff]+ *| +")
"""A line breaks only between these parts: a word with its spaces, or one letter of Chinese with its
closing marks."""


def font_path(language: str, *, bold: bool = False) -> Path:
    """The font file for words in this language."""
    if language == CHINESE:
        return HAN
    return LATIN_BOLD if bold else LATIN


@lru_cache(maxsize=32)
def load_font(size: int, language: str = ENGLISH, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font for drawing into pictures; `size` in pixels.

    One layout engine everywhere, so that the same words make the same pixels.
    """
    path = font_path(language, bold=bold)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """How wide the text is in our fonts, in the unit of `size`; letters that neither has count as
    wide as Chinese ones, joined forms as their widest."""
    latin = _widths(LATIN_BOLD if bold else LATIN)
    return size * sum(
        0.0 if unicodedata.combining(letter) else latin.get(ord(letter), 1.0) for letter in text
    )


@cache
def _widths(path: Path) -> dict[int, float]:
    """The width of each letter of a font, in parts of its size."""
    with TTFont(path, lazy=True) as font:
        per_em, widths = font["head"].unitsPerEm, font["hmtx"]
        return {code: widths[name][0] / per_em for code, name in font.getBestCmap().items()}


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    """The text in lines of at most `width` pixels; a longer word has a line of its own."""
    line = ""
    for part in _PARTS.findall(text):
        if line and font.getlength((line + part).rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += part
    yield line.rstrip()


def is_drawable(text: str) -> bool:
    """Whether the fonts have all letters of the text and it runs from left to right: other scripts
    would have to be reordered and joined."""
    return all(
        (ord(letter) in _letters(LATIN) or ord(letter) in _letters(HAN))
        and unicodedata.bidirectional(letter) not in _RIGHT_TO_LEFT
        for letter in text
    )


def has_letters(text: str, *paths: Path) -> bool:
    """Whether one of the fonts has each letter of the text."""
    return all(any(ord(letter) in _letters(path) for path in paths) for letter in text)


@cache
def _letters(path: Path) -> frozenset[int]:
    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())
