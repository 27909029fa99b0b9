"""A change that an account asks for: its verb, what it would change, and how it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qc_daemon.operations.shared import Outcome
from qc_daemon.records.clock import Clock
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb

MAX_IDS = 500
"""At most so many rows are changed at once: a page lists all of them before."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a change is about. Only what the change has among its `fields` counts.

    `ids` are numbers of rows; `name` is a destination, person, device, bundle, site or AE title;
    `into` the person or device that others are counted as, or a new name.
    """

    ids: tuple[int, ...] = ()
    name: str = ""
    into: str = ""
    address: str = ""
    network: str = ""
    certificate: str = ""
    reason: str = ""

    @property
    def words(self) -> str:
        """What it is about, for the access log: numbers and names of things, no free text."""
        names = (self.name, self.into, self.address, self.network)
        return " ".join((*map(str, self.ids), *(each for each in names if each)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows that would be changed, with the columns that a page shows."""

    columns: tuple[str, ...]
    rows: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Made:
    """How many things were changed, a line that says what, and one for each that was not."""

    count: int
    line: str
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome, singular: str, plural: str) -> "Made":
        """An outcome in words."""
        words = singular if outcome.count == 1 else plural
        return cls(outcome.count, f"{outcome.count} {words}", outcome.problems)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that may be changed. `make` gets the name of the person who does it.

    `optional` are fields that may be empty; all others of `fields` are needed.
    """

    verb: Verb
    fields: tuple[str, ...]
    plan: Callable[[Settings, Choice], Plan]
    make: Callable[[Settings, Choice, str, Clock], Made]
    optional: tuple[str, ...] = ()
