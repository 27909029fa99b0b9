"""The job queue: a table in the same database, so that job and data commit together.

A job is unique by (kind, subject, revision, destination):

    kind     subject             revision            destination  row ids it carries
    score    instance:<id>       revision number     ""           exam_id, revision_id
    report   exam:<id>           report revision     ""           exam_id
    deliver  instance:<id>       revision number     name         exam_id, revision_id (the source)
    deliver  object:<id>         report revision     name         exam_id, object_id

Jobs of one kind, subject and destination are done in order of revision (`order.py`): a later
content does not overtake an earlier one that is still ready or leased. It does not wait for a
commitment to the earlier one; but if that has to be sent again, the later ones are sent again after
it. To one destination the objects that we make of an exam go in order of revision too, each kind by
itself, and after the exam's images. A deliver job that has failed three times is waited for no more
by the later ones, unless the destination is away; once a later content of an image is delivered,
the earlier ones are not sent where they would replace it. What has ended, well or badly, delays
nothing.

Transitions, all there are:

    from                      to           when
    -                         ready        insert
    ready                     leased       claim: the one due the longest
    leased                    leased       renew, with the current token
    leased                    done         finish, with the current token
    leased                    sent         mark_sent, with the current token (deliver jobs)
    sent                      done         mark_committed
    sent                      ready, dead  requeue_uncommitted (attempt counted, back-off; attempts
                                           used up)
    leased                    ready        fail RETRY (attempt counted, back-off) or ALARM (alarm
                                           counted, back-off); lease expired or its owner died
                                           (death counted)
    leased                    dead         fail RETRY, attempts used up
    leased                    quarantined  fail QUARANTINE; deaths used up (worker-deaths)
    ready, leased, sent       dead         cancel
    ready, leased             dead         supersede, supersede_earlier: a later content of the
                                           image was delivered where it would be replaced
    ready, sent, dead,        ready        retry: at once, counts reset
    quarantined
    done                      ready        revisions.release; requeue_uncommitted, of an earlier
                                           content

How long a back-off is and when attempts are used up stands in `retry.py`.

When a score job ends dead or quarantined its revision is quarantined with the same reason, so that
every object ends as findings or as a recorded reason.
"""

import heapq
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, repeat
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Select,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session, aliased

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.records.queue.order import TO_DO, blocked_until
from qc_daemon.records.queue.retry import RetryPolicy, decide_retry
from qc_daemon.records.tables import (
    Exam,
    ExamState,
    JobKind,
    JobRow,
    JobState,
    OutgoingCommitmentItem,
    Revision,
    RevisionState,
    UTCDateTime,
)
from qc_daemon.records.upsert import execute_update, insert_once

