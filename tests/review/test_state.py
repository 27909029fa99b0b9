"""What stands of a review is a fold of its events: held against a model written apart from it."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.anatomy import View
from qc_daemon.review.events import READINGS, Draw, Event, EventKind, is_same_person
from qc_daemon.review.reasons import REASONS
from qc_daemon.review.state import ReviewStatus, current_state, next_reader_number, refusal

NOW = datetime(2026, 3, 5, 7, 8, 9, tzinfo=UTC)
DRAWN = Draw(("random",), 0.05)
READERS = ("Lee", "Ng", "Roth", "Berg")


def event(number: int = 1, kind: EventKind = EventKind.OVERRIDE, **changes: Any) -> Event:
    """An event as a careful person makes it."""
    values: dict[str, Any] = {"reader": "Lee", "at": NOW, "revision": 1, "model_id": "m"}
    if kind in (*READINGS, EventKind.RESOLVE):
        values |= {"view": View.NT, "verdict": "standard"}
    if kind in (EventKind.OVERRIDE, EventKind.DISPUTE):
        values["reason"] = "criterion"
    if kind is EventKind.REMARK:
        values["remark"] = "which fetus?"
    return Event(number=number, kind=kind, **values | changes)


@dataclass
class Model:
    """The rules of a review, one by one and without a fold: what a person would check by hand."""

    readings: list[Event] = field(default_factory=list)
    stands: Event | None = None
    asked: bool = False
    disputed_by: str | None = None
    differs: bool = False
    resolved: bool = False
    remarked: bool = False
    shown_to: set[str] = field(default_factory=set)

    @property
    def word(self) -> str:
        if self.differs:
            return "disagreement"
        if self.asked:
            return "second-reading"
        if self.resolved:
            return "resolved"
        if self.stands is None:
            return "waiting" if self.remarked else "automatic"
        return "accepted" if self.stands.kind is EventKind.ACCEPT else "overridden"

    def may_correct(self, reader: str) -> bool:
        return (
            len(self.readings) == 1
            and self.stands is self.readings[0]
            and self.disputed_by is None
            and self.readings[0].reader == reader
        )

    def take(self, new: Event) -> None:
        if new.kind is EventKind.REMARK:
            self.remarked = True
        elif new.kind is EventKind.UNBLIND:
            self.shown_to.add(new.reader)
        elif new.kind is EventKind.DISPUTE:
            self.asked, self.disputed_by = True, new.reader
        elif new.kind is EventKind.RESOLVE:
            self.stands, self.differs, self.resolved = new, False, True
        elif self.disputed_by is not None:
            self.readings.append(new)
            self.stands, self.asked, self.disputed_by, self.resolved = new, False, None, True
        elif self.may_correct(new.reader):
            self.readings, self.stands = [new], new
            self.asked, self.resolved = new.second is not None, False
        elif self.asked:
            self.readings.append(new)
            self.asked = False
            assert self.stands is not None
            self.differs = (new.view, new.verdict) != (self.stands.view, self.stands.verdict)
        else:
            self.readings.append(new)
            self.stands, self.asked = new, new.second is not None


answers = st.sampled_from(
    [(View.NT, "standard"), (View.NT, "non-standard"), (View.CRL, "standard"), (View.OTHER, None)]
)


@st.composite
def tries(draw: st.DrawFn) -> Event:
    """Something that somebody tries: it may be refused."""
    kind = draw(st.sampled_from(list(EventKind)))
    changes: dict[str, Any] = {"reader": draw(st.sampled_from(READERS))}
    if kind in (*READINGS, EventKind.RESOLVE):
        changes["view"], changes["verdict"] = draw(answers)
    if kind in READINGS:
        changes["is_blinded"] = draw(st.booleans())
        changes["second"] = draw(st.sampled_from([None, DRAWN]))
    return event(1, kind, **changes)


@settings(max_examples=200)
@given(st.lists(tries(), max_size=14))
def test_what_stands_is_the_fold_of_what_was_taken(attempts: list[Event]) -> None:
    history: tuple[Event, ...] = ()
    model = Model()
    for attempt in attempts:
        state = current_state(history)
        new = replace(attempt, number=len(history) + 1, at=NOW + timedelta(minutes=len(history)))
        if refusal(state, new) is not None:
            continue
        before = history
        history = (*history, new)
        model.take(new)
        after = current_state(history)
        # Nothing is rewritten, and every prefix says what it said.
        assert history[:-1] == before
        assert current_state(history[:-1]) == state
        assert after.version == len(history)
        assert after.status == model.word
        assert after.outcome == model.stands
        assert list(after.readings) == model.readings
        assert len({reading.reader for reading in after.readings}) == len(after.readings)


def test_a_reader_corrects_an_own_reading_until_another_person_reads() -> None:
    first = event(reader="Lee", verdict="non-standard", second=DRAWN)
    state = current_state([first])
    again = event(2, reader="LEE", second=DRAWN)
    assert refusal(state, again) is None
    assert next_reader_number(state, again) == 1
    state = current_state([first, again])
    assert (state.outcome, len(state.readings)) == (again, 1)
    second = event(3, reader="Ng", is_blinded=True)
    assert next_reader_number(state, second) == 2
    state = current_state([first, again, second])
    assert state.status is ReviewStatus.OVERRIDDEN
    assert "was read already" in (refusal(state, event(4, verdict="non-standard")) or "")


def test_an_override_twice_is_told_once() -> None:
    state = current_state([event()])
    assert refusal(state, event(2)) == "was read so already by Lee on 2026-03-05"
    assert "was read already by Lee" in (refusal(state, event(2, reader="Ng")) or "")


def test_what_was_shown_before_another_event_is_refused() -> None:
    assert refusal(current_state([event()]), event(1, EventKind.REMARK)) == (
        "has changed since it was shown; show it again"
    )


def test_a_second_reading_is_blinded_and_of_another_person() -> None:
    state = current_state([event(second=DRAWN)])
    assert state.status is ReviewStatus.SECOND_READING
    assert "blinded" in (refusal(state, event(2, reader="Ng")) or "")
    disputed = current_state([event(), event(2, EventKind.DISPUTE, reader="Berg")])
    assert "by Lee before" in (refusal(disputed, event(3, is_blinded=True)) or "")
    disputed = current_state([event(1, EventKind.DISPUTE, reader="Berg")])
    assert "disputed by Berg" in (refusal(disputed, event(2, reader="Berg", is_blinded=True)) or "")
    seen = current_state([event(second=DRAWN), event(2, EventKind.UNBLIND, reader="Ng")])
    assert "shown to Ng" in (refusal(seen, event(3, reader="Ng", is_blinded=True)) or "")
    assert refusal(seen, event(3, reader="Roth", is_blinded=True)) is None


def test_refusals_of_a_blinded_reading_say_nothing_of_the_answers() -> None:
    state = current_state([event(verdict="non-standard", second=DRAWN)])
    for kind in READINGS:
        for verdict in ("standard", "non-standard", None):
            words = refusal(state, event(2, kind, reader="Ng", verdict=verdict)) or ""
            assert "standard" not in words
            assert words == refusal(state, event(2, READINGS[0], reader="Ng"))


def test_a_dispute_brings_a_reading_that_stands_and_both_are_there() -> None:
    first = event(verdict="non-standard")
    dispute = event(2, EventKind.DISPUTE, reader="Berg")
    second = event(3, EventKind.ACCEPT, reader="Ng", is_blinded=True)
    state = current_state([first, dispute, second])
    assert (state.status, state.outcome) == (ReviewStatus.RESOLVED, second)
    assert state.readings == (first, second)


def test_two_readings_that_differ_are_resolved_by_a_person() -> None:
    history = [
        event(second=DRAWN),
        event(2, EventKind.ACCEPT, reader="Ng", verdict="non-standard", is_blinded=True),
    ]
    state = current_state(history)
    assert (state.status, state.outcome) == (ReviewStatus.DISAGREEMENT, history[0])
    assert not state.is_settled
    assert "review resolve" in (refusal(state, event(3, reader="Roth")) or "")
    resolution = event(3, EventKind.RESOLVE, reader="Roth", verdict="non-standard")
    state = current_state([*history, resolution])
    assert (state.status, state.outcome) == (ReviewStatus.RESOLVED, resolution)


def test_a_remark_blocks_automatic_acceptance() -> None:
    assert current_state([]).status is ReviewStatus.AUTOMATIC
    assert current_state([event(1, EventKind.REMARK)]).status is ReviewStatus.WAITING
    assert current_state([], needs_reading=True).status is ReviewStatus.WAITING


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"view": None}, "needs a view"),
        ({"verdict": None}, "needs a verdict"),
        ({"verdict": "review"}, "needs a verdict"),
        ({"view": View.OTHER}, "has no verdict"),
        ({"reason": None}, "needs a reason"),
        ({"reason": "mood"}, "for the reason mood"),
        ({"reason": "other"}, "needs a remark"),
        ({"kind": EventKind.REMARK}, "needs the remark's words"),
        ({"kind": EventKind.DISPUTE}, "cannot have a view"),
        ({"kind": EventKind.RESOLVE}, "nothing to resolve"),
        ({"kind": EventKind.UNBLIND}, "hides nothing"),
    ],
)
def test_what_is_no_review_is_refused_with_a_reason(changes: dict[str, Any], words: str) -> None:
    refused = refusal(current_state([]), replace(event(), **changes))
    assert words in (refused or "")
    assert "\n" not in (refused or "")


def test_names_are_one_person_whatever_their_case_and_points() -> None:
    assert is_same_person("Dr. Änne Lee", "dr änne LEE")
    assert is_same_person("LEE^ANN", "Ann Lee")
    assert not is_same_person("Lee", "Leo")
    assert len(set(REASONS)) == len(REASONS)
