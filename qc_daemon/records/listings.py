"""Lists for people: filtered, counted and limited by the database, so that a page costs a page.

Each function returns the rows of one page and how many rows match in all.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, false, func, literal, not_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from detector.errors import ErrorCode
from detector.plain_text import fold
from qc_daemon.records.queue.jobs import FAILED_STATES
from qc_daemon.records.received.progress import status_columns
from qc_daemon.records.received.revisions import select_facts
from qc_daemon.records.tables import (
    AcquisitionOperator,
    Commitment,
    CommitmentState,
    Exam,
    Instance,
    JobKind,
    JobRow,
    JobState,
    ReportObjectRow,
    Revision,
    RevisionState,
)

Rows = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows: from `since` until before `until` (UTC; None: no bound), at most `limit`."""

    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None

    def where(
        self, statement: Select[*tuple[Any, ...]], moment: InstrumentedAttribute[Any]
    ) -> Select[*tuple[Any, ...]]:
        """The statement, its `moment` within the window."""
        if self.since is not None:
            statement = statement.where(moment >= self.since)
        if self.until is not None:
            statement = statement.where(moment < self.until)
        return statement


ALL = Window()


@dataclass(frozen=True, slots=True)
class IdChoice:
    """Which rows: those with these ids (None: any) above `after`, where a page before ended."""

    ids: Collection[int] | None = None
    after: int = 0

    def where(
        self, statement: Select[*tuple[Any, ...]], id: InstrumentedAttribute[int]
    ) -> Select[*tuple[Any, ...]]:
        """The statement, for these ids."""
        if self.ids is not None:
            statement = statement.where(id.in_(self.ids))
        return statement.where(id > self.after) if self.after else statement


ANY_ID = IdChoice()


def jobs(
    session: Session,
    states: Sequence[JobState],
    kinds: Sequence[JobKind] = (),
    destinations: Sequence[str] = (),
    window: Window = ALL,
    choice: IdChoice = ANY_ID,
) -> tuple[Rows, int]:
    """Jobs in these states, oldest first, each with the UIDs of its study and object.

    The window is about when a job was made. Without kinds or destinations, of any.
    """
    statement = window.where(select(JobRow.id).where(JobRow.state.in_(states)), JobRow.created_at)
    statement = choice.where(statement, JobRow.id)
    if kinds:
        statement = statement.where(JobRow.kind.in_(kinds))
    if destinations:
        statement = statement.where(JobRow.destination.in_(destinations))
    page = statement.order_by(JobRow.id).limit(window.limit).subquery()
    rows = session.execute(
        select(
            JobRow.id,
            JobRow.kind,
            JobRow.subject,
            JobRow.revision,
            JobRow.destination,
            JobRow.state,
            JobRow.attempts,
            JobRow.alarms,
            JobRow.not_before,
            JobRow.created_at,
            JobRow.error_code,
            JobRow.error_message,
            JobRow.exam_id,
            Exam.study_instance_uid,
            func.coalesce(ReportObjectRow.sop_instance_uid, Instance.sop_instance_uid).label(
                "sop_instance_uid"
            ),
        )
        .join(page, page.c.id == JobRow.id)
        .join(Exam, Exam.id == JobRow.exam_id)
        .join(ReportObjectRow, ReportObjectRow.id == JobRow.object_id, isouter=True)
        .join(Revision, Revision.id == JobRow.revision_id, isouter=True)
        .join(Instance, Instance.id == Revision.instance_id, isouter=True)
        .order_by(JobRow.id)
    ).all()
    return rows, _total(session, statement, rows, window)


def job_states(session: Session, ids: Sequence[int]) -> dict[int, str]:
    """The states of those of the jobs that there are."""
    rows = session.execute(select(JobRow.id, JobRow.state).where(JobRow.id.in_(ids)))
    return {row.id: row.state for row in rows}


def commitment_states(session: Session, ids: Sequence[int]) -> dict[int, str]:
    """The states of those of the storage commitment requests that there are."""
    rows = session.execute(select(Commitment.id, Commitment.state).where(Commitment.id.in_(ids)))
    return {row.id: row.state for row in rows}


def commitments(
    session: Session,
    states: Sequence[CommitmentState],
    window: Window = ALL,
    choice: IdChoice = ANY_ID,
) -> tuple[Rows, int]:
    """Storage commitment requests in these states, oldest first; the window: when requested."""
    statement = window.where(
        select(*Commitment.__table__.c).where(Commitment.state.in_(states)),
        Commitment.requested_at,
    )
    statement = choice.where(statement, Commitment.id)
    rows = session.execute(statement.order_by(Commitment.id).limit(window.limit)).all()
    return rows, _total(session, statement, rows, window)