UNIQUE = ("kind", "subject", "revision", "destination")
# Not ended yet.
PENDING = (*TO_DO, JobState.SENT)
FAILED_STATES = (JobState.DEAD, JobState.QUARANTINED)
# How far apart the clocks of hosts on one database may be.
CLOCK_SKEW = timedelta(minutes=1)
# Rows of the index that a claim reads: the first is nearly always claimable, but where many wait
# for others few queries should pass them.
_FIRST_PAGE, _PAGE = 4, 128
_NO_LEASE: dict[str, Any] = {"owner": None, "lease_token": None, "lease_until": None}
_NO_ERROR: dict[str, Any] = {"error_code": None, "error_message": None}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when read; `lease_token` proves the right to finish it."""

    id: int
    kind: JobKind
    subject: str
    revision: int
    destination: str
    exam_id: int
    revision_id: int | None
    object_id: int | None
    state: JobState
    attempts: int
    deaths: int
    alarms: int
    not_before: datetime
    owner: str | None
    lease_token: str | None
    lease_until: datetime | None
    error_code: str | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime


def insert(
    session: Session,
    kind: JobKind,
    subject: str,
    revision: int,
    *,
    exam_id: int,
    now: datetime,
    destination: str = "",
    revision_id: int | None = None,
    object_id: int | None = None,
) -> int | None:
    """Insert a job; its id, or None if it is there already, whatever its state."""
    return insert_once(
        session,
        JobRow,
        {
            "kind": kind,
            "subject": subject,
            "revision": revision,
            "destination": destination,
            "exam_id": exam_id,
            "revision_id": revision_id,
            "object_id": object_id,
            "not_before": now,
            "created_at": now,
            "updated_at": now,
        },
        UNIQUE,
    )


def claim(
    session: Session,
    kinds: Sequence[JobKind],
    owner: str,
    now: datetime,
    lease_seconds: float,
    max_deaths: int = 3,
    destinations: Collection[str] | None = None,
) -> Job | None:
    """Lease the job of these kinds that has been due the longest to `owner`, or None; commit to
    make it yours.

    Deliver jobs are taken for `destinations` only, or for any if None: a daemon leaves alone what
    its settings do not know. Leases that ended before `now` go back first, each counting a death
    of its worker. On PostgreSQL claimers pass over each other's rows (SKIP LOCKED); on SQLite they
    take turns. The cost does not depend on how many jobs wait.
    """
    # Only leased jobs have a `lease_until`; its index holds no others.
    expired = select(JobRow).where(JobRow.lease_until.is_not(None), JobRow.lease_until <= now)
    _expire_leases(session, _locked(session, expired), now, max_deaths, count_death=True)
    reset_future_jobs(session, now)
    lines = [
        _due(session, kind, destination, now)
        for kind in kinds
        for destination in _destinations_of(session, kind, destinations)
    ]
    for _, job_id in heapq.merge(*lines):
        still_due = select(JobRow).where(
            JobRow.id == job_id, JobRow.state == JobState.READY, JobRow.not_before <= now
        )
        rows = _locked(session, still_due)
        if rows and _is_only_content(session, rows[0]):
            _set(
                session,
                job_id,
                now,
                state=JobState.LEASED,
                owner=owner,
                lease_token=uuid4().hex,
                lease_until=now + timedelta(seconds=lease_seconds),
            )
            return get(session, job_id)
    return None


def _is_only_content(session: Session, row: JobRow) -> bool:
    """Whether no other content of the image is being sent there; locks the jobs of those that wait.

    An earlier one that keeps failing and the later one that goes past it are both due, and another
    claimer may take the other at this moment.
    """
    if row.kind != JobKind.DELIVER or row.revision_id is None:
        return True
    others = select(JobRow).where(
        JobRow.kind == row.kind,
        JobRow.subject == row.subject,
        JobRow.destination == row.destination,
        JobRow.id != row.id,
        JobRow.state.in_(TO_DO),
    )
    ids = session.scalars(others.with_only_columns(JobRow.id)).all()
    if not ids:
        return True
    locked = _locked(session, others)
    return len(locked) == len(ids) and all(each.state == JobState.READY for each in locked)


def destinations_with(session: Session, state: JobState = JobState.READY) -> list[str]:
    """The destinations that deliver jobs in this state are for, sorted.

    One index probe a destination: DISTINCT would read every job.
    """
    names: list[str] = []
    while True:
        following = select(func.min(JobRow.destination)).where(
            JobRow.state == state, JobRow.kind == JobKind.DELIVER
        )
        if names:
            following = following.where(JobRow.destination > names[-1])
        name = session.execute(following).scalar_one()
        if name is None:
            return names
        names.append(name)


def _destinations_of(
    session: Session, kind: JobKind, destinations: Collection[str] | None
) -> Collection[str]:
    if kind is not JobKind.DELIVER:
        return ("",)
    return destinations_with(session) if destinations is None else sorted(set(destinations))


def _due(
    session: Session, kind: JobKind, destination: str, now: datetime
) -> Iterator[tuple[datetime, int]]:
    """(not_before, id) of the jobs that may be claimed, those due the longest first.

    Pages of the index (state, kind, destination, not_before, id). A job that waits for others goes
    behind them in the index, so that no later claim reads past it again.
    """
    order = (JobRow.not_before, JobRow.id)
    page = select(*order).where(
        JobRow.state == JobState.READY,
        JobRow.kind == kind,
        JobRow.destination == destination,
        JobRow.not_before <= now,
    )
    after: tuple[datetime, int] | None = None
    for size in chain((_FIRST_PAGE,), repeat(_PAGE)):
        following = page if after is None else page.where(_is_behind(after))
        rows = [
            (row.not_before, row.id)
            for row in session.execute(following.order_by(*order).limit(size))
        ]
        blocked = blocked_until(session, [job_id for _, job_id in rows])
        for not_before, job_id in rows:
            last = blocked.get(job_id)
            if last is not None and last > not_before:
                _postpone(session, job_id, last)
        yield from (row for row in rows if row[1] not in blocked)
        if len(rows) < size:
            return
        after = rows[-1]


def _is_behind(position: tuple[datetime, int]) -> ColumnElement[bool]:
    not_before, job_id = position
    return tuple_(JobRow.not_before, JobRow.id) > tuple_(
        literal(not_before, UTCDateTime()), literal(job_id)
    )


def _postpone(session: Session, job_id: int, not_before: datetime) -> None:
    execute_update(
        session,
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.state == JobState.READY)
        .values(not_before=not_before),
    )


def _advance_dependents(session: Session, row: Job | JobRow, now: datetime) -> None:
    """Make due the jobs that `_due` put behind this one, which will not be done in its time.

    What waits for a later content of the same image waits for this one too.
    """
    same = aliased(JobRow)
    exams_of_subject = select(same.exam_id).where(
        same.kind == row.kind, same.subject == row.subject, same.destination == row.destination
    )
    execute_update(
        session,
        update(JobRow)
        .where(
            JobRow.state == JobState.READY,
            JobRow.kind == row.kind,
            JobRow.destination == row.destination,
            or_(
                JobRow.subject == row.subject,
                JobRow.exam_id == row.exam_id,
                # A content corrected by its sender may be of another exam.
                JobRow.exam_id.in_(exams_of_subject),
            ),
            JobRow.id != row.id,
            JobRow.not_before > now,
            # One that failed by itself has its own back-off.
            JobRow.attempts + JobRow.alarms + JobRow.deaths == 0,
        )
        .values(not_before=now),
    )


def renew(session: Session, job: Job, now: datetime, lease_seconds: float) -> bool:
    """Extend the lease to `now` + `lease_seconds`; False if it is no longer ours."""
    return _set_leased(session, job, now, lease_until=now + timedelta(seconds=lease_seconds))


def finish(session: Session, job: Job, now: datetime) -> bool:
    """Mark the job done, in the transaction that stores its result.

    False if the lease is no longer ours: another worker has the job, so the caller rolls back.
    """
    return _set_leased(
        session,
        job,
        now,
        state=JobState.DONE,
        **_NO_ERROR,
        **_NO_LEASE,
    )


def mark_sent(session: Session, job: Job, now: datetime, request_at: datetime) -> bool:
    """The destination has the object; from `request_at` on its commitment is to be requested.

    Attempts stay counted, or one that it takes and never commits to would be sent for ever. Reports
    on an earlier sending count no more. False if the lease is no longer ours.
    """
    session.execute(delete(OutgoingCommitmentItem).where(OutgoingCommitmentItem.job_id == job.id))
    return _set_leased(
        session,
        job,
        now,
        state=JobState.SENT,
        alarms=0,
        not_before=request_at,
        **_NO_ERROR,
        **_NO_LEASE,
    )


def mark_committed(session: Session, job_id: int, now: datetime) -> bool:
    """The destination has committed to the object, or can commit to none; False if not sent."""
    return _set_sent(session, job_id, now, state=JobState.DONE, **_NO_ERROR)


def requeue_uncommitted(
    session: Session,
    row: JobRow,
    error: QCError,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
) -> JobState:
    """The destination does not commit to what a sent job, locked by the caller, has sent.

    It is sent again, and so are the later contents of its subject that went after it.
    """
    decision = decide_retry(
        FailureClass.RETRY, now, policy, rng, attempts=row.attempts, alarms=row.alarms
    )
    _set_sent(
        session,
        row.id,
        now,
        state=decision.state,
        attempts=decision.attempts,
        not_before=decision.not_before,
        error_code=error.code,
        error_message=error.message,
    )
    if decision.state is JobState.READY:
        execute_update(
            session,
            update(JobRow)
            .where(
                JobRow.kind == row.kind,
                JobRow.subject == row.subject,
                JobRow.destination == row.destination,
                JobRow.revision > row.revision,
                JobRow.state.in_((JobState.SENT, JobState.DONE)),
            )
            .values(state=JobState.READY, not_before=now, updated_at=now),
        )
    return decision.state


def schedule_request(session: Session, job_id: int, now: datetime, until: datetime) -> None:
    """The commitment of a sent job is requested now, and again from `until` on."""
    _set_sent(session, job_id, now, not_before=until)


def postpone_request(
    session: Session, row: JobRow, error: QCError, now: datetime, until: datetime
) -> None:
    """Request the commitment of a sent job again from `until` on; the alarm is counted."""
    _set_sent(
        session,
        row.id,
        now,
        alarms=row.alarms + 1,
        not_before=until,
        error_code=error.code,
        error_message=error.message,
    )


def fail(
    session: Session,
    job: Job,
    error: QCError,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
) -> JobState | None:
    """Record that the job failed; the state it has now, None if the lease is no longer ours."""
    decision = decide_retry(
        error.failure_class, now, policy, rng, attempts=job.attempts, alarms=job.alarms
    )
    is_ours = _set_leased(
        session,
        job,
        now,
        state=decision.state,
        attempts=decision.attempts,
        alarms=decision.alarms,
        not_before=decision.not_before,
        error_code=error.code,
        error_message=error.message,
        **_NO_LEASE,
    )
    if not is_ours:
        return None
    if decision.state is not JobState.READY:
        _quarantine_revision(session, job, error.code, error.message, now)
    return decision.state


def release_owner(
    session: Session,
    owner: str,
    now: datetime,
    max_deaths: int = 3,
    *,
    count_death: bool = True,
) -> int:
    """Make the jobs of a worker that has ended ready at once; returns how many.

    `count_death` is False where the worker was stopped together with the service (shutdown, power
    cut), which says nothing against the job.
    """
    leased = select(JobRow).where(JobRow.state == JobState.LEASED, JobRow.owner == owner)
    rows = _locked(session, leased)
    return _expire_leases(session, rows, now, max_deaths, count_death=count_death)


def retry(session: Session, ids: Sequence[int], now: datetime) -> int:
    """Make dead, quarantined or waiting jobs due at once, with counts reset; returns how many.

    A score job's revision and exam open again with it; what is sent is sent again.
    """
    again = (JobState.READY, JobState.SENT, JobState.DEAD, JobState.QUARANTINED)
    return _requeue(session, ids, again, now)


def cancel(session: Session, ids: Sequence[int], now: datetime) -> int:
    """End pending jobs as dead; returns how many. A worker that has one cannot finish it."""
    message = "cancelled by an operator"
    statement = select(JobRow).where(JobRow.id.in_(ids), JobRow.state.in_(PENDING))
    rows = _locked(session, statement, wait=True)
    for row in rows:
        _set(
            session,
            row.id,
            now,
            state=JobState.DEAD,
            error_code=ErrorCode.CANCELLED,
            error_message=message,
            **_NO_LEASE,
        )
        _quarantine_revision(session, row, ErrorCode.CANCELLED, message, now)
    return len(rows)


def is_superseded(session: Session, job: Job) -> bool:
    """Whether the destination has a later content of the image that the job is to send, or of a
    report object a later report's: ask of one that keeps the last only."""
    return _delivered_later(session, job) is not None


