"""Exams for an operator: list, describe and close them, write a summary."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import enqueue
from qc_daemon.operations.searches import record_search
from qc_daemon.operations.shared import Listing, open_store
from qc_daemon.receive.identifiers import HeaderError, data_set_offset, read_identity
from qc_daemon.records import listings
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.received import exams, progress, receipts
from qc_daemon.records.received.progress import DeliveryCount, ExamStatus, Progress
from qc_daemon.records.received.revisions import QuarantinedRevision
from qc_daemon.records.results import rejections
from qc_daemon.records.store import Store
from qc_daemon.records.tables import ClosedBy, ExamOutcome, ExamState
from qc_daemon.retain import Originals
from qc_daemon.routing import Routes
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

if TYPE_CHECKING:
    from qc_daemon.report.summary.pdf import Pictures
    from qc_daemon.report.summary.summary import ExamSummary

CAUSES = {
    ClosedBy.PROCEDURE_STEP: "its procedure steps are completed and all they name is here",
    ClosedBy.QUIET: "nothing came for the quiet time",
    ClosedBy.MAX_OPEN: "it was open for the longest time allowed",
    ClosedBy.PERSON: "closed by command",
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
    "status",
    "to_be_scored",
    "quarantined",
    "rejected",
)
EXAM_TABLE = (
    "exam_id",
    "state",
    "outcome",
    "patient_id",
    "patient_name",
    "accession_number",
    "study_date",
    "objects",
    "report",
    "last_object",
    "study_instance_uid",
)
# A list reads at most so many headers of older exams at once, which takes some seconds.
_MAX_HEADERS = 2000


@dataclass(frozen=True, slots=True)
class ExamList:
    """The exams of a list, and how many exams of older versions cannot be searched by name yet."""

    rows: Listing
    unread: int


def list_exams(settings: Settings, exam_filter: ExamFilter, window: Window = ALL) -> ExamList:
    """The exams, the one with the latest object first; the window is about the last object.

    What an older version did not store of an exam is read from its files first.
    """
    store = open_store(settings)
    unread = _describe(store, settings.store.spool)
    with store.read() as session:
        rows, total = listings.exams(session, exam_filter, window)
    record_search(settings, "exams", exam_filter)
    return ExamList(Listing(map(exam_row, rows), total), unread)


def table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an exam for a table: its outcome in words, and no number of a report that is not
    there."""
    words = _outcome_words(
        ExamStatus(row["status"]),
        row["objects"],
        row["quarantined"],
        row["to_be_scored"],
        row["rejected"],
    )
    return {**row, "outcome": words, "report": row["report"] or None}


def _outcome_words(
    status: ExamStatus, objects: int, quarantined: int, scoring: int, rejected: int
) -> str:
    """`reported, 1 of 3 in quarantine, 1 of 3 rejected`; `waiting, 2 to be scored`."""
    words = [] if status is ExamStatus.QUARANTINED else [status.value]
    if scoring:
        words.append(f"{scoring} to be scored")
    if quarantined:
        words.append(f"{quarantined} of {objects} in quarantine")
    if rejected:
        words.append(f"{rejected} of {objects} rejected")
    return ", ".join(words)


def parse_exam(text: str) -> ExamFilter:
    """The exams that an argument of a command names: an exam id, else a Study Instance UID."""
    if text.isascii() and text.isdecimal() and len(text) <= _MAX_ID_DIGITS:
        return ExamFilter(exam_id=int(text))
    return ExamFilter(study=text)


_MAX_ID_DIGITS = 18


def parse_day(value: str) -> date:
    """A day (ISO 8601). Raises UsageError."""
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise UsageError(f"--day {value}: give a day as 2026-11-28") from None


def describe_exams(
    settings: Settings, study: str | None = None, exam_id: int | None = None
) -> list[str]:
    """Lines on each exam of the study or of this id: its state, and the deliveries of each report
    and of the originals. Raises QCError STORAGE if there is none."""
    exam_filter = ExamFilter(study=study, exam_id=exam_id)
    with open_store(settings).read() as session:
        exams_of_filter = _progress(session, exam_filter)
        omitted = {each.exam_id: exams.omissions(session, each.exam_id) for each in exams_of_filter}
        undrawn = {
            each.exam_id: exams.without_overlay(session, each.exam_id) for each in exams_of_filter
        }
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


def exam_progress(settings: Settings, exam_id: int) -> Progress:
    """How far the exam is. Raises QCError STORAGE if there is none."""
    with open_store(settings).read() as session:
        (exam,) = _progress(session, ExamFilter(exam_id=exam_id))
    return exam


def close_exams(settings: Settings, exam_filter: ExamFilter, clock: Clock = utc_now) -> list[str]:
    """Close the exams now, all or none; a line an exam that says so.

    Raises QCError STORAGE if there is none or one has objects still to be scored.
    """
    with open_store(settings).begin() as session:
        exams_of_filter = _progress(session, exam_filter)
        scoring = sum(each.scoring for each in exams_of_filter if each.state == ExamState.OPEN)
        if scoring:
            number = count_of(scoring, "object is", "objects are")
            raise QCError(ErrorCode.STORAGE, f"not closed: {number} still to be scored")
        now = clock()
        return [
            f"exam {each.exam_id} is closed"
            if exams.close_now(session, each.exam_id, now)
            else f"exam {each.exam_id} was closed already, {_moment(each.closed_at)}"
            for each in exams_of_filter
        ]


