"""Reviews as files: a sheet to fill in, the whole history to keep, and both taken in again.

A sheet's row has an `action` and becomes a new event; a row of a history has a `number` and becomes
that event as it was. A file is taken in as a whole or not at all, and may be taken in twice.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record as record_audit
from qc_daemon.operations.exports import recorded
from qc_daemon.operations.review_lists import WAITING, Answers, iter_rows
from qc_daemon.operations.reviews import (
    OUTCOMES,
    Answer,
    Change,
    criteria_words,
    parse_criteria,
    parse_reader,
    parse_remark,
    prepare,
    queue_report_revisions,
    record,
    require_finding,
)
from qc_daemon.operations.shared import Outcome, open_store
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.results import reviews
from qc_daemon.records.results.reviews import FindingKey
from qc_daemon.review.events import SAID_COLUMNS, Draw, Event, EventKind, is_same_person
from qc_daemon.review.state import current_state, refusal
from qc_daemon.settings import Settings

KEY_COLUMNS = ("sop_instance_uid", "revision", "frame", "region", "model_id")
HISTORY_COLUMNS = (
    "finding",
    *KEY_COLUMNS,
    *SAID_COLUMNS,
    "reader_number",
    "blinded",
    "seconds",
    "drawn_by",
    "drawn_probability",
    "second_by",
    "second_probability",
)
SHEET_COLUMNS = (
    "finding",
    *KEY_COLUMNS,
    "events",
    "state",
    "asked_by",
    "model_view",
    "model_verdict",
    "model_probability",
    "model_not_met",
    "action",
    "view",
    "verdict",
    "criteria",
    "reason",
    "remark",
    "reader",
    "seconds",
)
ACTIONS: dict[str, EventKind | None] = {
    "accept": EventKind.ACCEPT,
    "override": EventKind.OVERRIDE,
    "read": None,
    "dispute": EventKind.DISPUTE,
    "resolve": EventKind.RESOLVE,
    "remark": EventKind.REMARK,
}
_MAX_BYTES = 256 << 20
# A clock that is ahead by so much is not worth a refusal.
_SKEW = timedelta(minutes=5)
# What begins so is a formula to a spreadsheet, or was quoted because it is one.
_QUOTED = re.compile(r"'\s*['=+\-@＝＋－＠]")
_MOST_PROBLEMS = 50
# Each takes some milliseconds, in which nobody else can write: what is received meanwhile waits.
_MOST_ACTIONS = 2000


def make_sheet(
    settings: Settings, window: Window = ALL, *, with_answers: bool = False
) -> Iterator[dict[str, Any]]:
    """A row of SHEET_COLUMNS for each finding that waits for a person, the last columns empty.

    The models' answers are in it `with_answers` only: whoever has seen them cannot read blinded.
    Of what waits for a blinded reading they are in no sheet.
    """
    store = open_store(settings)
    prepare(store)
    answers = Answers.ASKED_FOR if with_answers else Answers.OPEN
    with store.read() as session:
        rows = iter_rows(session, settings, WAITING, None, window, answers)
        for row in recorded(settings, "review sheet", rows):
            yield {
                **{name: row[name] for name in ("finding", *KEY_COLUMNS, "events", "state")},
                "asked_by": row["asked_by"],
                "model_view": row["view"],
                "model_verdict": row["verdict"],
                "model_probability": row["probability"],
                "model_not_met": row["not_met"],
                **dict.fromkeys(SHEET_COLUMNS[SHEET_COLUMNS.index("action") :]),
            }


@dataclass(slots=True)
class History:
    """A row of HISTORY_COLUMNS for each event of the findings with an event in the window.

    `as_text` quotes texts as CSV needs it, so that they come back as they were. Findings that wait
    for a blinded reading are left out unless it `is_whole`; once all rows are read, `left_out` says
    how many.
    """

    settings: Settings
    window: Window = ALL
    as_text: bool = False
    is_whole: bool = False
    left_out: int = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with open_store(self.settings).read() as session:
            every = reviews.iter_events(session, self.window)
            for finding_id, key, events in recorded(self.settings, "reviews", every):
                if not self.is_whole and current_state(events).is_blinded:
                    self.left_out += 1
                    continue
                for event in events:
                    yield _history_row(finding_id, key, event, self.as_text)


def _history_row(finding_id: int, key: FindingKey, event: Event, as_text: bool) -> dict[str, Any]:
    quote = quote_text if as_text else _as_it_is
    return {
        "finding": finding_id,
        **{name: getattr(key, name) for name in KEY_COLUMNS},
        "number": event.number,
        "kind": event.kind,
        "reader": quote(event.reader),
        "at": event.at.isoformat(),
        "view": event.view,
        "verdict": event.verdict,
        "criteria": criteria_words(event.criteria),
        "reason": event.reason,
        "remark": quote(event.remark),
        "reader_number": event.reader_number,
        "blinded": event.is_blinded,
        "seconds": event.seconds,
        "drawn_by": list(event.draw.rules) if event.draw else None,
        "drawn_probability": event.draw.probability if event.draw else None,
        "second_by": list(event.second.rules) if event.second else None,
        "second_probability": event.second.probability if event.second else None,
    }


def _as_it_is(text: str | None) -> str | None:
    return text


def quote_text(text: str | None) -> str | None:
    """The text for a CSV cell; one that looks as if `cli.output.csv_cell` had quoted it is quoted
    once more, so that `unquote_text` gives each text back."""
    return f"'{text}" if text is not None and _QUOTED.match(text) else text


def unquote_text(text: str) -> str:
    """The inverse of `quote_text` and `csv_cell`."""
    return text[1:] if _QUOTED.match(text) else text


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the file and the number of its line, from 1."""

    number: int
    values: Mapping[str, Any]


