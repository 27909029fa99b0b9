"""Shared by all operations: the store, the window of a list, its rows, the outcome of a change."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.records import schema
from qc_daemon.records.listings import Window
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

_STORES: dict[str, Store] = {}


@contextmanager
def shared_store(settings: Settings) -> Iterator[Store]:
    """Within it `open_store` gives this one store: for a process that asks again and again, and
    whose service has checked the tables. Raises QCError as `open_store`."""
    store = open_store(settings)
    _STORES[settings.store.url] = store
    try:
        yield store
    finally:
        del _STORES[settings.store.url]
        store.close()


def open_store(settings: Settings) -> Store:
    """The store. Raises QCError STORAGE, with what to do, if its tables are of another version."""
    if settings.store.url in _STORES:
        return _STORES[settings.store.url]
    problem = schema.check(settings.store.url)
    if problem:
        raise QCError(ErrorCode.STORAGE, problem)
    return Store(settings.store.url)


class Listing(list[dict[str, Any]]):
    """Rows of a list; `total` is the number of all that match, or None if there are more than these
    and they were not counted."""

    def __init__(self, rows: Iterable[dict[str, Any]], total: int | None) -> None:
        super().__init__(rows)
        self.total = total


def parse_window(since: str | None, until: str | None, limit: int | None = None) -> Window:
    """The window that `--since`, `--until` and `--limit` (0: none) name.

    Moments are ISO 8601, UTC where they name no zone; a day alone counts whole. Raises UsageError.
    """
    start = None if since is None else parse_moment(since, "--since")
    end = None if until is None else parse_moment(until, "--until")
    if end is not None and until is not None and len(until) <= _DAY:
        end = None if end.date() == date.max else end + timedelta(days=1)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--until {until}: give a moment after --since {since}")
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: give 0 (all) or more")
    return Window(start, end, limit or None)


_DAY = len("2026-11-01")


def parse_moment(value: str, option: str) -> datetime:
    """A moment in ISO 8601, UTC where it names no zone. Raises UsageError naming the option."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {value}: give ISO 8601, as 2026-11-01T08:00") from None


Choice = TypeVar("Choice", bound=StrEnum)


def parse_choices(kind: type[Choice], values: Sequence[str], option: str) -> list[Choice]:
    """The values as members of `kind`. Raises UsageError naming the option and all members."""
    try:
        return [kind(value) for value in values]
    except ValueError:
        raise UsageError(f"{option}: give one of {', '.join(kind)}") from None


_MAX_NAME_LETTERS = 64
# A single letter would be an initial; a person whose name is one letter gives a title with it.
_MIN_NAME_LETTERS = 2


def parse_person(value: str, option: str) -> str:
    """A person's name, as far as that can be checked: one line with letters, not a number or an
    option. Raises UsageError."""
    name = value.strip()
    if not name or len(name) > _MAX_NAME_LETTERS or not name.isprintable():
        raise UsageError(
            f"{option}: give the person's name, 1 to {_MAX_NAME_LETTERS} letters on one line"
        )
    if sum(letter.isalpha() for letter in name) < _MIN_NAME_LETTERS or name.startswith("-"):
        raise UsageError(f"{option} {name}: give the person's name, not a number or a sign")
    return name


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many things were changed, and a line for each id that was not."""

    count: int
    problems: tuple[str, ...] = ()


def describe_unchanged(
    ids: Sequence[int], states: Mapping[int, str], fit: Collection[str], noun: str, command: str
) -> tuple[str, ...]:
    """A line for each id that is unknown or in no state (`fit`) to be changed; `command` lists."""
    return tuple(
        f"no {noun} {id}; see {command}" if id not in states else f"{noun} {id} is {states[id]}"
        for id in dict.fromkeys(ids)
        if states.get(id) not in fit
    )
