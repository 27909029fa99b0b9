"""The events of a finding's review: each is a fact that happened once and is never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from detector.anatomy import View
from detector.plain_text import fold

Criteria = tuple[tuple[str, bool | None], ...]
"""Code and outcome of each criterion that a person judged: met, not met (False), cannot tell."""


ModelAnswer = tuple[View, str | None]
"""View and verdict of the models as a reading has them: no verdict for a view not assessed."""


class EventKind(StrEnum):
    """What happened.

    Accept and override are readings: a person says what the picture shows, and it is what the
    models say, or not. Resolve is the verdict where two readings disagree. Unblind: this person
    was shown the models' answer while a blinded reading was waiting, and cannot give that.
    """

    ACCEPT = "accept"
    OVERRIDE = "override"
    REMARK = "remark"
    DISPUTE = "dispute"
    RESOLVE = "resolve"
    UNBLIND = "unblind"


SAID_COLUMNS = (
    "number",
    "kind",
    "reader",
    "at",
    "view",
    "verdict",
    "criteria",
    "reason",
    "remark",
)
"""What a person said, as columns of tables and files: fields of `Event`."""
READINGS = (EventKind.ACCEPT, EventKind.OVERRIDE)


@dataclass(frozen=True, slots=True)
class Draw:
    """How a finding came to be read: the rules that drew it, and the probability that they do.

    The inverse of `probability` is the weight of the reading in figures of all findings.
    """

    rules: tuple[str, ...]
    probability: float


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a finding's review.

    `number` counts the finding's events from 1. `view` and `verdict` are what a reading or a
    resolution says; `verdict` is None for a view that is not assessed, and both are None for other
    kinds. `reader_number` of a reading: 1 first, 2 second, and so on. `seconds` is how long it
    took. `revision` (of the image) and `model_id` are those of the finding. `draw` says how the
    finding came to this reading (None: the reader chose it), `second` that this reading is to be
    followed by a blinded second one.
    """

    number: int
    kind: EventKind
    reader: str
    at: datetime
    revision: int
    model_id: str
    view: View | None = None
    verdict: str | None = None
    criteria: Criteria = ()
    reason: str | None = None
    remark: str | None = None
    reader_number: int | None = None
    is_blinded: bool = False
    seconds: float | None = None
    draw: Draw | None = None
    second: Draw | None = None

    @property
    def answer(self) -> tuple[View | None, str | None]:
        """View and verdict, which two readings agree or disagree in."""
        return self.view, self.verdict

    def differs(self, answer: "ModelAnswer", met: Mapping[str, bool | None]) -> bool:
        """Whether it says anything else than the models, whose criteria's outcomes are `met`."""
        return self.answer != answer or any(
            code not in met or met[code] is not outcome for code, outcome in self.criteria
        )


def is_same_person(one: str, other: str) -> bool:
    """Whether two names are one person's: case, accents, punctuation and order do not count."""
    return name_words(one) == name_words(other)


def name_words(name: str) -> tuple[str, ...]:
    """A name to compare by: "LEE^ANN" and "Ann Lee" are the same."""
    return tuple(sorted(fold(name).split()))
