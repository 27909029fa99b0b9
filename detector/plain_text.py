"""Makes text from outside safe to print, folds it so that it can be searched, counts nouns, and
writes probabilities."""

import unicodedata

_STEERING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# Persian and Indic names are spelled with these two; they steer nothing.
_JOINERS = frozenset("\u200c\u200d")


def visible(text: str) -> str:
    r"""The text on one line, each control character as Python writes it (ESC as `\x1b`).

    Replaced are the Unicode categories Cc (C0 and C1 controls, DEL), Cf (direction overrides and
    isolates, zero-width characters other than the two joiners), Cs (lone surrogates, which no
    output can encode), Zl and Zp.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(letter) if _steers(letter) else letter for letter in text)


def fold(text: str) -> str:
    """Words to search by: without case, accents and punctuation, separated by single spaces."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    characters = (
        letter if unicodedata.category(letter)[0] in "LN" else " "
        for letter in letters
        if not unicodedata.combining(letter)
    )
    return " ".join("".join(characters).split())


def count_of(count: int, singular: str, plural: str | None = None) -> str:
    """The count with its noun, or with noun and verb: "1 file", "2 files"; "1 file is", "2 files
    are". Without `plural` the noun takes an s."""
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"


def decimals(value: float) -> str:
    """A number with four decimals, more where these would make a probability certain: 0.99996 is
    not 1. As DS takes it (PS3.5 6.2)."""
    for digits in range(4, 15):
        text = f"{value:.{digits}f}"
        if float(text) not in (0.0, 1.0):
            break
    else:
        # Zeros of an exponent are no decimals.
        return f"{value:.10g}"
    return text.rstrip("0").rstrip(".")


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in _STEERING and letter not in _JOINERS


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
