"""Findings and exams as pages and API show them: a page at a time, and only what one may see.

What an account may not see is not there: the question to the database leaves it out, so that a
number that was guessed is answered like one that there is not.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from model.finding import QUALITY_LABELS
from qc_daemon.operations.exams import exam_row
from qc_daemon.operations.principals import Principal, scope_of
from qc_daemon.operations.results import provenance
from qc_daemon.operations.review_lists import add_states, review_of
from qc_daemon.operations.reviews import prepare
from qc_daemon.operations.searches import record_search
from qc_daemon.operations.shared import open_store, parse_window
from qc_daemon.records import listings
from qc_daemon.records.acquisition import identities
from qc_daemon.records.acquisition.acquisitions import ANY_ACQUISITION, AcquisitionFilter
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.results import finding_pages, rejections
from qc_daemon.records.results.finding_pages import ANY_FINDING, Cursor, FindingChoice
from qc_daemon.records.results.findings import StoredFinding
from qc_daemon.records.tables import IdentityKind
from qc_daemon.review.events import Draw
from qc_daemon.review.state import ReviewState, ReviewStatus
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb

MAX_PAGE = 200
HIDDEN_KEYS = (
    *("view", "quality", "gates", "detections", "description", "criteria", "reasons", "flags"),
    "site",
)
"""Keys of a finding that give its answer away: null while it waits for a blinded reading."""
# A page that few findings match reads so many times its size, one after the other, before it
# offers to go on.
_READS = (1, 3, 6)
_MAX_ID = 2**63 - 1
_ANY_EXAM = ExamFilter()


class NotVisibleError(Exception):
    """There is no such thing, or this account may not see it: which of the two is not told."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of findings; empty or None: any. `states` are those of reviews; `days` those
    that the images were made in, both included."""

    exam_filter: ExamFilter = _ANY_EXAM
    window: Window = ALL
    choice: FindingChoice = ANY_FINDING
    states: Sequence[ReviewStatus] = ()
    all_frames: bool = False
    person: str | None = None
    device: str | None = None
    site: str | None = None
    days: tuple[date, date] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A finding that one may see, and where its review stands. `draw`: why a person is asked."""

    stored: StoredFinding
    state: ReviewState | None
    draw: Draw | None
    is_rejected: bool

    @property
    def is_hidden(self) -> bool:
        """Whether somebody is still to read it blinded, so that nobody is shown its answer."""
        return self.state is not None and self.state.is_blinded


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Findings of a page; `cursor` is where the next one begins, None at the end."""

    entries: list[Entry]
    cursor: str | None


def parse_question(
    *,
    exam: int | None = None,
    study: str | None = None,
    views: Sequence[str] = (),
    verdicts: Sequence[str] = (),
    states: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    all_frames: bool = False,
    person: str = "",
    device: str = "",
    site: str = "",
    made_from: str = "",
    made_to: str = "",
) -> Question:
    """The question that a URL asks. Raises UsageError."""
    codes = [_require(view.upper(), [each.value for each in View], "view") for view in views]
    labels = [_require(verdict, QUALITY_LABELS, "verdict") for verdict in verdicts]
    statuses = [ReviewStatus(_require(state, list(ReviewStatus), "state")) for state in states]
    return Question(
        ExamFilter(exam_id=exam, study=study),
        parse_window(since or None, until or None),
        FindingChoice(codes, labels),
        statuses,
        all_frames,
        person or None,
        device or None,
        site.strip() or None,
        _parse_days(made_from, made_to),
    )


_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(9000, 1, 1)


def _parse_days(first: str, last: str) -> tuple[date, date] | None:
    """Days from the first to the last, both included; None where neither is given."""
    if not first and not last:
        return None
    try:
        start = date.fromisoformat(first) if first else _FIRST_DAY
        end = date.fromisoformat(last) if last else _LAST_DAY
    except ValueError:
        raise UsageError("made_from, made_to: give days as 2026-11-28") from None
    if not _FIRST_DAY <= start <= end <= _LAST_DAY:
        raise UsageError("made_to: give a day not before made_from")
    return start, end


def _require(value: str, choices: Sequence[str], name: str) -> str:
    if value not in choices:
        raise UsageError(f"{name}: give one of {', '.join(choices)}")
    return value


def list_entries(
    settings: Settings,
    principal: Principal,
    question: Question,
    limit: int,
    cursor: str | None = None,
) -> EntryPage:
    """A page of findings that the account may see, the last received first. A page may have fewer
    than `limit` and still not be the last. Raises UsageError for a cursor that is none."""
    store = open_store(settings)
    prepare(store)
    after = None if cursor is None else parse_cursor(cursor)
    entries: list[Entry] = []
    with store.read() as session:
        for times in _READS:
            count = times * limit
            rows = _read(session, principal, question, count + 1, after)
            has_more = len(rows) > count
            for entry in _entries(session, settings, rows[:count]):
                if len(entries) == limit:
                    break
                after = Cursor(entry.stored.revision.received_at, entry.stored.finding_id or 0)
                if _is_asked_for(entry, question):
                    entries.append(entry)
            else:
                if not has_more:
                    return EntryPage(entries, None)
                if len(entries) < limit:
                    continue
            break
    return EntryPage(entries, None if after is None else format_cursor(after))


def _read(
    session: Session,
    principal: Principal,
    question: Question,
    limit: int,
    after: Cursor | None = None,
) -> list[StoredFinding]:
    return finding_pages.read(
        session,
        limit,
        after=after,
        exam_filter=question.exam_filter,
        window=question.window,
        acquisition_filter=_images(session, principal, question),
        choice=question.choice,
    )


def _images(session: Session, principal: Principal, question: Question) -> AcquisitionFilter:
    """The images that are asked for, of those that the account may see. A person or device that
    there is not has none."""
    persons = scope_of(session, principal).persons
    if question.person is not None:
        asked = _members(session, IdentityKind.PERSON, question.person)
        persons = asked if persons is None else persons & asked
    devices = None
    if question.device is not None:
        devices = _members(session, IdentityKind.DEVICE, question.device)
    return AcquisitionFilter(persons, devices, question.site, question.days)


def _members(session: Session, kind: IdentityKind, id: str) -> frozenset[str]:
    return frozenset(identities.members(session, kind, id) or ())


def _entries(
    session: Session, settings: Settings, rows: Sequence[StoredFinding]
) -> Iterator[Entry]:
    uids = {row.revision.sop_instance_uid for row in rows}
    rejected = rejections.standing(session, uids)
    for stored, state, draw in add_states(session, settings, iter(rows)):
        yield Entry(stored, state, draw, stored.revision.sop_instance_uid in rejected)


def _is_asked_for(entry: Entry, question: Question) -> bool:
    has_events = entry.state is not None and bool(entry.state.version)
    if not (question.all_frames or entry.stored.is_best or has_events):
        return False
    # Whatever is asked for: that it is listed would be its answer.
    if entry.is_hidden and (question.choice.views or question.choice.verdicts):
        return False
    if not question.states:
        return True
    return entry.state is not None and entry.state.status in question.states


def read_entry(settings: Settings, principal: Principal, finding_id: int) -> Entry:
    """The finding. Raises NotVisibleError."""
    if not 1 <= finding_id <= _MAX_ID:
        raise NotVisibleError
    store = open_store(settings)
    prepare(store)
    with store.read() as session:
        for entry in read_entries(session, settings, principal, [finding_id]):
            return entry
    raise NotVisibleError


def read_entries(
    session: Session, settings: Settings, principal: Principal, finding_ids: Sequence[int]
) -> list[Entry]:
    """Those of the findings that the account may see, the last received first; the caller has
    prepared the store."""
    question = Question(choice=FindingChoice(ids=finding_ids))
    rows = _read(session, principal, question, len(finding_ids))
    return list(_entries(session, settings, rows))


_MAX_OF_EXAM = 2000


def exam_entries(settings: Settings, principal: Principal, exam_id: int) -> list[Entry]:
    """What is shown of an exam, in order of arrival; of a cine its best frames and those that a
    person spoke of."""
    store = open_store(settings)
    prepare(store)
    with store.read() as session:
        return read_exam_entries(session, settings, exam_id, scope_of(session, principal))


def read_exam_entries(
    session: Session,
    settings: Settings,
    exam_id: int,
    scope: AcquisitionFilter = ANY_ACQUISITION,
) -> list[Entry]:
    """As `exam_entries`, of these images; the caller has prepared the store."""
    question = Question(ExamFilter(exam_id=exam_id))
    rows = finding_pages.read(
        session, _MAX_OF_EXAM, exam_filter=question.exam_filter, acquisition_filter=scope
    )
    entries = [e for e in _entries(session, settings, rows) if _is_asked_for(e, question)]
    return entries[::-1]


def entry_json(entry: Entry) -> dict[str, Any]:
    """The finding as `results --format json` has it (DESIGN section 5), with `answers_hidden`; of
    one that waits for a blinded reading without its answer."""
    stored = entry.stored
    row = stored.body | provenance(stored) | {"rejected": entry.is_rejected}
    if entry.state is not None:
        row["review"] = review_of(entry.state)
    row["answers_hidden"] = entry.is_hidden
    if entry.is_hidden:
        row |= dict.fromkeys(HIDDEN_KEYS)
    return row


@dataclass(frozen=True, slots=True)
class ExamPage:
    """Exams of a page, as rows of `exam list`; without patients for who may not see them."""

    rows: list[dict[str, Any]]
    cursor: str | None


PATIENT_KEYS = ("patient_id", "patient_name", "accession_number")
"""Keys of an exam that name the patient."""


def list_visible_exams(
    settings: Settings,
    principal: Principal,
    exam_filter: ExamFilter,
    limit: int,
    cursor: str | None = None,
) -> ExamPage:
    """A page of exams that the account may see, the last opened first.

    Raises UsageError for a cursor that is none. Who may not see patients cannot search by them.
    """
    if not principal.may(Verb.SEE_PATIENTS):
        exam_filter = replace(exam_filter, patient=None, accession=None, text=None)
    before = None if cursor is None else parse_cursor(cursor)
    if exam_filter.patient or exam_filter.accession or exam_filter.text:
        record_search(settings, "exams", exam_filter)
    with open_store(settings).read() as session:
        rows = listings.exam_page(
            session,
            exam_filter,
            limit + 1,
            persons=scope_of(session, principal).persons,
            before=None if before is None else before.id,
        )
    page = [_without_patient(exam_row(row), principal) for row in rows[:limit]]
    is_last = len(rows) <= limit
    last = None if is_last else Cursor(rows[limit - 1].opened_at, rows[limit - 1].id)
    return ExamPage(page, None if last is None else format_cursor(last))


def read_exam(settings: Settings, principal: Principal, exam_id: int) -> dict[str, Any]:
    """The exam as a row of `exam list`. Raises NotVisibleError."""
    if 1 <= exam_id <= _MAX_ID:
        exam_filter = ExamFilter(exam_id=exam_id)
        page = list_visible_exams(settings, principal, exam_filter, 1)
        if page.rows:
            return page.rows[0]
    raise NotVisibleError


def _without_patient(row: dict[str, Any], principal: Principal) -> dict[str, Any]:
    if principal.may(Verb.SEE_PATIENTS):
        return row
    return row | dict.fromkeys(PATIENT_KEYS)


def format_cursor(cursor: Cursor) -> str:
    """The cursor as a word of a URL."""
    text = f"{cursor.at.astimezone(UTC).isoformat()} {cursor.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(word: str) -> Cursor:
    """The inverse of `format_cursor`. Raises UsageError."""
    try:
        text = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)).decode("ascii")
        moment, _, number = text.partition(" ")
        at = datetime.fromisoformat(moment)
        if at.tzinfo is None or not number.isdecimal() or int(number) > _MAX_ID:
            raise ValueError(word)
        return Cursor(at, int(number))
    except (ValueError, binascii.Error, OverflowError):
        raise UsageError("cursor: give one that a page before gave") from None
