"""The languages of overlays and summaries: gettext catalogues in `locale/`.

The code's own words are English; `python -m tools.catalogue` brings a catalogue up to date.
"""

from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from detector.console import UsageError

ENGLISH, GERMAN, CHINESE = "en", "de", "zh"
LANGUAGES = (ENGLISH, GERMAN, CHINESE)
FOLDER = Path(__file__).parent / "locale"


@cache
def translations(language: str) -> NullTranslations:
    """The catalogue of a language of LANGUAGES; what it lacks stays English."""
    if language == ENGLISH:
        return NullTranslations()
    # Compiled here, so that no binary beside the text can be stale.
    compiled = BytesIO()
    with catalogue_path(language).open("rb") as text:
        write_mo(compiled, read_po(text, locale=language))
    compiled.seek(0)
    return GNUTranslations(compiled)


def check_language(language: str) -> str:
    """The language, if there are words in it; raises UsageError for another."""
    if language not in LANGUAGES:
        raise UsageError(f"--language {language}: give one of {', '.join(LANGUAGES)}")
    return language


def catalogue_path(language: str) -> Path:
    """The file with the words of a language other than English."""
    return FOLDER / f"{language}.po"
