"""Reviews for an operator: what a person says of a finding, and disputes.

A change adds one event to the finding's history in one transaction, with the amended report that
it leads to. Nothing that a person said is changed or removed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.criteria.rules import RULES
from model.finding import REVIEW
from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind, listed
from qc_daemon.operations.shared import open_store, parse_choices, parse_person
from qc_daemon.records import secrets
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import exams
from qc_daemon.records.results import bundles, reviews
from qc_daemon.records.results.reviews import FindingKey, ReviewableFinding
from qc_daemon.records.store import Store
from qc_daemon.review import drawing
from qc_daemon.review.drawing import OWN_PICTURE, DrawnFinding, Shares
from qc_daemon.review.events import (
    Criteria,
    Draw,
    Event,
    EventKind,
    is_same_person,
    name_words,
)
from qc_daemon.review.reasons import LEFT_TO_PERSON, REASONS, list_reasons
from qc_daemon.review.state import (
    VERDICTS,
    ReviewState,
    ReviewStatus,
    current_state,
    next_reader_number,
    refusal,
)
from qc_daemon.settings import Settings

DRAW_SECRET = "draw"
OUTCOMES = {"met": True, "not-met": False, "cannot-tell": None}
"""The words for a criterion's outcome."""
MAX_REMARK_LETTERS = 1000
_MAX_SECONDS = 86_400.0
# Of a PN (PS3.5 6.2): these separate the groups of a name and the values of an element.
_NAME_SEPARATORS = ("\\", "=")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person says, as typed: names are checked by `_event`. `seconds` is how long it took,
    `version` the number of the last event that the person was shown (None: not said)."""

    reader: str
    view: str | None = None
    verdict: str | None = None
    criteria: tuple[str, ...] = ()
    reason: str | None = None
    remark: str | None = None
    seconds: float | None = None
    version: int | None = None


def accept(settings: Settings, finding: int, answer: Answer, clock: Clock = utc_now) -> str:
    """A person agrees with the models; returns a line that says what follows.

    Raises UsageError for wrong words, QCError STORAGE where it cannot be: see `refusal`.
    """
    return _change(settings, finding, EventKind.ACCEPT, answer, clock)


def override(settings: Settings, finding: int, answer: Answer, clock: Clock = utc_now) -> str:
    """A person says otherwise than the models, and why; as `accept`."""
    return _change(settings, finding, EventKind.OVERRIDE, answer, clock)


def read_blinded(settings: Settings, finding: int, answer: Answer, clock: Clock = utc_now) -> str:
    """A person says what the picture shows, without the models' answer; as `accept`."""
    return _change(settings, finding, None, answer, clock)


def dispute(settings: Settings, finding: int, answer: Answer, clock: Clock = utc_now) -> str:
    """A person asks for a blinded reading by another person, whose outcome stands; as `accept`."""
    return _change(settings, finding, EventKind.DISPUTE, answer, clock)


def resolve(settings: Settings, finding: int, answer: Answer, clock: Clock = utc_now) -> str:
    """A person decides between two readings that differ; as `accept`."""
    return _change(settings, finding, EventKind.RESOLVE, answer, clock)


def remark(settings: Settings, finding: int, answer: Answer, clock: Clock = utc_now) -> str:
    """A person remarks on a finding, which then waits for a person's verdict; as `accept`."""
    return _change(settings, finding, EventKind.REMARK, answer, clock)


def _change(
    settings: Settings, finding_id: int, kind: EventKind | None, answer: Answer, clock: Clock
) -> str:
    store = open_store(settings)
    with store.begin() as session:
        change = record(session, settings, finding_id, kind, answer, clock())
    record_review(settings, [finding_id], change.event.kind, clock)
    return f"finding {finding_id}: {change.line}"


