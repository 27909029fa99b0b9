"""Lists of reviews for an operator: what waits for a person, one finding with its history, and the
states that other lists show.

Whoever may still have to read a finding blinded comes upon no answer here; see `Answers`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any

from sqlalchemy.orm import Session

from detector.console import UsageError
from qc_daemon.operations.reviews import (
    DRAW_SECRET,
    Answer,
    criteria_words,
    describe_answer,
    describe_unreported,
    draw_first_reading,
    find_finding,
    parse_reader,
    prepare,
    record,
    require_finding,
    state_of,
)
from qc_daemon.operations.shared import Listing, open_store, parse_choices
from qc_daemon.records import secrets
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.results import bundles, findings, reviews
from qc_daemon.records.results.findings import StoredFinding
from qc_daemon.records.results.reviews import FindingKey
from qc_daemon.records.store import Store
from qc_daemon.review.events import SAID_COLUMNS, Draw, Event, EventKind
from qc_daemon.review.state import ReviewState, ReviewStatus, current_state
from qc_daemon.settings import Settings

WAITING = (ReviewStatus.WAITING, ReviewStatus.SECOND_READING, ReviewStatus.DISAGREEMENT)
"""The states in which a finding waits for a person."""
LIST_COLUMNS = (
    "finding",
    "state",
    "exam_id",
    "sop_instance_uid",
    "revision",
    "frame",
    "region",
    "view",
    "verdict",
    "probability",
    "not_met",
    "flags",
    "person_view",
    "person_verdict",
    "reader",
    "at",
    "asked_by",
    "events",
    "remarks",
)
LIST_TABLE = (
    "finding",
    "state",
    "exam_id",
    "sop_instance_uid",
    "frame",
    "view",
    "verdict",
    "probability",
    "person_verdict",
    "reader",
    "asked_by",
)
EVENT_COLUMNS = (
    *SAID_COLUMNS,
    "blinded",
)
_ANSWER_COLUMNS = ("view", "verdict", "probability", "not_met", "flags")
_EVENT_ANSWER = ("view", "verdict", "criteria", "reason", "remark")
HIDDEN = (
    "the answers are hidden until another person has read it blinded (review read);"
    " --unblind --reader NAME shows them, and NAME cannot read it blinded any more"
)
LEFT_OUT = (
    "without view, verdict and probability of what waits for a first reading: --answers has them;"
    " whoever has seen them should not read it blinded"
)


class Answers(Enum):
    """Which findings of a list or sheet have the answers of models and persons: OPEN, those that
    nobody has to read; ASKED_FOR, also those that wait for a first reading; NONE. Those that wait
    for a blinded reading never have them."""

    NONE = "none"
    OPEN = "open"
    ASKED_FOR = "asked for"

    def are_of(self, state: ReviewState) -> bool:
        """Whether a finding in this state has its answers."""
        if self is Answers.NONE or state.is_blinded:
            return False
        # Whoever comes upon the answer in a list cannot be the second, blinded reader any more.
        return self is Answers.ASKED_FOR or state.status is not ReviewStatus.WAITING


def parse_answers(with_answers: bool, is_blinded: bool) -> Answers:
    """The answers that options ask for. Raises UsageError."""
    if with_answers and is_blinded:
        raise UsageError("--answers goes without --blinded")
    if is_blinded:
        return Answers.NONE
    return Answers.ASKED_FOR if with_answers else Answers.OPEN


def list_reviews(
    settings: Settings,
    states: Sequence[str] = (),
    exam_filter: ExamFilter | None = None,
    window: Window = ALL,
    answers: Answers = Answers.OPEN,
    *,
    with_all: bool = False,
) -> Listing:
    """Findings that wait for a person, in order of arrival; in these states, or all.

    The window is about when an image was received; `answers` says which rows have the models'.
    Raises UsageError.
    """
    statuses = parse_choices(ReviewStatus, states, "--state")
    statuses = statuses or (list(ReviewStatus) if with_all else list(WAITING))
    store = open_store(settings)
    prepare(store)
    with store.read() as session:
        rows = iter_rows(session, settings, statuses, exam_filter, window, answers)
        limit = window.limit and window.limit + 1
        page = list(islice(rows, limit))
    is_cut = window.limit is not None and len(page) > window.limit
    return Listing(page[: window.limit], None if is_cut else len(page))


def iter_rows(
    session: Session,
    settings: Settings,
    states: Collection[ReviewStatus],
    exam_filter: ExamFilter | None = None,
    window: Window = ALL,
    answers: Answers = Answers.OPEN,
) -> Iterator[dict[str, Any]]:
    """Rows of LIST_COLUMNS and `model_id` of the findings in these states."""
    for stored, state, draw in iter_states(session, settings, exam_filter, window):
        if state.status in states:
            yield _list_row(stored, state, draw, answers)


def add_states(
    session: Session, settings: Settings, every: Iterator[StoredFinding]
) -> Iterator[tuple[StoredFinding, ReviewState | None, Draw | None]]:
    """Each of these with where its review stands and why a person is asked to read it first; None
    for an error and for what is in quarantine, which nobody reviews."""
    secret = secrets.read(session, DRAW_SECRET)
    for batch in _batches(every):
        histories = reviews.histories(session, [each.finding_id or 0 for each in batch])
        for each in batch:
            if each.finding_id is None or each.quarantine is not None:
                yield each, None, None
                continue
            draw = draw_first_reading(settings, key_of(each), each.body, secret)
            history = histories.get(each.finding_id, ())
            yield each, current_state(history, needs_reading=draw is not None), draw


def iter_states(
    session: Session,
    settings: Settings,
    exam_filter: ExamFilter | None = None,
    window: Window = ALL,
) -> Iterator[tuple[StoredFinding, ReviewState, Draw | None]]:
    """The findings that stand, of a cine the best ones and those with events, each with where its
    review stands and why a person is asked to read it first."""
    every = findings.iter_findings(
        session, exam_filter or ExamFilter(), replace(window, limit=None), all_revisions=False
    )
    for each, state, draw in add_states(session, settings, every):
        # Frames of a cine that no report shows wait for nobody.
        if state is not None and (each.is_best or state.version):
            yield each, state, draw


_BATCH = 200


def _batches(stored: Iterator[StoredFinding]) -> Iterator[list[StoredFinding]]:
    while batch := list(islice(stored, _BATCH)):
        yield batch


def key_of(stored: StoredFinding) -> FindingKey:
    """What names the finding in every database."""
    body = stored.body
    return FindingKey(
        stored.revision.sop_instance_uid,
        body["revision"],
        body["frame"],
        body["region"]["index"],
        body["bundle"]["model_id"],
    )


@dataclass(frozen=True, slots=True)
class WaitingReviews:
    """How many findings wait for a person, by state, and since when the longest; `is_whole`:
    everything was counted."""

    counts: Mapping[ReviewStatus, int]
    oldest: datetime | None
    is_whole: bool = True

    @property
    def total(self) -> int:
        """All that wait."""
        return sum(self.counts.values())


def count_waiting(
    session: Session, settings: Settings, goes_on: Callable[[], bool] = lambda: True
) -> WaitingReviews:
    """Count what waits for a person, until `goes_on` says no, which is asked now and then.

    An exam's findings are read, so that it takes seconds in a large store.
    """
    counts = dict.fromkeys(WAITING, 0)
    oldest: datetime | None = None
    for number, (stored, state, draw) in enumerate(iter_states(session, settings), 1):
        if number % _BATCH == 0 and not goes_on():
            return WaitingReviews(counts, oldest, is_whole=False)
        if state.status in counts:
            counts[state.status] += 1
            since = _waits_since(stored, state, draw)
            oldest = since if oldest is None else min(oldest, since)
    return WaitingReviews(counts, oldest)


def _waits_since(stored: StoredFinding, state: ReviewState, draw: Draw | None) -> datetime:
    """When a finding that waits for a person began to: since it came, or since what was said."""
    if state.status is ReviewStatus.WAITING:
        return state.remarks[0].at if draw is None else stored.revision.received_at
    asked = state.dispute or state.readings[-1]
    return asked.at


def _list_row(
    stored: StoredFinding, state: ReviewState, draw: Draw | None, answers: Answers
) -> dict[str, Any]:
    body, outcome, key = stored.body, state.outcome, key_of(stored)
    row: dict[str, Any] = {
        "finding": stored.finding_id,
        "state": state.status,
        "exam_id": stored.exam_id,
        "sop_instance_uid": key.sop_instance_uid,
        "revision": key.revision,
        "frame": key.frame,
        "region": key.region,
        "model_id": key.model_id,
        "asked_by": _asked_by(state, draw),
        "events": state.version,
        "reader": None if outcome is None else outcome.reader,
        "at": None if outcome is None else _moment(outcome.at),
        "view": body["view"]["code"],
        "verdict": body["quality"]["label"],
        "probability": body["quality"]["probability"],
        "not_met": [each["code"] for each in body["criteria"] if each["met"] is False],
        "flags": list(body["flags"]),
        "person_view": None if outcome is None else outcome.view,
        "person_verdict": None if outcome is None else outcome.verdict,
        "remarks": [each.remark for each in state.remarks],
    }
    if not answers.are_of(state):
        row |= dict.fromkeys((*_ANSWER_COLUMNS, "person_view", "person_verdict"))
    if answers is Answers.NONE or state.is_blinded:
        # Rules of drawing may be the answer itself: that the first reader disagreed.
        row |= {"asked_by": [], "remarks": None}
    return row


def _asked_by(state: ReviewState, draw: Draw | None) -> list[str]:
    """Why the finding waits for a person."""
    if state.status is ReviewStatus.WAITING:
        return [*(draw.rules if draw else ()), *(["remark"] if state.remarks else [])]
    return []


def show_review(
    settings: Settings,
    finding_id: int,
    *,
    reader: str | None = None,
    answers: Answers = Answers.ASKED_FOR,
    unblind: bool = False,
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """A finding with where its review stands, and `events`, its history; also one that cannot be
    reviewed any more: `unreported` says why.

    Where `answers` says so, and a blinded reading is to come, without the models' answer; in that
    case without what others said, too. `unblind` shows it to `reader`, which is stored: that person
    cannot give the blinded reading any more. Of a replaced picture no reading is to come. Raises
    UsageError, QCError.
    """
    if unblind and (reader is None or answers is Answers.NONE):
        raise UsageError("--unblind: give --reader, the person who is shown the answers")
    store = open_store(settings)
    prepare(store)
    if unblind:
        _unblind(store, settings, finding_id, parse_reader(reader or ""), clock())
    with store.read() as session:
        finding = find_finding(session, finding_id)
        state = state_of(session, settings, finding)
        active = bundles.active(session)
        exam_ids = finding.reported or reviews.exams_of(session, [finding_id])
    is_replaced = not finding.reported and bool(finding.replaced_by)
    hides = not (unblind or is_replaced or answers.are_of(state)) or answers is Answers.NONE
    body, outcome = finding.body, state.outcome
    facts: dict[str, Any] = {
        "finding": finding_id,
        "state": state.status,
        "unreported": describe_unreported(finding),
        "exam_id": sorted(exam_ids),
        "sop_instance_uid": finding.key.sop_instance_uid,
        "revision": finding.key.revision,
        "frame": finding.key.frame,
        "region": finding.key.region,
        "bundle": f"{body['bundle']['name']} {body['bundle']['version']}",
        "is_bundle_active": active is None or active.model_id == finding.key.model_id,
        "view": body["view"]["code"],
        "verdict": body["quality"]["label"],
        "probability": body["quality"]["probability"],
        "criteria": criteria_words(tuple((c["code"], c["met"]) for c in body["criteria"])),
        "reasons": [reason["words"] for reason in body.get("reasons", ())],
        "flags": list(body["flags"]),
        "outcome": None if outcome is None else describe_answer(outcome),
        "reader": None if outcome is None else outcome.reader,
        "at": None if outcome is None else _moment(outcome.at),
        "version": state.version,
        "answers_hidden": hides,
        "events": [_event_row(event) for event in finding.history],
    }
    if hides:
        columns = (*_ANSWER_COLUMNS, "criteria", "reasons", "outcome")
        facts |= {name: None for name in columns if name in facts}
    # Before a first reading there are remarks only, for whoever gives it.
    if hides and (state.is_blinded or answers is Answers.NONE):
        facts["events"] = [row | dict.fromkeys(_EVENT_ANSWER) for row in facts["events"]]
        for row in facts["events"]:
            # Which of the two a reading was would say whether it agrees with the models.
            if row["kind"] in (EventKind.ACCEPT, EventKind.OVERRIDE):
                row["kind"] = "read"
    return facts


def _unblind(store: Store, settings: Settings, finding_id: int, reader: str, now: datetime) -> None:
    with store.begin() as session:
        finding = require_finding(session, finding_id)
        if not state_of(session, settings, finding).is_blinded:
            return
    with store.begin() as session:
        record(session, settings, finding_id, EventKind.UNBLIND, Answer(reader), now)


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "kind": event.kind,
        "reader": event.reader,
        "at": _moment(event.at),
        "view": event.view,
        "verdict": event.verdict,
        "criteria": criteria_words(event.criteria),
        "reason": event.reason,
        "remark": event.remark,
        "blinded": event.is_blinded,
    }


def review_of(state: ReviewState) -> dict[str, Any]:
    """The object `review` of a finding's JSON (DESIGN section 5); what a person said of it is left
    out while another one has to read it blinded."""
    outcome = state.outcome
    visible = None if state.is_blinded else outcome
    return {
        "state": state.status,
        "outcome": None if visible is None else visible.verdict,
        "view": None if visible is None else visible.view,
        "reader": None if outcome is None else outcome.reader,
        "at": None if outcome is None else _moment(outcome.at),
    }


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