def require_exam(settings: Settings, study: str | None, exam_id: int | None) -> None:
    """Raises QCError STORAGE if there is no exam of the study and of this id; None: any."""
    with open_store(settings).read() as session:
        _progress(session, ExamFilter(study=study, exam_id=exam_id))


def _unknown_exam(study: str | None, exam_id: int | None) -> QCError:
    number = "exam" if exam_id is None else f"exam {exam_id}"
    of_study = "" if study is None else f" of study {study}"
    return QCError(ErrorCode.STORAGE, f"there is no {number}{of_study}; see exam list")


def _progress(session: Session, exam_filter: ExamFilter) -> list[Progress]:
    """The exams of the filter, by id. Raises QCError STORAGE if there is none."""
    rows, _ = listings.exams(session, exam_filter)
    if not rows:
        raise _unknown_exam(exam_filter.study, exam_filter.exam_id)
    return [progress.of_exam(session, row.id) for row in sorted(rows, key=lambda row: row.id)]


def _describe(store: Store, spool: Path) -> int:
    """Read the headers of exams without a stored name; returns how many exams remain."""
    with store.read() as session:
        rows, total = listings.exams_without_description(session, _MAX_HEADERS)
    if not rows:
        return 0
    frame_message = [(row.id, _header(spool / row.path, row.transfer_syntax_uid)) for row in rows]
    with store.begin() as session:
        for exam_id, values in frame_message:
            exams.describe(session, exam_id, values)
    return total - len(rows)


def _header(path: Path, transfer_syntax: str) -> dict[str, str]:
    """The description of an exam from a file's header; empty if it cannot be read."""
    try:
        offset = data_set_offset(path)
        identity = read_identity(path, offset, transfer_syntax, with_description=True)
    except (HeaderError, OSError):
        return receipts.exam_description("", "", "")
    return receipts.exam_description(
        identity.patient_name, identity.accession_number, identity.study_date
    )


def exam_row(row: Any) -> dict[str, Any]:
    return {
        "exam_id": row.id,
        "state": row.state,
        "patient_id": row.patient_id,
        "patient_name": row.patient_name,
        "accession_number": row.accession_number,
        "study_date": _iso_date(row.study_date),
        "objects": row.objects,
        "report": row.reported,
        "last_object": _moment(row.last_object_at),
        "study_instance_uid": row.study_instance_uid,
        "opened": _moment(row.opened_at),
        "closed": None if row.closed_at is None else _moment(row.closed_at),
        "closed_by": row.closed_by,
        "outcome": row.outcome,
        "model_id": row.bundle_id,
        "status": progress.exam_status(row),
        "to_be_scored": row.scoring,
        "quarantined": row.quarantined,
        "rejected": row.rejected,
    }


def _iso_date(date: str | None) -> str | None:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else date


def _reason(quarantined: QuarantinedRevision) -> str:
    return f"{quarantined.facts.sop_instance_uid} ({quarantined.code}: {quarantined.message})"


def _lines(exam: Progress) -> Iterator[str]:
    yield f"exam {exam.exam_id}: {count_of(exam.objects, 'object')}, {_state(exam)}"
    for number, counts in groupby(exam.sent, key=lambda count: count.report_revision):
        name = f"report {number}" if number else "originals"
        yield f"  {name}: {_delivery_counts(counts)}"


def _state(exam: Progress) -> str:
    if exam.state == ExamState.OPEN:
        waiting = f"{exam.scoring} to be scored, {count_of(exam.associations, 'association')}"
        return (
            f"open since {_moment(exam.opened_at)}, last object {_moment(exam.last_object_at)}"
            + (f" ({waiting})")
        )
    closed = f"closed {_moment(exam.closed_at)}"
    if exam.closed_by is not None:
        closed += f": {CAUSES[ClosedBy(exam.closed_by)]}"
    status = progress.exam_status(exam)
    closed += (
        f"; {_outcome_words(status, exam.objects, exam.quarantined, exam.scoring, exam.rejected)}"
    )
    if exam.outcome == ExamOutcome.UNCHANGED:
        closed += ", nothing new since"
    amended = ", amended" if exam.reported > 1 else ""
    return f"{closed} (report {exam.reported}{amended})" if exam.reported else closed


def _delivery_counts(deliveries: Iterator[DeliveryCount]) -> str:
    """`sr to pacs: done; overlay to pacs: 3 done, 1 dead`."""
    parts = []
    for (kind, destination), states in groupby(deliveries, key=lambda s: (s.kind, s.destination)):
        counts = ", ".join(f"{s.count} {s.state}" for s in states)
        parts.append(f"{kind} to {destination}: {counts}")
    return "; ".join(parts)


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")