def record_review(settings: Settings, finding_ids: Sequence[int], what: str, clock: Clock) -> None:
    """Write to the audit log that somebody said this of findings."""
    recorder.record(
        settings,
        AuditKind.REVIEWED,
        objects={"finding": listed(list(finding_ids))},
        detail={"what": what},
        clock=clock,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """An event that was added; `line` says what came of it. `exam_ids` report the finding."""

    event: Event
    line: str
    exam_ids: frozenset[int]


def record(
    session: Session,
    settings: Settings,
    finding_id: int,
    kind: EventKind | None,
    answer: Answer,
    now: datetime,
    *,
    amends: bool = True,
) -> Change:
    """Add what a person says to the finding's history; `kind` None is a blinded reading.

    The caller's transaction also holds the job of an amended report; without `amends` the caller
    sees to that, once for several findings of an exam. Raises UsageError, QCError.
    """
    secrets.get(session, DRAW_SECRET)
    finding = require_finding(session, finding_id)
    state = state_of(session, settings, finding)
    event = _event(session, settings, finding, state, kind, answer, now)
    reason = refusal(state, event)
    if reason is None and kind is EventKind.OVERRIDE and not exams.overrides(event, finding.body):
        reason = "says so already by its models; accept it with review accept"
    if reason is None and state.is_blinded and event.is_blinded:
        reason = _dependence(session, finding, state, event.reader, _readers_with_answers(state))
    if reason is None and kind is EventKind.RESOLVE and not settings.review.readers_may_resolve:
        reason = _dependence(session, finding, state, event.reader)
    if reason is None and answer.version not in (None, state.version):
        reason = "has changed since it was shown; show it again"
    if reason is None and not reviews.append(session, finding_id, event):
        reason = "has changed since it was shown; show it again"
    if reason is not None:
        raise QCError(ErrorCode.STORAGE, f"finding {finding_id} {reason}")
    after = current_state((*finding.history, event))
    is_amended = amends and queue_report_revisions(session, finding.reported, now)
    line = _describe(
        event, after, is_amended=is_amended, is_remark=_changes_remark_only(state, event)
    )
    return Change(event, line + _describe_bundle(session, finding), frozenset(finding.reported))


def blinded_refusal(
    session: Session, settings: Settings, finding: ReviewableFinding, reader: str
) -> str | None:
    """Why this person cannot give the blinded reading that the finding waits for, in words that go
    on "finding 7 "; None for one who can."""
    state = state_of(session, settings, finding)
    if not state.is_blinded:
        return "waits for no blinded reading"
    event = Event(
        number=state.version + 1,
        kind=EventKind.ACCEPT,
        reader=reader,
        at=finding.history[-1].at,
        revision=finding.key.revision,
        model_id=finding.key.model_id,
        view=View.OTHER,
        is_blinded=True,
    )
    return refusal(state, event) or _dependence(
        session, finding, state, reader, _readers_with_answers(state)
    )


def _readers_with_answers(state: ReviewState) -> list[str]:
    """Who was shown the answers, or disputed them."""
    return [*state.unblinded, *([state.dispute.reader] if state.dispute else [])]


def _dependence(
    session: Session,
    finding: ReviewableFinding,
    state: ReviewState,
    reader: str,
    before: Sequence[str] = (),
) -> str | None:
    """Why this person is not another one than the readers and those `before`, by persons as they
    are merged now, or scanned the picture; None for another one."""
    names = reviews.names_of(session, reader)
    before = [*(each.reader for each in state.readings), *before]
    same = next((name for name in before if name_words(name) in names), None)
    needs = "has to read it"
    if state.status is ReviewStatus.DISAGREEMENT:
        needs = "has to decide between the readings ([review] readers_may_resolve)"
    if same is not None:
        is_known = "" if is_same_person(same, reader) else f", who is {reader}"
        return f"was read, disputed or seen by {same}{is_known}; another person {needs}"
    if _is_operator(session, finding, reader):
        return f"shows what {reader} scanned; another person {needs}"
    return None


def queue_report_revisions(session: Session, exam_ids: Iterable[int], now: datetime) -> bool:
    """Have the reports of these exams amended, where what persons say changes them."""
    is_queued = [exams.queue_report_revision(session, exam_id, now) for exam_id in sorted(exam_ids)]
    return any(is_queued)


def require_finding(session: Session, finding_id: int) -> ReviewableFinding:
    """The finding for review. Raises QCError for one that there is not, or that is not reported."""
    finding = find_finding(session, finding_id)
    reason = describe_unreported(finding)
    if reason is not None:
        raise QCError(ErrorCode.STORAGE, reason)
    return finding


def find_finding(session: Session, finding_id: int) -> ReviewableFinding:
    """The finding, also one that cannot be reviewed any more. Raises QCError for one that there is
    not."""
    finding = reviews.reviewable(session, finding_id)
    if finding is None:
        raise QCError(ErrorCode.STORAGE, f"there is no finding {finding_id}; see review list --all")
    return finding


def describe_unreported(finding: ReviewableFinding) -> str | None:
    """Why no report has the finding, so that nobody can review it; None where one has."""
    if finding.reported:
        return None
    if finding.replaced_by:
        now = ", ".join(map(str, finding.replaced_by))
        return (
            f"finding {finding.finding_id} is of a picture that a later one under the same UID"
            f" replaced; review finding {now} in its place"
        )
    return (
        f"finding {finding.finding_id} is of an object in quarantine, which no report has;"
        " see quarantine list"
    )


def state_of(session: Session, settings: Settings, finding: ReviewableFinding) -> ReviewState:
    """Where the finding's review stands, with what is drawn for a first reading."""
    secret = secrets.read(session, DRAW_SECRET)
    first = draw_first_reading(settings, finding.key, finding.body, secret)
    return current_state(finding.history, needs_reading=first is not None)


def _event(
    session: Session,
    settings: Settings,
    finding: ReviewableFinding,
    state: ReviewState,
    kind: EventKind | None,
    answer: Answer,
    now: datetime,
) -> Event:
    """What the person says as the finding's next event. Raises UsageError, QCError."""
    event = Event(
        number=state.version + 1,
        kind=kind or EventKind.OVERRIDE,
        reader=parse_reader(answer.reader),
        at=now,
        revision=finding.key.revision,
        model_id=finding.key.model_id,
        view=_parse_view(answer.view),
        verdict=_parse_verdict(answer.verdict),
        reason=_parse_reason(answer.reason),
        remark=parse_remark(answer.remark),
        seconds=_parse_seconds(answer.seconds),
        is_blinded=kind is None,
    )
    event = replace(event, criteria=parse_criteria(answer.criteria, event.view))
    if kind is EventKind.ACCEPT:
        event = _accepting(finding, state, event)
    elif kind is EventKind.OVERRIDE:
        event = _overriding(finding, event)
    elif kind is None and not exams.overrides(event, finding.body):
        event = replace(event, kind=EventKind.ACCEPT)
    if kind not in (EventKind.ACCEPT, EventKind.OVERRIDE, None):
        return event
    return _drawn(session, settings, finding, state, event)


def _accepting(finding: ReviewableFinding, state: ReviewState, event: Event) -> Event:
    view, verdict = finding.answer
    # Who waits to read it blinded is not told that there is nothing to accept, or what.
    if state.is_blinded:
        return replace(event, view=view, verdict=None)
    contradicts = event.view not in (None, view) or event.verdict not in (None, verdict)
    if contradicts or event.criteria:
        raise QCError(
            ErrorCode.STORAGE,
            f"finding {finding.finding_id} cannot be accepted as something else than the models"
            " say; give view, verdict and criteria with review override",
        )
    if verdict == REVIEW:
        raise QCError(
            ErrorCode.STORAGE,
            f"finding {finding.finding_id} has no verdict to accept: the models leave it to a"
            " person; give one with review override",
        )
    return replace(event, view=view, verdict=verdict)


def _overriding(finding: ReviewableFinding, event: Event) -> Event:
    """The override with what is not said as the models have it."""
    view, verdict = finding.answer
    if event.view is None:
        event = replace(event, view=view)
    if event.view is view and event.verdict is None and verdict != REVIEW:
        event = replace(event, verdict=verdict)
    if event.reason is None and verdict == REVIEW:
        event = replace(event, reason=LEFT_TO_PERSON)
    return event


def _drawn(
    session: Session,
    settings: Settings,
    finding: ReviewableFinding,
    state: ReviewState,
    event: Event,
) -> Event:
    """The reading with its number, how it was drawn, and whether a second one is to follow."""
    number = next_reader_number(state, event)
    event = replace(event, reader_number=number)
    if number > 1:
        waiting = state.readings[0].second if state.readings else None
        return replace(event, draw=None if state.dispute is not None else waiting)
    if state.dispute is not None:
        return event
    secret = secrets.get(session, DRAW_SECRET)
    second = drawing.draw_second(
        _drawn_finding(finding.key, finding.body),
        shares_of(settings),
        secret,
        disagrees=exams.overrides(event, finding.body),
        further=_further_risks(session, settings, finding, event.reader),
    )
    return replace(
        event, draw=draw_first_reading(settings, finding.key, finding.body, secret), second=second
    )


def _further_risks(
    session: Session, settings: Settings, finding: ReviewableFinding, reader: str
) -> frozenset[str]:
    """Risks that the finding itself does not tell: a new person or device, the own picture."""
    risks = reviews.novelties(session, finding.file.revision_id, settings.review.new_after)
    return risks | {OWN_PICTURE} if _is_operator(session, finding, reader) else risks


def _is_operator(session: Session, finding: ReviewableFinding, reader: str) -> bool:
    """Whether the reader, by persons as they are merged now, scanned the picture."""
    names = reviews.names_of(session, reader)
    operators = reviews.operator_names(session, finding.file.revision_id)
    return any(name_words(name) in names for name in operators)


def shares_of(settings: Settings) -> Shares:
    """How much the settings want to be drawn."""
    review = settings.review
    return Shares(
        review.first_share, review.share, review.risk_share, review.near, frozenset(review.flags)
    )


def _drawn_finding(key: FindingKey, body: dict[str, Any]) -> DrawnFinding:
    quality = body["quality"]
    # A view that is not assessed has no verdict that a person would have to give.
    is_assessed = body["view"]["code"] != View.OTHER
    verdict = str(quality["label"]) if is_assessed else ""
    return DrawnFinding(str(key), verdict, quality["probability"], tuple(body["flags"]))


def draw_first_reading(
    settings: Settings, key: FindingKey, body: dict[str, Any], secret: bytes | None
) -> Draw | None:
    """Why a person has to read the finding; None if nobody has to."""
    return drawing.draw_first(_drawn_finding(key, body), shares_of(settings), secret)


def prepare(store: Store) -> None:
    """Make the secret that findings are drawn with, if there is none yet."""
    with store.read() as session:
        is_there = secrets.read(session, DRAW_SECRET) is not None
    if not is_there:
        with store.begin() as session:
            secrets.get(session, DRAW_SECRET)


def parse_reader(value: str) -> str:
    """The reader's name, which an SR can hold as a person's name (PN). Raises UsageError."""
    name = parse_person(value, "--reader")
    if any(separator in name for separator in _NAME_SEPARATORS):
        raise UsageError(f"--reader {name}: give a name without \\ and =")
    return name


def _parse_view(value: str | None) -> View | None:
    if value is None:
        return None
    (view,) = parse_choices(View, [value.upper()], f"--view {value}")
    return view


def _parse_verdict(value: str | None) -> str | None:
    if value is not None and value not in VERDICTS:
        raise UsageError(f"--verdict {value}: give {' or '.join(VERDICTS)}")
    return value


def _parse_reason(value: str | None) -> str | None:
    if value is not None and value not in REASONS:
        raise UsageError(f"--reason {value}: give one of {list_reasons()}")
    return value


def parse_remark(value: str | None) -> str | None:
    """The remark on one line, None if it is empty. Raises UsageError."""
    text = (value or "").strip()
    if len(text) > MAX_REMARK_LETTERS or not text.isprintable():
        raise UsageError(f"--remark: give up to {MAX_REMARK_LETTERS} letters on one line")
    return text or None


def _parse_seconds(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= _MAX_SECONDS:
        raise UsageError(f"--seconds {value:g}: give 0 to {_MAX_SECONDS:g}")
    return value


def parse_criteria(values: Iterable[str], view: View | None) -> Criteria:
    """`CODE=met`, `not-met` or `cannot-tell` of each, for criteria of the view (None: of any).

    The letters before the code's dash may be left away. Raises UsageError.
    """
    codes = {
        rule.code: None
        for of_view, rules in RULES.items()
        if view is None or of_view is view
        for rule in rules
    }
    criteria: dict[str, bool | None] = {}
    for value in values:
        code, _, word = value.partition("=")
        code = code.strip().upper()
        code = code if code.startswith(_CRITERION) else f"{_CRITERION}{code}"
        word = word.strip().lower().replace(" ", "-").replace("_", "-")
        if code not in codes:
            of_view = f" of {view}" if view else ""
            raise UsageError(f"--criterion {value}: give a criterion{of_view}: {', '.join(codes)}")
        if word not in OUTCOMES:
            raise UsageError(f"--criterion {value}: give {code}= one of {', '.join(OUTCOMES)}")
        criteria[code] = OUTCOMES[word]
    return tuple(criteria.items())


_CRITERION = "CRIT-"


def criteria_words(criteria: Criteria) -> list[str]:
    """The inverse of `parse_criteria`."""
    words = {outcome: word for word, outcome in OUTCOMES.items()}
    return [f"{code}={words[met]}" for code, met in criteria]


def _changes_remark_only(before: ReviewState, event: Event) -> bool:
    """Whether it is a remark, or a reader says the same as before with another one."""
    said = before.outcome
    if event.kind is EventKind.REMARK or said is None or event.is_blinded:
        return event.kind is EventKind.REMARK
    return (said.kind, said.answer, said.criteria, said.reason) == (
        event.kind,
        event.answer,
        event.criteria,
        event.reason,
    )


def _describe(event: Event, after: ReviewState, *, is_amended: bool, is_remark: bool) -> str:
    """What came of it. Of a blinded reading not whether it is what the models say."""
    kind = "read" if event.is_blinded else _WORDS[event.kind]
    answer = f" as {describe_answer(event)}" if event.view is not None else ""
    parts = [f"{kind}{answer} by {event.reader}"]
    if after.status is ReviewStatus.SECOND_READING:
        parts.append(_WAITS)
    if after.status is ReviewStatus.DISAGREEMENT:
        parts.append("the readings differ: a third person decides with review resolve")
    if is_amended:
        parts.append("an amended report is queued")
    if is_remark:
        parts.append("the report stays as it is: remarks are in none")
    return "; ".join(parts)


_WAITS = (
    "it waits for a blinded reading by another person, and until then nobody is shown what was said"
)
_WORDS = {
    EventKind.ACCEPT: "accepted",
    EventKind.OVERRIDE: "overridden",
    EventKind.DISPUTE: "disputed",
    EventKind.RESOLVE: "resolved",
    EventKind.REMARK: "remarked on",
    EventKind.UNBLIND: "shown with its answers",
}


def describe_answer(event: Event) -> str:
    """View and verdict of a reading: "NT, standard"."""
    view = "" if event.view is None else str(event.view.value)
    return view if event.verdict is None else f"{view}, {event.verdict}"


def _describe_bundle(session: Session, finding: ReviewableFinding) -> str:
    """Says so where the models that judged are not the active ones any more."""
    active = bundles.active(session)
    if active is None or active.model_id == finding.key.model_id:
        return ""
    bundle = finding.body["bundle"]
    return (
        f"; bundle {bundle['name']} {bundle['version']}, which judged it, is not active any more:"
        " the review counts for this finding"
    )
