"""Words and numbers of one language, for pages that are made of many small texts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from gettext import NullTranslations

from qc_daemon.language.catalogues import CHINESE, ENGLISH, GERMAN, translations

_MISSING = "–"
_LEAST_CHANCE = 0.005
"""A smaller probability would be rounded to none."""


@dataclass(frozen=True, slots=True)
class Wording:
    """Translates messages into a language of LANGUAGES, and writes numbers as it does."""

    language: str = ENGLISH
    _t: NullTranslations = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_t", translations(self.language))

    def gettext(self, message: str) -> str:
        """The message in this language; in English where the catalogue lacks it."""
        return self._t.gettext(message)

    def ngettext(self, one: str, several: str, count: int) -> str:
        """The message for this count; `{count}` in it is left as it is."""
        return self._t.ngettext(one, several, count)

    def decimal(self, value: float | None, digits: int = 2) -> str:
        """`0.85`, in German `0,85`; a dash for None and what is no number. Zero has no sign."""
        if value is None or value != value:
            return _MISSING
        text = f"{value:z.{digits}f}"
        return text.replace(".", ",") if self.language == GERMAN else text

    def percent(self, share: float | None, digits: int = 0) -> str:
        """A share (0..1) as `85 %`, in Chinese `85%`; a dash for None."""
        if share is None or share != share:
            return _MISSING
        space = "" if self.language == CHINESE else "\N{NO-BREAK SPACE}"
        return f"{self.decimal(100 * share, digits)}{space}%"

    def chance(self, probability: float) -> str:
        """A probability as a share of cases, never rounded to none or to all: `fewer than 1 %`."""
        if probability < _LEAST_CHANCE:
            return self.gettext("fewer than 1 %")
        if probability >= 1 - _LEAST_CHANCE:
            return self.gettext("more than 99 %")
        return self.percent(probability)

    def interval(self, low: float, high: float) -> str:
        """Two shares as `71–92 %`."""
        return f"{self.decimal(100 * low, 0)}–{self.percent(high)}"

    def join_pairs(self, pairs: Iterable[tuple[str, str]]) -> str:
        """What, and its value, as `name: value; name: value`."""
        colon, semicolon = ("：", "；") if self.language == CHINESE else (": ", "; ")
        return semicolon.join(f"{name}{colon}{value}" for name, value in pairs)

    def join(self, parts: list[str]) -> str:
        """The parts as a list within a sentence."""
        return ("、" if self.language == CHINESE else ", ").join(parts)
