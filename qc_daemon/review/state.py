"""What stands of a finding's review: a fold of its events, and what may come next.

| state | meaning | next |
|---|---|---|
| automatic | nobody has to read it: the models' verdict stands | accept, override, dispute |
| waiting | a person has to read it: left to one, drawn, or remarked on | accept, override |
| accepted | a person agrees with the models | dispute |
| overridden | a person says otherwise, and that stands | dispute |
| second-reading | a blinded reading by another person is to come | accept, override (blinded) |
| disagreement | two readings differ; neither is reported yet | resolve (by a third person) |
| resolved | a person decided between them, or the reading after a dispute stands | dispute |

A reader may correct an own first reading until another person has read or disputed the finding.
Remarks are possible at any time; one on a finding that nobody has read makes it wait for a person.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from detector.anatomy import View
from model.finding import NON_STANDARD, STANDARD
from qc_daemon.review.events import READINGS, Event, EventKind, is_same_person
from qc_daemon.review.reasons import NEEDS_REMARK, REASONS

VERDICTS = (STANDARD, NON_STANDARD)
"""What a person may say of an assessed view."""


class ReviewStatus(StrEnum):
    """Where a finding's review stands; see the table above."""

    AUTOMATIC = "automatic"
    WAITING = "waiting"
    ACCEPTED = "accepted"
    OVERRIDDEN = "overridden"
    SECOND_READING = "second-reading"
    DISAGREEMENT = "disagreement"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class ReviewState:
    """What stands: `outcome` is the reading or resolution that is reported, None while there is
    none and the models' verdict is. `version` is the number of the last event."""

    status: ReviewStatus
    outcome: Event | None = None
    readings: tuple[Event, ...] = ()
    remarks: tuple[Event, ...] = ()
    dispute: Event | None = None
    unblinded: tuple[str, ...] = ()
    version: int = 0

    @property
    def is_blinded(self) -> bool:
        """Whether the models' answer and earlier readings are hidden from who asks."""
        return self.status is ReviewStatus.SECOND_READING

    @property
    def is_read_once(self) -> bool:
        """Whether there is a first reading that a blinded one is to follow, not because of a
        dispute."""
        return self.is_blinded and self.dispute is None

    def as_reported(self) -> Self:
        """The state as reports have it, which go to everybody: a first reading that a blinded one
        is to follow, or contradicts, is not in it. What was reported before a dispute stays."""
        is_open = self.is_read_once or self.status is ReviewStatus.DISAGREEMENT
        return replace(self, outcome=None) if is_open else self

    @property
    def is_settled(self) -> bool:
        """Whether there is an outcome and nothing more is to come."""
        return self.status in _SETTLED


_SETTLED = (ReviewStatus.ACCEPTED, ReviewStatus.OVERRIDDEN, ReviewStatus.RESOLVED)
_UNREAD = (ReviewStatus.AUTOMATIC, ReviewStatus.WAITING)
_STATUS_OF = {
    EventKind.ACCEPT: ReviewStatus.ACCEPTED,
    EventKind.OVERRIDE: ReviewStatus.OVERRIDDEN,
}


def current_state(history: Iterable[Event], *, needs_reading: bool = False) -> ReviewState:
    """The state after these events, in their order; `needs_reading`: a person has to read the
    finding because the models left it to one, or because it was drawn."""
    state = ReviewState(ReviewStatus.WAITING if needs_reading else ReviewStatus.AUTOMATIC)
    for event in history:
        state = replace(_after(state, event), version=event.number)
    return state


def _after(state: ReviewState, event: Event) -> ReviewState:
    if event.kind in READINGS:
        return _after_reading(state, event)
    if event.kind is EventKind.RESOLVE:
        return replace(state, status=ReviewStatus.RESOLVED, outcome=event)
    if event.kind is EventKind.DISPUTE:
        return replace(state, status=ReviewStatus.SECOND_READING, dispute=event)
    if event.kind is EventKind.UNBLIND:
        return replace(state, unblinded=(*state.unblinded, event.reader))
    status = ReviewStatus.WAITING if state.status is ReviewStatus.AUTOMATIC else state.status
    return replace(state, status=status, remarks=(*state.remarks, event))


def _after_reading(state: ReviewState, event: Event) -> ReviewState:
    if _is_correction(state, event):
        state = replace(state, readings=state.readings[:-1], outcome=None)
    elif state.dispute is not None and state.status is ReviewStatus.SECOND_READING:
        return replace(
            state,
            status=ReviewStatus.RESOLVED,
            outcome=event,
            readings=(*state.readings, event),
            dispute=None,
        )
    readings = (*state.readings, event)
    if state.outcome is None:
        status = ReviewStatus.SECOND_READING if event.second else _STATUS_OF[event.kind]
        return replace(state, status=status, outcome=event, readings=readings)
    if event.answer == state.outcome.answer:
        return replace(state, status=_STATUS_OF[state.outcome.kind], readings=readings)
    return replace(state, status=ReviewStatus.DISAGREEMENT, readings=readings)