def quarantined(
    session: Session,
    codes: Sequence[str] = (),
    window: Window = ALL,
    choice: IdChoice = ANY_ID,
    *,
    with_dismissed: bool = False,
) -> tuple[Rows, int]:
    """Facts and reason of quarantined objects in order of arrival; the window: since when."""
    statement = select_facts().add_columns(
        Revision.reason_code,
        Revision.reason_message,
        Revision.reason_at,
        Revision.dismissed_at,
        Revision.dismissed_by,
        Revision.dismissal_reason,
    )
    statement = window.where(
        statement.where(Revision.state == RevisionState.QUARANTINED), Revision.reason_at
    )
    statement = choice.where(statement, Revision.id)
    if not with_dismissed:
        statement = statement.where(Revision.dismissed_at.is_(None))
    if codes:
        statement = statement.where(Revision.reason_code.in_(codes))
    ordered = statement.order_by(Revision.id)
    rows = session.execute(ordered.limit(window.limit)).all()
    return rows, _total(session, statement, rows, window)


def count_quarantined(session: Session) -> dict[str, int]:
    """How many objects that nobody dismissed are in quarantine, by the code of the reason, most
    first."""
    rows = session.execute(
        select(Revision.reason_code, func.count())
        .where(Revision.state == RevisionState.QUARANTINED, Revision.dismissed_at.is_(None))
        .group_by(Revision.reason_code)
        .order_by(func.count().desc(), Revision.reason_code)
    )
    return {code or "": count for code, count in rows}


def count_retried(session: Session) -> dict[str, int]:
    """How many jobs wait after a failure, by the code of its reason, most first."""
    rows = session.execute(
        select(JobRow.error_code, func.count())
        .where(JobRow.state == JobState.READY, JobRow.error_code.is_not(None))
        .group_by(JobRow.error_code)
        .order_by(func.count().desc(), JobRow.error_code)
    )
    return {code or "": count for code, count in rows}


@dataclass(frozen=True, slots=True)
class FailedJobs:
    """How many jobs of a kind and destination were given up for the same reason."""

    kind: JobKind
    destination: str
    code: str
    count: int


def count_failed_jobs(session: Session) -> list[FailedJobs]:
    """Jobs that are dead or quarantined, most first; without those of objects in quarantine, whose
    reason is the job's, and of image revisions ended because a later one was delivered: nobody
    needs to do anything about them."""
    later = aliased(JobRow)
    is_superseded = and_(
        JobRow.kind == JobKind.DELIVER,
        JobRow.revision_id.is_not(None),
        func.coalesce(JobRow.error_code, "") == ErrorCode.CANCELLED,
        select(later.id)
        .where(
            later.kind == JobRow.kind,
            later.subject == JobRow.subject,
            later.destination == JobRow.destination,
            later.revision > JobRow.revision,
            later.state.in_((JobState.SENT, JobState.DONE)),
        )
        .exists(),
    )
    rows = session.execute(
        select(JobRow.kind, JobRow.destination, JobRow.error_code, func.count())
        .join(Revision, Revision.id == JobRow.revision_id, isouter=True)
        .where(
            JobRow.state.in_(FAILED_STATES),
            not_(
                and_(
                    JobRow.kind == JobKind.SCORE,
                    func.coalesce(Revision.state, "") == RevisionState.QUARANTINED,
                )
            ),
            not_(is_superseded),
        )
        .group_by(JobRow.kind, JobRow.destination, JobRow.error_code)
        .order_by(func.count().desc(), JobRow.kind, JobRow.destination, JobRow.error_code)
    )
    return [
        FailedJobs(JobKind(kind), destination, code or "", count)
        for kind, destination, code, count in rows
    ]