class _RefusedError(Exception):
    """Rows are wrong: nothing of the file is taken in."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__()
        self.problems = tuple(problems)


def import_reviews(
    settings: Settings, path: Path, reader: str | None = None, clock: Clock = utc_now
) -> tuple[Outcome, int]:
    """Take in the reviews of a file; how many are new, a line for each wrong row, and how many were
    there already.

    With a wrong row nothing is taken in. `reader` stands for rows that name nobody. Raises
    UsageError for a file that is neither CSV nor JSON lines, QCError STORAGE.
    """
    rows = _read(path)
    if rows and not any({"number", "action"} & each.values.keys() for each in rows):
        raise UsageError(
            f"{path} has no column action, nor the number of an event: give what review export"
            " wrote (with --sheet: to fill in)"
        )
    lines = [each for each in rows if _is_filled_in(each)]
    default = None if reader is None else parse_reader(reader)
    if sum(not each.values.get("number") for each in lines) > _MOST_ACTIONS:
        raise UsageError(f"{path} has more than {_MOST_ACTIONS} rows with an action; divide it")
    store = open_store(settings)
    with store.read() as session:
        histories = _Histories(session, lines)
    try:
        with store.begin() as session:
            added, there = _import(session, settings, lines, histories, default, clock())
    except _RefusedError as refused:
        return Outcome(0, refused.problems), 0
    detail = {"what": "reviews", "count": added}
    record_audit(settings, AuditKind.IMPORTED, detail=detail, clock=clock)
    return Outcome(added), there


def _is_filled_in(line: _Line) -> bool:
    return bool(line.values.get("number") or line.values.get("action"))


class _Histories:
    """The findings of a history's rows and their events, read before anything is written: while a
    file is taken in, nobody else can write. Who adds an event meanwhile takes its number, which
    then refuses ours."""

    def __init__(self, session: Session, lines: Sequence[_Line]) -> None:
        keys: dict[FindingKey, int | None] = {}
        for line in lines:
            if line.values.get("number"):
                # A wrong key is a problem of its line, which is said later.
                with suppress(ValueError, TypeError, OverflowError):
                    keys.setdefault(_key(line.values), None)
        self._ids = {key: reviews.find(session, key) for key in keys}
        ids = [finding_id for finding_id in self._ids.values() if finding_id is not None]
        self._events = {id: list(each) for id, each in reviews.histories(session, ids).items()}

    def find(self, key: FindingKey) -> int | None:
        """The finding's id, None if there is none."""
        return self._ids.get(key)

    def events(self, finding_id: int) -> list[Event]:
        """The finding's events, to which those taken in are added."""
        return self._events.setdefault(finding_id, [])


def _import(
    session: Session,
    settings: Settings,
    lines: Sequence[_Line],
    histories: _Histories,
    reader: str | None,
    now: datetime,
) -> tuple[int, int]:
    added, there, problems = 0, 0, list[str]()
    findings: set[int] = set()
    exam_ids: set[int] = set()
    for line in sorted(lines, key=_order):
        try:
            if line.values.get("number"):
                finding_id, is_new = _import_event(session, histories, line.values, now)
                findings.add(finding_id)
            else:
                change = _import_action(session, settings, line.values, reader, now)
                is_new = change is not None
                exam_ids.update(change.exam_ids if change is not None else ())
        except (UsageError, QCError, ValueError, TypeError, OverflowError) as error:
            problems.append(f"line {line.number}: {error}")
            continue
        added, there = added + is_new, there + (not is_new)
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        cut = [f"and {more} more wrong rows"] if more > 0 else []
        raise _RefusedError([*problems[:_MOST_PROBLEMS], *cut, "nothing of the file is taken in"])
    queue_report_revisions(session, exam_ids | reviews.exams_of(session, findings), now)
    return added, there