def supersede(session: Session, job: Job, now: datetime) -> bool:
    """End a leased job as dead, a later content having been delivered; False if it is no longer
    ours."""
    later = _delivered_later(session, job)
    assert later is not None
    is_ours = _set_leased(session, job, now, **_superseded_by(later), **_NO_LEASE)
    if is_ours:
        _advance_dependents(session, job, now)
    return is_ours


def supersede_earlier(session: Session, job: Job, now: datetime) -> int:
    """End as dead the jobs of earlier contents of the image that `job` has delivered; returns how
    many. One that another transaction has locked ends when it is claimed."""
    if job.revision_id is None:
        return 0
    earlier = select(JobRow).where(
        JobRow.kind == job.kind,
        JobRow.subject == job.subject,
        JobRow.destination == job.destination,
        JobRow.revision < job.revision,
        JobRow.state == JobState.READY,
    )
    rows = _locked(session, earlier)
    for row in rows:
        _set(session, row.id, now, **_superseded_by(job.revision))
        _advance_dependents(session, row, now)
    return len(rows)


def _delivered_later(session: Session, job: Job) -> int | None:
    """The last revision of the image, or of the exam's report, that the destination has, if later
    than the job's."""
    if job.kind is not JobKind.DELIVER:
        return None
    if job.object_id is not None:
        return session.execute(
            select(func.max(JobRow.revision)).where(
                JobRow.kind == job.kind,
                JobRow.exam_id == job.exam_id,
                JobRow.object_id.is_not(None),
                JobRow.destination == job.destination,
                JobRow.revision > job.revision,
                JobRow.state.in_((JobState.SENT, JobState.DONE)),
            )
        ).scalar_one()
    return session.execute(
        select(func.max(JobRow.revision)).where(
            JobRow.kind == job.kind,
            JobRow.subject == job.subject,
            JobRow.destination == job.destination,
            JobRow.revision > job.revision,
            JobRow.state.in_((JobState.SENT, JobState.DONE)),
        )
    ).scalar_one()


