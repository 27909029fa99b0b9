"""Bringing the catalogues up to date with what the code says: run as a module.

New messages are added empty, for a translator; those no longer used are dropped.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po

import qc_daemon
from detector.anatomy import LABELS
from model.criteria.faults import (
    FAULTS,
    FAULTS_BY_DIRECTION,
    NOT_VISIBLE,
    REGION_FAULTS,
    STRUCTURE_FIXES,
    UNLIKE_STANDARD,
)
from model.criteria.rules import RULES
from qc_daemon.audit.drift.image_drift import STATISTIC_WORDS
from qc_daemon.language.catalogues import ENGLISH, LANGUAGES, catalogue_path
from qc_daemon.report.sr.codes import FLAGS, VIEWS
from qc_daemon.report.summary import words
from qc_daemon.web import page_words

_KEYWORDS = {"gettext": None, "ngettext": (1, 2)}
_DATE = datetime(2026, 1, 1, tzinfo=UTC)
_SERVICE = Path(qc_daemon.__file__).parent
# Modules whose messages are translated.
_CODE = (
    *(_SERVICE / "report" / name for name in ("summary/text.py", "summary/words.py")),
    _SERVICE / "report" / "objects" / "overlay.py",
    *sorted((_SERVICE / "audit" / "charts").glob("*.py")),
    *sorted((_SERVICE / "audit" / "reports").rglob("*.py")),
    _SERVICE / "digest" / "message.py",
    _SERVICE / "language" / "wording.py",
    _SERVICE / "operations" / "example_pictures.py",
    _SERVICE / "web" / "words.py",
)


def extract_messages() -> Catalog:
    """Every message of overlays, summaries and reports of audits, in English."""
    catalogue = Catalog()
    for path in _CODE:
        for _, message, _, _ in extract_from_file("python", path, _KEYWORDS):
            catalogue.add(message)
    for path in sorted((_SERVICE / "web" / "templates").glob("*.html")):
        for _, message, _, _ in extract_from_file("jinja2.ext:babel_extract", path, _KEYWORDS):
            catalogue.add(message)
    for message in _tables():
        catalogue.add(message)
    return catalogue


def _tables() -> Iterator[str]:
    """The messages that stand in tables: fixes, faults, labels, codes, verdicts, omissions."""
    for rules in RULES.values():
        yield from (rule.fix for rule in rules)
    for table in (FAULTS, FAULTS_BY_DIRECTION, REGION_FAULTS):
        for fault in table.values():
            yield from filter(None, (fault.words, fault.fix, fault.topic))
    yield from (
        NOT_VISIBLE,
        UNLIKE_STANDARD,
        *STRUCTURE_FIXES.values(),
        words.STILL_STANDARD,
        words.FAULT_AND_FIX,
    )
    yield from (label.meaning for label in LABELS)
    for codes in (VIEWS, FLAGS):
        yield from (code.meaning for code in codes.values())
    yield from words.VERDICTS.values()
    yield from dict.fromkeys((*words.OMISSIONS.values(), words.OTHER_OMISSION))
    yield from (words.OTHER_PATIENT, words.DISCLAIMER, words.DISCLAIMER_BESIDE_PERSON)
    yield from (words.NOT_FOR_CLINICAL_USE, words.CANNOT_TELL)
    yield from (words.NO_VIEW, words.DECIDED, words.CONFIRMED, words.MODELS_SAY)
    yield from (words.NOT_PRINTABLE, words.NO_CLASS, *words.OPINION_ROLES.values())
    yield from STATISTIC_WORDS.values()
    for page_table in page_words.TABLES:
        yield from page_table.values()


def update_catalogue(language: str) -> bytes:
    """The language's catalogue as a file that has each message of today and no other."""
    path = catalogue_path(language)
    before = Catalog(locale=language)
    if path.is_file():
        with path.open("rb") as text:
            before = read_po(text, locale=language)
    catalogue = Catalog(
        locale=language,
        header_comment="# Words of overlays, summaries and reports. Licence as the project's.",
        project="qc-daemon",
        version="1",
        last_translator="qc-daemon maintainers",
        msgid_bugs_address="the project",
        # Dates would differ each time it is made.
        creation_date=_DATE,
        revision_date=_DATE,
        fuzzy=False,
    )
    for message in extract_messages():
        if message.id:
            previous = before.get(message.id)
            catalogue.add(message.id, previous.string if previous else None)
    output = BytesIO()
    write_po(output, catalogue, sort_output=True, width=100)
    return output.getvalue()


def main() -> None:
    """Rewrite the catalogues beside the code."""
    for language in LANGUAGES:
        if language != ENGLISH:
            catalogue_path(language).parent.mkdir(exist_ok=True)
            catalogue_path(language).write_bytes(update_catalogue(language))


if __name__ == "__main__":
    main()
