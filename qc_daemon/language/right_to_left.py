"""Arabic and Hebrew for writers that only put letter after letter, as a PDF's.

Letters are joined by the presentation forms of Unicode (the standard's Arabic cursive joining,
chapter 9.2), which our font has, and put into the order in which they are read on paper by the
bidirectional algorithm (UAX #9).
"""

import re
import unicodedata
from functools import cache

from fpdf.bidi import BidiParagraph
from fpdf.enums import TextDirection

from qc_daemon.language.fonts import HAN, LATIN, has_letters

_FORMS = ("isolated", "final", "initial", "medial")
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_ALEF = "\u0627\u0622\u0623\u0625"
_LAM = "\u0644"


def is_right_to_left(text: str) -> bool:
    """Whether any letter runs from right to left."""
    return any(unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT for letter in text)


def visual_order(text: str) -> str:
    """The text as its letters stand on paper from left to right, joined where they join.

    What runs from right to left is turned by itself, as in a directional isolate (UAX #9, 6.3): the
    words and numbers around it keep their places. It is kept on one line: broken, its words would
    be in the wrong order.
    """
    return _RUN.sub(lambda run: _turn(run[0]), text) if is_right_to_left(text) else text


# From the first to the last letter that runs so, with whatever but other letters is in between.
_LETTERS = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]"
_RUN = re.compile(f"{_LETTERS}(?:[^A-Za-z\u00c0-\u058f\u3400-\u9fff]*{_LETTERS})*")


def _turn(run: str) -> str:
    ordered = BidiParagraph(_join(run), base_direction=TextDirection.RTL).get_reordered_string()
    return str(ordered).translate(_MIRRORED).replace(" ", "\N{NO-BREAK SPACE}")


_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


def is_printable(text: str) -> bool:
    """Whether our fonts have each letter of the text, once it is joined."""
    return has_letters(visual_order(text), LATIN, HAN)


def printable(text: str) -> str:
    """As `visual_order`, with a question mark for each letter that our fonts lack."""
    return "".join(
        letter if has_letters(letter, LATIN, HAN) else "?" for letter in visual_order(text)
    )


def _join(text: str) -> str:
    """Each Arabic letter in its joined form; lam and alef as one."""
    letters = list(text)
    result = []
    index = 0
    while index < len(letters):
        letter = letters[index]
        forms = _forms().get(letter)
        if forms is None:
            result.append(letter)
            index += 1
            continue
        before = _joins_next(_neighbour(letters, index, -1))
        width = 1
        following = _neighbour(letters, index, 1)
        if letter == _LAM and index + 1 < len(letters) and letters[index + 1] in _ALEF:
            forms, width = _forms()[letter + letters[index + 1]], 2
            following = _neighbour(letters, index + 1, 1)
        after = following in _forms() and "final" in _forms()[following]
        after = after and ("initial" in forms or "medial" in forms)
        wanted = {
            (False, False): "isolated",
            (True, False): "final",
            (False, True): "initial",
            (True, True): "medial",
        }[before and "final" in forms, after]
        result.append(forms.get(wanted) or forms.get("isolated") or letter)
        index += width
    return "".join(result)


def _joins_next(letter: str) -> bool:
    """Whether the letter joins the one after it."""
    return "initial" in _forms().get(letter, {})


def _neighbour(letters: list[str], index: int, step: int) -> str:
    """The next letter in that direction that is no mark above or below another; else empty."""
    index += step
    while 0 <= index < len(letters) and unicodedata.combining(letters[index]):
        index += step
    return letters[index] if 0 <= index < len(letters) else ""


@cache
def _forms() -> dict[str, dict[str, str]]:
    """By letter (or lam with alef) its presentation forms, as Unicode's decompositions say."""
    forms: dict[str, dict[str, str]] = {}
    for code in (*range(0xFB50, 0xFBB2), *range(0xFE80, 0xFEFD)):
        kind, _, letters = unicodedata.decomposition(chr(code)).partition("> ")
        if kind[1:] in _FORMS:
            key = "".join(chr(int(each, 16)) for each in letters.split())
            forms.setdefault(key, {})[kind[1:]] = chr(code)
    return forms