def _superseded_by(revision: int) -> dict[str, Any]:
    return {
        "state": JobState.DEAD,
        "error_code": ErrorCode.CANCELLED,
        "error_message": f"revision {revision} of the object has been delivered; sent after it,"
        " this one would replace it",
    }


def get(session: Session, job_id: int) -> Job | None:
    """The job as it is now."""
    row = session.execute(
        select(JobRow).where(JobRow.id == job_id).execution_options(populate_existing=True)
    ).scalar_one_or_none()
    return None if row is None else _job(row)


def counts(
    session: Session, states: Sequence[JobState] = tuple(JobState)
) -> dict[tuple[JobKind, JobState], int]:
    """How many jobs there are by kind and state; combinations without any are left out."""
    rows = session.execute(
        select(JobRow.kind, JobRow.state, func.count())
        .where(JobRow.state.in_(states))
        .group_by(JobRow.kind, JobRow.state)
    )
    return {(JobKind(kind), JobState(state)): n for kind, state, n in rows}


def oldest_due(session: Session) -> dict[JobKind, datetime]:
    """Since when the longest waiting ready job of each kind has been due, or will be.

    One index probe a kind and destination: receivers query it, whatever the backlog.
    """
    oldest: dict[JobKind, datetime] = {}
    for kind in JobKind:
        for destination in _destinations_of(session, kind, None):
            first = oldest_due_for(session, kind, destination)
            if first is not None:
                oldest[kind] = min(first, oldest.get(kind, first))
    return oldest


