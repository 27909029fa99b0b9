"""The letters of pictures and pages. They come with the packages: servers have no fonts."""

from functools import cache
from pathlib import Path

import matplotlib
from fontTools.ttLib import TTFont

from qc_daemon.report.language import CHINESE

_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LATIN = _DEJAVU / "DejaVuSans.ttf"
LATIN_BOLD = _DEJAVU / "DejaVuSans-Bold.ttf"
HAN = Path(__file__).parent / "fonts" / "NotoSansSC-Regular.woff"
"""Simplified Chinese (SIL Open Font License). It has one weight."""


def font_path(language: str, *, bold: bool = False) -> Path:
    """The font file for words in this language."""
    if language == CHINESE:
        return HAN
    return LATIN_BOLD if bold else LATIN


def drawable(text: str) -> bool:
    """Whether one of the fonts has each of the letters."""
    return all(ord(letter) in _letters(LATIN) or ord(letter) in _letters(HAN) for letter in text)


def is_han(text: str) -> bool:
    """Whether it has letters that the Latin font lacks."""
    return not all(ord(letter) in _letters(LATIN) for letter in text)


@cache
def _letters(path: Path) -> frozenset[int]:
    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())