def _order(line: _Line) -> tuple[int, int]:
    """A spreadsheet may have sorted the rows: a history's events come in their order."""
    number = str(line.values.get("number") or "0").strip()
    return (int(number) if number.isdecimal() else 0, line.number)


def _import_event(
    session: Session, histories: _Histories, values: Mapping[str, Any], now: datetime
) -> tuple[int, bool]:
    """Take in an event of a history as it was; False if it is there already."""
    key = _key(values)
    finding_id = histories.find(key)
    if finding_id is None:
        raise _unknown(key)
    event = _event(values, key)
    if event.at > now + _SKEW:
        raise ValueError(f"at {values['at']} lies in the future")
    stored = histories.events(finding_id)
    if event.number <= len(stored):
        if stored[event.number - 1] == event:
            return finding_id, False
        raise ValueError(f"finding {finding_id} has another event {event.number} already")
    if event.number > len(stored) + 1:
        raise ValueError(f"finding {finding_id} has no event {event.number - 1} before this one")
    reason = refusal(current_state(stored), event)
    if reason is not None:
        raise ValueError(f"finding {finding_id} {reason}")
    if not reviews.append(session, finding_id, event):
        raise ValueError(f"finding {finding_id} has changed since; import again")
    stored.append(event)
    return finding_id, True


def _import_action(
    session: Session,
    settings: Settings,
    values: Mapping[str, Any],
    reader: str | None,
    now: datetime,
) -> Change | None:
    """Do what a sheet's row says; None if it was done already."""
    action = (_text(values, "action") or "").lower()
    if action not in ACTIONS:
        raise ValueError(f"action {action}: give one of {', '.join(ACTIONS)}")
    finding_id = _finding_id(session, values)
    name = _text(values, "reader") or reader
    if name is None:
        raise ValueError("reader is missing: fill it in, or give --reader")
    answer = Answer(
        reader=name,
        view=_text(values, "view"),
        verdict=_text(values, "verdict"),
        criteria=tuple(_criteria(values.get("criteria"))),
        reason=_text(values, "reason"),
        remark=_text(values, "remark"),
        seconds=_number(values, "seconds"),
        version=_whole(values, "events"),
    )
    if _was_done(session, finding_id, ACTIONS[action], answer):
        return None
    return record(session, settings, finding_id, ACTIONS[action], answer, now, amends=False)


def _was_done(session: Session, finding_id: int, kind: EventKind | None, answer: Answer) -> bool:
    """Whether the same person said the same of the finding since the sheet was made."""
    finding = require_finding(session, finding_id)
    remark = parse_remark(answer.remark)
    for event in finding.history[answer.version or 0 :]:
        kinds = (EventKind.ACCEPT, EventKind.OVERRIDE) if kind is None else (kind,)
        if (
            event.kind in kinds
            and event.is_blinded is (kind is None)
            and is_same_person(event.reader, answer.reader)
            and answer.view in (None, event.view)
            and answer.verdict in (None, event.verdict)
            and (not answer.criteria or parse_criteria(answer.criteria, None) == event.criteria)
            and answer.reason in (None, event.reason)
            and remark == event.remark
        ):
            return True
    return False


def _finding_id(session: Session, values: Mapping[str, Any]) -> int:
    """The finding that the row is about: by what names it everywhere, else by its number here."""
    if values.get("sop_instance_uid"):
        key = _key(values)
        finding_id = reviews.find(session, key)
        if finding_id is None:
            raise _unknown(key)
        return finding_id
    number = _whole(values, "finding")
    if number is None:
        raise ValueError("finding is missing: leave the first columns as they were exported")
    return number


def _unknown(key: FindingKey) -> ValueError:
    return ValueError(
        f"there is no finding of image {key.sop_instance_uid}, revision {key.revision},"
        f" frame {key.frame}, region {key.region} by these models"
    )


def _key(values: Mapping[str, Any]) -> FindingKey:
    numbers = [_whole(values, name) for name in ("revision", "frame", "region")]
    uid, model_id = _text(values, "sop_instance_uid"), _text(values, "model_id")
    if uid is None or model_id is None or None in numbers:
        raise ValueError(f"{', '.join(KEY_COLUMNS)}: leave these columns as they were exported")
    revision, frame, region = (number or 0 for number in numbers)
    return FindingKey(uid, revision, frame, region, model_id)