Choose = Callable[[Sequence[Progress]], int]
"""Asks a person which of these exams is meant; returns its id."""
_SUMMARY_SUFFIXES = (".html", ".pdf")


def write_summary(
    settings: Settings,
    study: str | None,
    out: Path,
    language: str | None = None,
    *,
    exam: int | None = None,
    patient: str | None = None,
    choose: Choose | None = None,
    clock: Clock = utc_now,
) -> None:
    """Write the summary of the study as it is now, in the format of `out`'s suffix.

    `exam` (an id) or `patient` (a Patient ID) select one of a study's exams; without them `choose`
    is called where several patients share the study. Raises UsageError for another suffix or
    language, and if it is not clear which exam is meant; QCError for an exam that there is not or
    that has no findings, and for a picture that cannot be read.
    """
    # The report stage loads fonts and page layout, which other questions on exams do without.
    from qc_daemon.language.catalogues import check_language
    from qc_daemon.report.summary.html import summary_html
    from qc_daemon.report.summary.pdf import summary_pdf
    from qc_daemon.report.summary.text import compose_page

    if out.suffix.lower() not in _SUMMARY_SUFFIXES:
        raise UsageError(f"--out {out}: give a name that ends in {' or '.join(_SUMMARY_SUFFIXES)}")
    language = check_language(language or settings.report.language)
    now = clock()
    exam_id = _choose_exam_id(settings, study, exam, patient, choose)
    summary, pictures = _summary(settings, exam_id, now)
    page = compose_page(summary, language, settings.schedule.zone)
    try:
        if out.suffix.lower() == ".pdf":
            private_files.write(out, summary_pdf(page, pictures, now))
        else:
            private_files.write(out, summary_html(page, pictures).encode("utf-8"))
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{out} cannot be written: {error.strerror}") from error
    objects = {"exam": exam_id}
    enqueue(settings, AuditKind.EXPORTED, objects=objects, detail={"what": "summary"}, clock=clock)


def _choose_exam_id(
    settings: Settings,
    study: str | None,
    exam: int | None,
    patient: str | None,
    choose: Choose | None,
) -> int:
    """The id of the exam that is meant. Raises UsageError, QCError STORAGE."""
    with open_store(settings).read() as session:
        if study is None:
            if exam is None:
                raise UsageError("give --study or --exam")
            rows, _ = listings.exams(session, ExamFilter(exam_id=exam))
            if not rows:
                raise _unknown_exam(study, exam)
            study = rows[0].study_instance_uid
        exams_of_study = progress.of_study(session, study)
    choices = [each for each in exams_of_study if exam in (None, each.exam_id)]
    choices = [each for each in choices if patient in (None, each.patient_id)]
    if not choices and exams_of_study:
        listed = "; ".join(_choice(each) for each in exams_of_study)
        raise QCError(
            ErrorCode.STORAGE, f"study {study} has no such exam or patient; its exams: {listed}"
        )
    if not choices:
        raise _unknown_exam(study, exam)
    if len(choices) == 1:
        return choices[0].exam_id
    if choose is not None:
        return choose(choices)
    listed = "; ".join(_choice(each) for each in choices)
    raise UsageError(
        f"{len(choices)} patients share study {study}; give --exam or --patient: {listed}"
    )


def _choice(exam: Progress) -> str:
    """An exam without patient data: this stands in error messages."""
    opened = exam.opened_at.isoformat(timespec="seconds")
    return f"--exam {exam.exam_id} ({count_of(exam.objects, 'object')}, since {opened})"


def _summary(settings: Settings, exam_id: int, now: datetime) -> "tuple[ExamSummary, Pictures]":
    from qc_daemon.report.exam import load_findings, render_pictures, summarise_exam
    from qc_daemon.score.decode import DecodeProcess

    store = open_store(settings)
    with store.read() as session:
        try:
            content = exams.exam_content(session, exam_id)
        except LookupError:
            raise _unknown_exam(None, exam_id) from None
        if not content.findings:
            raise QCError(
                ErrorCode.NOT_AVAILABLE,
                f"exam {exam_id} has no findings to show: its objects are in quarantine, not scored"
                f" yet or no pictures; see results --exam {exam_id}",
            )
        rejected = rejections.of_exam(session, content.exam_id)
        omissions = [each.code for each in exams.omissions(session, content.exam_id)]
    with DecodeProcess.of(settings.score) as decoder:
        originals = Originals(store, settings, decoder.pixel_sha256)
        reported, missing = load_findings(content, originals)
        if not reported:
            raise missing[0].error
        omissions += [each.error.code for each in missing]
        revision = max(1, content.report_revision)
        summary = summarise_exam(reported, settings.report, revision, now, rejected, omissions)
        # Without routes nobody wants overlays.
        frames, to_none = decoder.frames, Routes()
        pictures, _ = render_pictures(
            reported, summary, revision, now, frames, to_none, settings.report
        )
    return replace(summary, drawn_images=frozenset(pictures)), pictures