def oldest_due_for(session: Session, kind: JobKind, destination: str) -> datetime | None:
    """As `oldest_due`, of one kind and destination; None if no job of them is ready."""
    return session.execute(
        select(func.min(JobRow.not_before)).where(
            JobRow.state == JobState.READY,
            JobRow.kind == kind,
            JobRow.destination == destination,
        )
    ).scalar_one()


def is_backlogged(session: Session, now: datetime) -> bool:
    """Whether a job is due while processes work at others; with nobody at work it waits for none
    that could be in anybody's way."""
    is_at_work = select(JobRow.id).where(JobRow.state == JobState.LEASED, JobRow.lease_until > now)
    if session.execute(is_at_work.limit(1)).first() is None:
        return False
    return any(moment <= now for moment in oldest_due(session).values())


def has_changed_since(session: Session, kind: JobKind, moment: datetime) -> bool:
    """Whether a job of the kind was claimed, ended or failed at `moment` or later."""
    changed = select(JobRow.id).where(
        JobRow.kind == kind,
        JobRow.updated_at >= moment,
        # A new job has changed in nothing yet.
        JobRow.updated_at > JobRow.created_at,
        JobRow.state.in_(tuple(JobState)),
    )
    return session.execute(changed.limit(1)).first() is not None


def listing(
    session: Session,
    states: Sequence[JobState] | None = None,
    kinds: Sequence[JobKind] | None = None,
    limit: int | None = None,
) -> list[Job]:
    """Jobs, oldest first."""
    statement = (
        select(JobRow).order_by(JobRow.id).limit(limit).execution_options(populate_existing=True)
    )
    if states is not None:
        statement = statement.where(JobRow.state.in_(states))
    if kinds is not None:
        statement = statement.where(JobRow.kind.in_(kinds))
    return [_job(row) for row in session.scalars(statement)]


def make_ready(session: Session, row: JobRow, now: datetime) -> None:
    """Make a job due, counts reset; a score job's revision is received, its exam open again."""
    _set(
        session,
        row.id,
        now,
        state=JobState.READY,
        attempts=0,
        deaths=0,
        alarms=0,
        not_before=now,
        **_NO_ERROR,
        **_NO_LEASE,
    )
    _advance_dependents(session, row, now)
    if row.kind != JobKind.SCORE:
        return
    execute_update(
        session,
        update(Revision)
        .where(Revision.id == row.revision_id, Revision.state == RevisionState.QUARANTINED)
        .values(
            state=RevisionState.RECEIVED,
            reason_code=None,
            reason_message=None,
            reason_at=None,
            dismissed_at=None,
            dismissed_by=None,
            dismissal_reason=None,
        ),
    )
    reopen(session, row.exam_id, now)