def _event(values: Mapping[str, Any], key: FindingKey) -> Event:
    """The event of a history's row. Raises ValueError, UsageError."""
    view = _text(values, "view")
    remark = _text(values, "remark")
    return Event(
        number=_whole(values, "number") or 0,
        kind=_one_of(EventKind, values, "kind"),
        reader=parse_reader(_text(values, "reader") or ""),
        at=_parse_at(_text(values, "at") or ""),
        revision=key.revision,
        model_id=key.model_id,
        view=None if view is None else _one_of(View, values, "view"),
        verdict=_text(values, "verdict"),
        criteria=parse_criteria(_criteria(values.get("criteria")), None),
        reason=_text(values, "reason"),
        remark=parse_remark(remark),
        reader_number=_whole(values, "reader_number"),
        is_blinded=_truth(values, "blinded"),
        seconds=_number(values, "seconds"),
        draw=_draw(values, "drawn"),
        second=_draw(values, "second"),
    )


def _one_of(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    text = _text(values, name)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} {text}: give one of {', '.join(kind)}") from None


def _parse_at(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"at {text}: leave the moment as it was exported (ISO 8601)") from None
    if moment.tzinfo is None:
        raise ValueError(f"at {text} has no time zone; leave it as it was exported")
    return moment.astimezone(UTC)


def _draw(values: Mapping[str, Any], name: str) -> Draw | None:
    rules = values.get(f"{name}_by")
    rules = rules if isinstance(rules, list) else _split(rules)
    probability = _number(values, f"{name}_probability")
    if not rules and probability is None:
        return None
    if not rules or probability is None or not 0 < probability <= 1:
        raise ValueError(f"{name}_by and {name}_probability: leave both as they were exported")
    return Draw(tuple(map(str, rules)), probability)


def _text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value.strip() or None


def _whole(values: Mapping[str, Any], name: str) -> int | None:
    number = _number(values, name)
    if number is None:
        return None
    if number != int(number) or number < 0:
        raise ValueError(f"{name} {number:g} is no whole number")
    return int(number)


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name} is no number")
    try:
        # Spreadsheets of some countries write a decimal comma.
        number = float(value.replace(",", ".") if isinstance(value, str) else value)
    except ValueError:
        raise ValueError(f"{name} {value} is no number") from None
    if not abs(number) < 2**53:
        raise ValueError(f"{name} {value} is too large")
    return number


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


def _truth(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    word = str("" if value is None else value).strip().lower()
    if word not in _TRUTHS:
        raise ValueError(f"{name} {word}: give true or false")
    return _TRUTHS[word]


def _criteria(value: Any) -> list[str]:
    """Criteria as `CODE=word`: of an object of codes and true, false or null too."""
    if isinstance(value, dict):
        words = {outcome: word for word, outcome in OUTCOMES.items()}
        if not all(outcome is None or isinstance(outcome, bool) for outcome in value.values()):
            raise ValueError("criteria: give true, false or null for each code")
        return [f"{code}={words[outcome]}" for code, outcome in value.items()]
    if isinstance(value, list):
        return [str(each) for each in value]
    return _split(value)


def _split(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, str):
        raise ValueError("a list of words is expected")
    return [part.strip() for part in re.split(r"[;,]", value) if part.strip()]


def _read(path: Path) -> list[_Line]:
    """The rows of a CSV or JSON lines file. Raises UsageError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; divide it")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f'{path} is not UTF-8; save it as "CSV UTF-8"') from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return _read_json(path, text) if text.lstrip().startswith("{") else _read_csv(path, text)


def _read_json(path: Path, text: str) -> list[_Line]:
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{path}: line {number} is no JSON object") from None
        if not isinstance(values, dict):
            raise UsageError(f"{path}: line {number} is no JSON object")
        lines.append(_Line(number, values))
    return lines


def _read_csv(path: Path, text: str) -> list[_Line]:
    header = text.partition("\n")[0]
    # Spreadsheets of some countries separate by semicolons.
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(StringIO(text), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if "finding" not in names and "sop_instance_uid" not in names:
            raise UsageError(
                f"{path}: the first line has no column finding or sop_instance_uid; see review"
                " export --sheet"
            )
        lines = []
        for row in reader:
            if len(row) > len(names) and any(row[len(names) :]):
                raise UsageError(f"{path}: line {reader.line_num} has more cells than columns")
            cells = map(unquote_text, row)
            lines.append(_Line(reader.line_num, dict(zip(names, cells, strict=False))))
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num} is no CSV: {error}") from None
    return lines
