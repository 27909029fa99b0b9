"""Exams for an operator: which there are, the state of one in words, and closing it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.operations.store import Listing, open_store
from qc_daemon.receive.identifiers import HeaderError, data_set_offset, read_identity
from qc_daemon.records import listings
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.received import exams, progress, receipts
from qc_daemon.records.received.progress import Progress, Sent
from qc_daemon.records.received.revisions import Quarantined
from qc_daemon.records.store import Store
from qc_daemon.records.tables import ClosedBy, ExamOutcome, ExamState
from qc_daemon.settings import Settings

CAUSES = {
    ClosedBy.PROCEDURE_STEP: "its procedure steps are completed and all they name is here",
    ClosedBy.QUIET: "nothing came for the quiet time",
    ClosedBy.MAX_OPEN: "it was open for the longest time allowed",
    ClosedBy.PERSON: "closed by command",
}
OUTCOMES = {
    ExamOutcome.REPORT: "a report was asked for",
    ExamOutcome.UNCHANGED: "nothing new to report",
    ExamOutcome.NOTHING_TO_TELL: "no findings to report",
}


EXAM_COLUMNS = (
    "exam_id",
    "state",
    "patient_id",
    "patient_name",
    "accession_number",
    "study_date",
    "objects",
    "report",
    "last_object",
    "study_instance_uid",
    "opened",
    "closed",
    "closed_by",
    "outcome",
    "model_id",
)
EXAM_TABLE = EXAM_COLUMNS[:10]
# Headers read in one go: some seconds of work.
_HEADERS = 2000


@dataclass(frozen=True, slots=True)
class Exams:
    """Exams found, and how many of older versions could not be searched by name yet."""

    rows: Listing
    unread: int


def list_exams(settings: Settings, exam_filter: ExamFilter, window: Window = ALL) -> Exams:
    """The exams, those whose last object came last first; the window is about when that came.

    What an older version did not keep of an exam is read from its files first.
    """
    store = open_store(settings)
    unread = _describe(store, settings.store.spool)
    with store.read() as session:
        rows, total = listings.exams(session, exam_filter, window)
    return Exams(Listing(map(_exam_row, rows), total), unread)


def exam_of(text: str) -> ExamFilter:
    """The exams that a word of the command line names: an exam id, else a Study Instance UID."""
    if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID:
        return ExamFilter(exam_id=int(text))
    return ExamFilter(study=text)


_LONGEST_ID = 18


def parse_day(value: str) -> date:
    """A day (ISO 8601). Raises UsageError."""
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UsageError(f"--day {value}: give a day as 2026-11-28") from None


def state_lines(
    settings: Settings, study: str | None = None, exam_id: int | None = None
) -> list[str]:
    """A line an exam of the study or of this id, and one for each report of it and for the
    originals."""
    exam_filter = ExamFilter(study=study, exam_id=exam_id)
    with open_store(settings).read() as session:
        exams_of_filter = _progress(session, exam_filter)
        omitted = {each.exam_id: exams.omissions(session, each.exam_id) for each in exams_of_filter}
        undrawn = {each.exam_id: exams.undrawn(session, each.exam_id) for each in exams_of_filter}
    lines: list[str] = []
    if study and len(exams_of_filter) > 1:
        numbers = ", ".join(str(each.exam_id) for each in exams_of_filter)
        lines.append(
            f"WARNING: {len(exams_of_filter)} patients share this study (exams {numbers}); "
            "check which patient was selected at the machine"
        )
    for each in exams_of_filter:
        lines += _lines(each)
        lines += [f"  not reported: {_reason(r)}" for r in omitted[each.exam_id]]
        lines += [f"  without overlay: {_reason(r)}" for r in undrawn[each.exam_id]]
    return lines


def close_exams(settings: Settings, exam_filter: ExamFilter) -> list[str]:
    """Close the exams now, all or none; a line an exam that says so.

    Raises QCError STORAGE where there is none or one has objects still to be scored.
    """
    with open_store(settings).begin() as session:
        exams_of_filter = _progress(session, exam_filter)
        if not exams_of_filter:
            raise QCError(ErrorCode.STORAGE, "no such exam; see exam list")
        scoring = sum(each.scoring for each in exams_of_filter if each.state == ExamState.OPEN)
        if scoring:
            raise QCError(
                ErrorCode.STORAGE, f"not closed: {scoring} objects are still to be scored"
            )
        now = datetime.now(UTC)
        return [
            f"exam {each.exam_id} is closed"
            if exams.close_now(session, each.exam_id, now)
            else f"exam {each.exam_id} was closed already, {_moment(each.closed_at)}"
            for each in exams_of_filter
        ]


def _progress(session: Session, exam_filter: ExamFilter) -> list[Progress]:
    rows, _ = listings.exams(session, exam_filter)
    return [progress.of_exam(session, row.id) for row in sorted(rows, key=lambda row: row.id)]


def _describe(store: Store, spool: Path) -> int:
    """Read headers for exams that no name is kept of; how many are left."""
    with store.read() as session:
        rows, total = listings.undescribed(session, _HEADERS)
    if not rows:
        return 0
    described = [(row.id, _header(spool / row.path, row.transfer_syntax_uid)) for row in rows]
    with store.begin() as session:
        for exam_id, values in described:
            exams.describe(session, exam_id, values)
    return total - len(rows)


def _header(path: Path, transfer_syntax: str) -> dict[str, str]:
    """What a file says of its exam; nothing where it cannot be read."""
    try:
        offset = data_set_offset(path)
        identity = read_identity(path, offset, transfer_syntax, describing=True)
    except (HeaderError, OSError):
        return receipts.description("", "", "")
    return receipts.description(
        identity.patient_name, identity.accession_number, identity.study_date
    )


def _exam_row(row: Any) -> dict[str, Any]:
    return {
        "exam_id": row.id,
        "state": row.state,
        "patient_id": row.patient_id,
        "patient_name": row.patient_name,
        "accession_number": row.accession_number,
        "study_date": _iso_date(row.study_date),
        "objects": row.objects,
        "report": row.report_revision,
        "last_object": _moment(row.last_object_at),
        "study_instance_uid": row.study_instance_uid,
        "opened": _moment(row.opened_at),
        "closed": None if row.closed_at is None else _moment(row.closed_at),
        "closed_by": row.closed_by,
        "outcome": row.outcome,
        "model_id": row.bundle_id,
    }


def _iso_date(date: str | None) -> str | None:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else date


def _reason(quarantined: Quarantined) -> str:
    return f"{quarantined.facts.sop_instance_uid} ({quarantined.code}: {quarantined.message})"


def _lines(exam: Progress) -> Iterator[str]:
    yield f"exam {exam.exam_id}: {exam.objects} objects, {_state(exam)}"
    for number, of_report in groupby(exam.sent, key=lambda sent: sent.report_revision):
        name = f"report {number}" if number else "originals"
        yield f"  {name}: {_where(of_report)}"


def _state(exam: Progress) -> str:
    if exam.state == ExamState.OPEN:
        waiting = f"{exam.scoring} to be scored, {exam.associations} associations"
        return (
            f"open since {_moment(exam.opened_at)}, last object {_moment(exam.last_object_at)}"
            + (f" ({waiting})")
        )
    closed = f"closed {_moment(exam.closed_at)}"
    if exam.closed_by is not None:
        closed += f": {CAUSES[ClosedBy(exam.closed_by)]}"
    if exam.outcome is not None:
        closed += f"; {OUTCOMES[ExamOutcome(exam.outcome)]}"
    amended = ", amended" if exam.report_revision > 1 else ""
    return f"{closed} (report {exam.report_revision}{amended})" if exam.report_revision else closed


def _where(sent: Iterator[Sent]) -> str:
    """`sr to pacs: done; overlay to pacs: 3 done, 1 dead`."""
    parts = []
    for (kind, destination), states in groupby(sent, key=lambda s: (s.kind, s.destination)):
        counts = ", ".join(f"{s.count} {s.state}" for s in states)
        parts.append(f"{kind} to {destination}: {counts}")
    return "; ".join(parts)


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")
