"""The vocabulary of the log is what the code reports, and docs/events.md is the vocabulary."""

import pytest

from qc_daemon.observe import log
from qc_daemon.observe.events import CORRELATION, EVENTS, KEYS
from tools.events_document import DOCUMENT, Code, document

OF_EVERY_LINE = {"event", "level", "timestamp", "role", "dropped"}


def test_each_event_that_the_code_reports_is_in_the_vocabulary_and_no_other() -> None:
    assert sorted(Code().uses()) == sorted(EVENTS)


def test_each_key_that_the_code_gives_is_in_the_vocabulary_and_no_other() -> None:
    keys = {key for use in Code().uses().values() for key in use.keys}
    assert keys | OF_EVERY_LINE | set(CORRELATION) == set(KEYS)


def test_an_event_is_a_fixed_phrase() -> None:
    assert [event for event in EVENTS if not log.PHRASE.fullmatch(event)] == []


def test_the_document_is_up_to_date() -> None:
    """If not: `make events`."""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def events_of(source: str) -> set[str]:
    return set(Code({"module.py": source}).uses())


def test_events_by_choice_table_attribute_and_argument_are_told() -> None:
    source = """
TABLE: dict[int, str] = {1: "from the table"}
class Worker:
    failed_event = "of the class"
    def run(self):
        event = TABLE.get(1, "of the default")
        self.log.info(event)
        (self.log.error if late else _log.warning)("one" if late else "other")
        logger.error(handler.failed_event)
def report(event, error):
    log.get(role="work").info(event)
report("of the argument", None)
warnings.warning("no logger")
"""
    assert events_of(source) == {
        "from the table",
        "of the default",
        "of the class",
        "one",
        "other",
        "of the argument",
    }


def test_an_event_that_cannot_be_told_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"module\.py:1: which events"):
        events_of("log.get().info(compose(name))")