def _requeue(
    session: Session, ids: Sequence[int], states: Sequence[JobState], now: datetime
) -> int:
    statement = select(JobRow).where(JobRow.id.in_(ids), JobRow.state.in_(states))
    rows = _locked(session, statement, wait=True)
    for row in rows:
        make_ready(session, row, now)
    return len(rows)


def _expire_leases(
    session: Session,
    rows: Sequence[JobRow],
    now: datetime,
    max_deaths: int,
    *,
    count_death: bool,
) -> int:
    """Take the leases of workers that have ended; returns how many. A death is counted or not."""
    for row in rows:
        deaths = row.deaths + count_death
        if deaths < max_deaths:
            _set(session, row.id, now, state=JobState.READY, deaths=deaths, **_NO_LEASE)
            continue
        message = f"{deaths} workers died on it"
        _set(
            session,
            row.id,
            now,
            state=JobState.QUARANTINED,
            deaths=deaths,
            error_code=ErrorCode.WORKER_DEATHS,
            error_message=message,
            **_NO_LEASE,
        )
        _quarantine_revision(session, row, ErrorCode.WORKER_DEATHS, message, now)
    return len(rows)


def reset_future_jobs(session: Session, now: datetime) -> None:
    """Make due the jobs whose wait was set while the clock ran ahead, before it was set back."""
    ahead = now + CLOCK_SKEW
    for state in (JobState.READY, JobState.SENT):
        execute_update(
            session,
            update(JobRow)
            .where(JobRow.state == state, JobRow.updated_at > ahead, JobRow.not_before > ahead)
            .values(not_before=now, updated_at=now),
        )


def reopen(session: Session, exam_id: int, now: datetime) -> None:
    """Open the exam again if it was closed: there is something new to score."""
    execute_update(
        session,
        update(Exam)
        .where(Exam.id == exam_id, Exam.state == ExamState.CLOSED)
        .values(state=ExamState.OPEN, opened_at=now, closed_at=None, closed_by=None, outcome=None),
    )


def record_reason(
    session: Session, revision_id: int, code: ErrorCode, message: str, now: datetime
) -> None:
    """Quarantine the revision with its reason; one that is scored already stays as it is."""
    execute_update(
        session,
        update(Revision)
        .where(
            Revision.id == revision_id,
            Revision.state.in_((RevisionState.RECEIVED, RevisionState.QUARANTINED)),
        )
        .values(
            state=RevisionState.QUARANTINED,
            reason_code=code,
            reason_message=message,
            reason_at=now,
        ),
    )


def _quarantine_revision(
    session: Session, row: Job | JobRow, code: ErrorCode, message: str, now: datetime
) -> None:
    _advance_dependents(session, row, now)
    if row.kind == JobKind.SCORE and row.revision_id is not None:
        record_reason(session, row.revision_id, code, message, now)


def _set(session: Session, job_id: int, now: datetime, **values: Any) -> None:
    execute_update(
        session, update(JobRow).where(JobRow.id == job_id).values(updated_at=now, **values)
    )


def _set_leased(session: Session, job: Job, now: datetime, **values: Any) -> bool:
    """Change the job if it is leased under this very token."""
    return (
        execute_update(
            session,
            update(JobRow)
            .where(
                JobRow.id == job.id,
                JobRow.state == JobState.LEASED,
                JobRow.lease_token == job.lease_token,
            )
            .values(updated_at=now, **values),
        )
        == 1
    )


def _set_sent(session: Session, job_id: int, now: datetime, **values: Any) -> bool:
    """Change the job if it is sent."""
    return (
        execute_update(
            session,
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.SENT)
            .values(updated_at=now, **values),
        )
        == 1
    )


def _locked(session: Session, statement: Select[JobRow], *, wait: bool = False) -> Sequence[JobRow]:
    """The rows, locked until the transaction ends; those that another holds are waited for or not.

    `populate_existing`: rows are changed by statements here, never through the session's copies.
    """
    return session.scalars(
        statement.with_for_update(
            of=JobRow, skip_locked=not wait, key_share=True
        ).execution_options(populate_existing=True)
    ).all()


def _job(row: JobRow) -> Job:
    values = {name: getattr(row, name) for name in Job.__slots__}
    return Job(**values | {"kind": JobKind(row.kind), "state": JobState(row.state)})
