"""The state of a study's exams in words, and the command that closes them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby

from detector.codes import ErrorCode, QCError
from qc_daemon.operate import open_store
from qc_daemon.records import exams, progress
from qc_daemon.records.progress import Progress, Sent
from qc_daemon.records.revisions import Quarantined
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


def state_lines(settings: Settings, study: str) -> list[str]:
    """A line an exam of the study and one for each report of it and for the originals."""
    with open_store(settings).read() as session:
        found = progress.of_study(session, study)
        omitted = {each.exam_id: exams.omissions(session, each.exam_id) for each in found}
        undrawn = {each.exam_id: exams.undrawn(session, each.exam_id) for each in found}
    lines: list[str] = []
    if study and len(found) > 1:
        numbers = ", ".join(str(each.exam_id) for each in found)
        lines.append(
            f"WARNING: {len(found)} patients share this study (exams {numbers}); "
            "check which patient was selected at the machine"
        )
    for each in found:
        lines += _lines(each)
        lines += [f"  not reported: {_reason(r)}" for r in omitted[each.exam_id]]
        lines += [f"  without overlay: {_reason(r)}" for r in undrawn[each.exam_id]]
    return lines


def close_exams(settings: Settings, study: str) -> int:
    """Close the study's open exams now; returns how many those were.

    Raises QCError STORAGE for a study that is not known or has an exam still to be scored.
    """
    with open_store(settings).begin() as session:
        found = progress.of_study(session, study)
        if not found:
            raise QCError(ErrorCode.STORAGE, f"no exam of study {study}; see results")
        still_open = [each for each in found if each.state == ExamState.OPEN]
        scoring = sum(each.scoring for each in still_open)
        if scoring:
            raise QCError(
                ErrorCode.STORAGE, f"not closed: {scoring} objects are still to be scored"
            )
        now = datetime.now(UTC)
        return sum(exams.close_now(session, each.exam_id, now) for each in still_open)


def _reason(held: Quarantined) -> str:
    return f"{held.facts.sop_instance_uid} ({held.code}: {held.message})"


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
    told = []
    for (kind, destination), states in groupby(sent, key=lambda s: (s.kind, s.destination)):
        counts = ", ".join(f"{s.count} {s.state}" for s in states)
        told.append(f"{kind} to {destination}: {counts}")
    return "; ".join(told)


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")
