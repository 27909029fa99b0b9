"""The job queue for an operator: list, retry and cancel jobs; whether no worker takes them."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from qc_daemon.operations.shared import (
    Listing,
    Outcome,
    describe_unchanged,
    open_store,
    parse_choices,
)
from qc_daemon.records import listings
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.queue import jobs
from qc_daemon.records.results.destinations import has_jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobRow, JobState
from qc_daemon.settings import Settings

OPEN_STATES = (*jobs.PENDING, *jobs.FAILED_STATES)

JOB_COLUMNS = (
    "id",
    "kind",
    "subject",
    "revision",
    "destination",
    "state",
    "attempts",
    "not before",
    "code",
    "message",
    "created",
    "exam id",
    "study instance uid",
    "sop instance uid",
)

JOB_TABLE = JOB_COLUMNS[:10]


def list_jobs(
    settings: Settings,
    states: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    destinations: Sequence[str] = (),
    window: Window = ALL,
) -> Listing:
    """Jobs in the states, by default those not done; the window is about when they were made.

    Raises QCError: a destination that neither the settings nor any job knows.
    """
    chosen_states = parse_choices(JobState, states, "--state") or list(OPEN_STATES)
    of_kinds = parse_choices(JobKind, kinds, "--kind")
    with open_store(settings).read() as session:
        _require_known(settings, session, destinations)
        rows, total = listings.jobs(session, chosen_states, of_kinds, destinations, window)
    return Listing(
        (
            {
                "id": job.id,
                "kind": job.kind,
                "subject": job.subject,
                "revision": job.revision,
                "destination": job.destination,
                "state": job.state,
                "attempts": job.attempts,
                "not before": job.not_before.isoformat(timespec="seconds"),
                "code": job.error_code,
                "message": job.error_message,
                "created": job.created_at.isoformat(timespec="seconds"),
                "exam id": job.exam_id,
                "study instance uid": job.study_instance_uid,
                "sop instance uid": job.sop_instance_uid,
            }
            for job in rows
        ),
        total,
    )


def _require_known(settings: Settings, session: Session, names: Sequence[str]) -> None:
    configured = {each.name for each in settings.destination}
    for name in names:
        if name not in configured and not has_jobs(session, name):
            raise QCError(
                ErrorCode.STORAGE,
                f"there is no destination {name}: neither the settings nor any job names it;"
                " see destination list",
            )


def retry_jobs(settings: Settings, ids: Sequence[int], clock: Clock = utc_now) -> Outcome:
    """Make sent, dead and quarantined jobs ready again."""
    with open_store(settings).begin() as session:
        states = listings.job_states(session, ids)
        count = jobs.retry(session, ids, clock())
    retriable = {JobState.READY, JobState.SENT, JobState.DEAD, JobState.QUARANTINED}
    return Outcome(count, describe_unchanged(ids, states, retriable, "job"))


def cancel_jobs(settings: Settings, ids: Sequence[int], clock: Clock = utc_now) -> Outcome:
    """Make pending jobs dead."""
    with open_store(settings).begin() as session:
        states = listings.job_states(session, ids)
        count = jobs.cancel(session, ids, clock())
    return Outcome(count, describe_unchanged(ids, states, set(jobs.PENDING), "job"))


_WORKER_KINDS = (JobKind.SCORE, JobKind.REPORT)
# A worker counts as missing once a job is due for longer: a worker that starts loads its models.
_START_TIME = timedelta(minutes=5)
# Between two jobs a worker holds no lease for a moment, so leases are read more than once.
_LEASE_READINGS, _PAUSE_SECONDS = 5, 0.2


def missing_worker(
    store: Store, clock: Clock = utc_now, pause: Callable[[float], None] = time.sleep
) -> str:
    """One line that says which jobs wait, since when and what to do; empty if a worker is at work.

    It reads the queue alone and needs no running service: a worker that cannot start, one that was
    never started and one that ended on another host have the same effect there. Raises QCError
    STORAGE.
    """
    waiting = _waiting(store, clock())
    for _ in range(_LEASE_READINGS):
        if not waiting or _is_any_leased(store):
            return ""
        pause(_PAUSE_SECONDS)
    if not (waiting := _waiting(store, clock())):
        return ""
    kind, since = min(waiting.items(), key=lambda each: each[1])
    return (
        f"{kind.value} jobs have been due since {since:%Y-%m-%d %H:%M} UTC and no worker takes"
        " them; start serve with the role work, or see its log for failed"
    )


def _waiting(store: Store, now: datetime) -> dict[JobKind, datetime]:
    with store.read() as session:
        oldest = jobs.oldest_due(session)
    return {
        kind: oldest[kind]
        for kind in _WORKER_KINDS
        if kind in oldest and now - oldest[kind] > _START_TIME
    }


def _is_any_leased(store: Store) -> bool:
    leased = select(JobRow.id).where(
        JobRow.state == JobState.LEASED, JobRow.kind.in_(_WORKER_KINDS)
    )
    with store.read() as session:
        return session.execute(leased.limit(1)).first() is not None