@dataclass(frozen=True, slots=True)
class ExamFilter:
    """Which exams; None or empty: any.

    `patient` is a whole patient ID, or beginnings of words of the name, all of them, in any order,
    case and accents. `accession` is a whole accession number. `text` is a part of any of these or
    of the Study Instance UID. `day` is a study date; an exam without one counts for the day (UTC)
    on which its first object came.
    """

    states: Sequence[str] = ()
    exam_id: int | None = None
    study: str | None = None
    patient: str | None = None
    accession: str | None = None
    day: date | None = None
    text: str | None = None

    def where(self, statement: Select[Any]) -> Select[Any]:
        """The statement, of these exams only."""
        if self.states:
            statement = statement.where(Exam.state.in_(self.states))
        if self.exam_id is not None:
            statement = statement.where(Exam.id == self.exam_id)
        if self.study is not None:
            statement = statement.where(Exam.study_instance_uid == self.study)
        if self.accession is not None:
            statement = statement.where(Exam.accession_number == self.accession)
        if self.patient is not None:
            has_name = _has_name_words(self.patient)
            statement = statement.where(or_(Exam.patient_id == self.patient, has_name))
        if self.day is not None:
            start = datetime.combine(self.day, time(), UTC)
            undated = and_(
                func.coalesce(Exam.study_date, "") == "",
                Exam.opened_at >= start,
                Exam.opened_at < start + timedelta(days=1),
            )
            statement = statement.where(or_(Exam.study_date == f"{self.day:%Y%m%d}", undated))
        if self.text is not None:
            columns = (Exam.patient_id, Exam.accession_number, Exam.study_instance_uid)
            parts = [column.icontains(self.text, autoescape=True) for column in columns]
            statement = statement.where(or_(*parts, _has_name_parts(self.text)))
        return statement


def exams(session: Session, exam_filter: ExamFilter, window: Window = ALL) -> tuple[Rows, int]:
    """Exams with `status_columns`, those whose last object came last first; the window is about
    when that came."""
    columns = select(*Exam.__table__.c, *status_columns())
    statement = window.where(exam_filter.where(columns), Exam.last_object_at)
    ordered = statement.order_by(Exam.last_object_at.desc(), Exam.id.desc())
    rows = session.execute(ordered.limit(window.limit)).all()
    return rows, _total(session, statement, rows, window)


def exam_page(
    session: Session,
    exam_filter: ExamFilter,
    limit: int,
    *,
    persons: frozenset[str] | None = None,
    before: int | None = None,
) -> Rows:
    """At most so many exams with `status_columns`, the last opened first, below the id `before`.

    With `persons` only exams with an image that one of them made.
    """
    statement = exam_filter.where(select(*Exam.__table__.c, *status_columns()))
    if persons is not None:
        has_image = exists().where(
            Revision.exam_id == Exam.id,
            AcquisitionOperator.revision_id == Revision.id,
            AcquisitionOperator.person_id.in_(persons),
        )
        statement = statement.where(has_image)
    if before is not None:
        statement = statement.where(Exam.id < before)
    return session.execute(statement.order_by(Exam.id.desc()).limit(limit)).all()


def _has_name_words(text: str) -> ColumnElement[bool]:
    """Each word of the text begins a word of the patient's name.

    As a C-FIND key with a wildcard at its end would match (PS3.4 C.2.2.2.4), but in any component.
    """
    # A space before every word: only there a word of the text may begin.
    words = literal(" ").concat(Exam.patient_words)
    return _all_of(words.contains(f" {word}", autoescape=True) for word in fold(text).split())


def _has_name_parts(text: str) -> ColumnElement[bool]:
    """Each word of the text is a part of the patient's name."""
    return _all_of(
        Exam.patient_words.contains(word, autoescape=True) for word in fold(text).split()
    )


def _all_of(conditions: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    """All conditions; without any, nothing matches."""
    return and_(*required) if (required := list(conditions)) else false()


def exams_without_description(session: Session, limit: int) -> tuple[Rows, int]:
    """Exams of which no header was ever read here, newest first.

    Each with the path and transfer syntax of a received file that is still in the spool.
    """
    newest = (
        select(func.max(Revision.id).label("revision_id"))
        .where(Revision.dropped_at.is_(None))
        .group_by(Revision.exam_id)
        .subquery()
    )
    statement = (
        select(Exam.id, Revision.path, Revision.transfer_syntax_uid)
        .join(Revision, Revision.exam_id == Exam.id)
        .join(newest, newest.c.revision_id == Revision.id)
        .where(Exam.patient_name.is_(None))
    )
    rows = session.execute(statement.order_by(Exam.id.desc()).limit(limit)).all()
    return rows, _total(session, statement, rows, Window(limit=limit))


def _total(
    session: Session, statement: Select[*tuple[Any, ...]], rows: Rows, window: Window
) -> int:
    if window.limit is None or len(rows) < window.limit:
        return len(rows)
    return session.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
