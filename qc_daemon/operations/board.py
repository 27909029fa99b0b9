"""The live board: exams that images came for lately, and how each of their views is.

Reads what changed since the reading before, so that a process asks the database once for all boards
that it shows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from detector.anatomy import View
from model.finding import Finding
from qc_daemon.operations.finding_lists import Entry, read_exam_entries
from qc_daemon.operations.principals import Principal, scope_of
from qc_daemon.operations.reviews import prepare
from qc_daemon.operations.shared import open_store
from qc_daemon.records.received.progress import ExamStatus, exam_status
from qc_daemon.records.received.recent_exams import (
    ExamContents,
    RecentExam,
    exam_contents,
    recent_exams,
)
from qc_daemon.report.person_verdict import apply_review, review_rank
from qc_daemon.report.summary.summary import ViewStatus
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb

SHOWN_HOURS = 12
"""An exam stays on the board for so long after its last object: a working day."""
PENDING, HIDDEN = "pending", "hidden"
"""A view of which nothing is there yet, and one that somebody is still to read blinded."""
_ORDER = list(ViewStatus)


@dataclass(frozen=True, slots=True)
class BoardExam:
    """An exam with the findings that stand; `mark` changes whenever anything of it does."""

    exam_id: int
    mark: tuple[Any, ...]
    status: ExamStatus
    patient_name: str
    patient_id: str
    objects: int
    scoring: int
    last_object_at: datetime
    contents: ExamContents
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class BoardScope:
    """Which exams a board shows. `persons`: only images that one of them made (None: all);
    `machine`: only exams that this AE title stored to (None: any). `named`: with patients."""

    persons: frozenset[str] | None = None
    machine: str | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class ViewLine:
    """A view of an exam: a ViewStatus, PENDING or HIDDEN; its best finding, with a person's verdict
    where there is one that is reported; the number of its pictures."""

    view: View
    status: str
    best: Finding | None
    count: int


@dataclass(frozen=True, slots=True)
class BoardTile:
    """An exam as one board shows it. `others` counts pictures of no assessed view, `rejected` those
    that a person rejected, `quarantined` has the reason codes of what could not be judged."""

    exam: BoardExam
    views: tuple[ViewLine, ...]
    others: int
    rejected: int
    quarantined: tuple[str, ...]
    is_named: bool


def read_board(
    settings: Settings, earlier: Mapping[int, BoardExam], now: datetime
) -> list[BoardExam]:
    """The exams of the board, the one with the latest object first; `earlier` are those that were
    read before: of them only what changed is read again. Raises QCError."""
    store = open_store(settings)
    prepare(store)
    with store.read() as session:
        exams = []
        for recent in recent_exams(session, now - timedelta(hours=SHOWN_HOURS)):
            board_exam = earlier.get(recent.exam_id)
            if board_exam is None or board_exam.mark != recent.mark:
                contents = exam_contents(session, recent.exam_id)
                entries = read_exam_entries(session, settings, recent.exam_id)
                board_exam = _board_exam(recent, contents, entries)
            exams.append(board_exam)
    return exams


def _board_exam(recent: RecentExam, contents: ExamContents, entries: Sequence[Entry]) -> BoardExam:
    row = recent.row
    return BoardExam(
        exam_id=recent.exam_id,
        mark=recent.mark,
        status=exam_status(row),
        patient_name=row.patient_name or "",
        patient_id=row.patient_id,
        objects=row.objects,
        scoring=row.scoring,
        last_object_at=row.last_object_at,
        contents=contents,
        entries=tuple(e for e in entries if e.stored.quarantine is None),
    )


def board_scope(
    settings: Settings, principal: Principal, machine: str | None, *, is_kiosk: bool
) -> BoardScope:
    """What a board shows this account. A kiosk names no patient, whoever opened it; without the
    verb for everybody's images patients are named of the own ones alone."""
    with open_store(settings).read() as session:
        persons = scope_of(session, principal).persons
    sees_all = principal.may(Verb.SEE_ALL)
    named = principal.may(Verb.SEE_PATIENTS) and not is_kiosk
    if principal.may(Verb.SEE_BOARD) and not sees_all:
        return BoardScope(None, machine)
    return BoardScope(persons, machine, named)


def board_tile(exam: BoardExam, scope: BoardScope, views: Sequence[View]) -> BoardTile | None:
    """The tile of the exam; None where this board does not show it."""
    if scope.machine is not None and scope.machine not in exam.contents.machines:
        return None
    entries, quarantined = exam.entries, exam.contents.quarantined
    if scope.persons is not None:
        entries = tuple(e for e in entries if _is_of(exam, e, scope.persons))
        # Whose images they are is not known before they are read.
        quarantined = ()
        if not entries:
            return None
    accepted = [entry for entry in entries if not entry.is_rejected]
    hidden = [entry for entry in accepted if entry.is_hidden]
    findings = [(entry, _finding(entry)) for entry in accepted if not entry.is_hidden]
    distinct_views = list(dict.fromkeys(views))
    distinct_views += [
        v for v in _views(findings) if v not in distinct_views and v is not View.OTHER
    ]
    absent = HIDDEN if hidden else PENDING if exam.scoring else ViewStatus.MISSING.value
    assessed = {_uid(e) for e, finding in findings if finding.judgement.view is not View.OTHER}
    hidden_uids = {_uid(entry) for entry in hidden}
    accepted_uids = {_uid(entry) for entry in accepted}
    return BoardTile(
        exam=exam,
        views=tuple(_view_line(view, findings, absent) for view in distinct_views),
        others=len(accepted_uids - assessed - hidden_uids),
        rejected=len({_uid(entry) for entry in entries} - accepted_uids),
        quarantined=quarantined,
        is_named=scope.named,
    )


def _is_of(exam: BoardExam, entry: Entry, persons: Collection[str]) -> bool:
    made_by = exam.contents.persons.get(entry.stored.revision.revision_id, frozenset())
    return not made_by.isdisjoint(persons)


def _uid(entry: Entry) -> str:
    return entry.stored.revision.sop_instance_uid


def _finding(entry: Entry) -> Finding:
    review = None if entry.state is None else entry.state.as_reported()
    return apply_review(Finding.from_json(entry.stored.body), review)


def _views(findings: Iterable[tuple[Entry, Finding]]) -> list[View]:
    return list(dict.fromkeys(finding.judgement.view for _, finding in findings))


def _view_line(view: View, findings: Iterable[tuple[Entry, Finding]], absent: str) -> ViewLine:
    """The best verdict of the view's pictures, as the exam's summary has it."""
    of_view = [(entry, f) for entry, f in findings if f.judgement.view is view]
    if not of_view:
        return ViewLine(view, absent, None, 0)
    status = min((ViewStatus(f.judgement.quality) for _, f in of_view), key=_ORDER.index)
    best = max(
        (pair for pair in of_view if pair[1].judgement.quality == status.value),
        key=lambda pair: review_rank(
            pair[1], None if pair[0].state is None else pair[0].state.as_reported()
        ),
    )
    count = len({_uid(entry) for entry, _ in of_view})
    return ViewLine(view, status.value, best[1], count)