def _is_correction(state: ReviewState, event: Event) -> bool:
    """Whether a reader corrects the own reading, the only one so far."""
    return (
        len(state.readings) == 1
        and state.outcome is state.readings[0]
        and state.dispute is None
        and is_same_person(state.readings[0].reader, event.reader)
    )


def next_reader_number(state: ReviewState, event: Event) -> int:
    """Whether this is the first reading (1), the second, or a later one."""
    return len(state.readings) + (0 if _is_correction(state, event) else 1)


def refusal(state: ReviewState, event: Event) -> str | None:
    """Why the event cannot come next, in words that go on "finding 7 "; None if it can.

    The words name no model's answer and no earlier reading.
    """
    if event.number != state.version + 1:
        return _CHANGED
    # Whether it may come at all is said first: a fault of the answer may tell what others said.
    return _CHECKS[event.kind](state, event) or _fault(event)


_CHANGED = "has changed since it was shown; show it again"


def _fault(event: Event) -> str | None:
    """What is wrong with the event by itself."""
    if event.kind in (*READINGS, EventKind.RESOLVE):
        if event.view is None:
            return "needs a view"
        if event.view is View.OTHER and event.verdict is not None:
            return "has no verdict where its view is OTHER; leave the verdict away"
        if event.view is not View.OTHER and event.verdict not in VERDICTS:
            return f"needs a verdict: {' or '.join(VERDICTS)}"
    elif event.view is not None or event.verdict is not None or event.criteria:
        return f"cannot have a view, verdict or criteria with {event.kind}"
    if event.reason is not None and event.reason not in REASONS:
        return f"cannot be reviewed for the reason {event.reason}; give one of {', '.join(REASONS)}"
    if event.reason == NEEDS_REMARK and not event.remark:
        return f"needs a remark that names the reason where that is {NEEDS_REMARK}"
    return None


def _check_reading(state: ReviewState, event: Event) -> str | None:
    if event.kind is EventKind.OVERRIDE and event.reason is None and not event.is_blinded:
        return f"needs a reason; give one of {', '.join(REASONS)}"
    last = state.readings[-1] if state.readings else None
    if last is not None and _is_correction(state, event):
        is_repeated = (event.answer, event.criteria, event.reason, event.remark) == (
            last.answer,
            last.criteria,
            last.reason,
            last.remark,
        )
        by_whom = f"by {last.reader} on {last.at:%Y-%m-%d}"
        return f"was read so already {by_whom}" if is_repeated else None
    if state.status in _UNREAD:
        return None
    if state.status is ReviewStatus.DISAGREEMENT:
        return "has two readings that differ; decide with review resolve"
    if state.status is not ReviewStatus.SECOND_READING:
        assert state.outcome is not None
        return (
            f"was read already by {state.outcome.reader} on {state.outcome.at:%Y-%m-%d};"
            " to have it read again, review dispute"
        )
    return _check_second_reading(state, event)


def _check_second_reading(state: ReviewState, event: Event) -> str | None:
    if not event.is_blinded:
        return (
            "waits for a blinded reading; give view and verdict with review read, without the"
            " models' answer"
        )
    if any(is_same_person(reading.reader, event.reader) for reading in state.readings):
        return f"was read by {event.reader} before; another person has to read it"
    if state.dispute is not None and is_same_person(state.dispute.reader, event.reader):
        return f"was disputed by {event.reader}; another person has to read it"
    if any(is_same_person(name, event.reader) for name in state.unblinded):
        return f"was shown to {event.reader} with its answers; another person has to read it"
    return None


def _check_resolution(state: ReviewState, event: Event) -> str | None:
    if state.status is not ReviewStatus.DISAGREEMENT:
        return "has no two readings that differ; there is nothing to resolve"
    return None


def _check_dispute(state: ReviewState, event: Event) -> str | None:
    if event.reason is None:
        return f"needs a reason; give one of {', '.join(REASONS)}"
    if state.dispute is not None:
        return f"is disputed already by {state.dispute.reader}; it waits for a second reader"
    if state.status is ReviewStatus.WAITING:
        return "was read by nobody yet; read it in place of disputing it"
    if state.status is ReviewStatus.SECOND_READING:
        return "waits for a second reading anyway"
    if state.status is ReviewStatus.DISAGREEMENT:
        return "has two readings that differ; decide with review resolve"
    return None


def _check_remark(state: ReviewState, event: Event) -> str | None:
    return None if event.remark else "needs the remark's words"


def _check_unblinding(state: ReviewState, event: Event) -> str | None:
    return None if state.is_blinded else "hides nothing: it waits for no blinded reading"


_CHECKS = {
    EventKind.ACCEPT: _check_reading,
    EventKind.OVERRIDE: _check_reading,
    EventKind.RESOLVE: _check_resolution,
    EventKind.DISPUTE: _check_dispute,
    EventKind.REMARK: _check_remark,
    EventKind.UNBLIND: _check_unblinding,
}
