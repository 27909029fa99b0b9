"""The job queue for an operator: list, retry and cancel jobs; whether no worker takes them."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from detector.process_id import has_exited
from qc_daemon.audit_trail.event import AuditKind, listed
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import (
    Listing,
    Outcome,
    describe_unchanged,
    open_store,
    parse_choices,
)
from qc_daemon.records import listings
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, ANY_ID, IdChoice, Window
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.order import Wait, waits
from qc_daemon.records.results.destinations import condition, has_jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.settings import Settings
from qc_daemon.spool import service_lock

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
    "tries",
    "waits for",
    "wait reason",
)

JOB_TABLE = (
    "id",
    "kind",
    "subject",
    "revision",
    "destination",
    "state",
    "tries",
    "not before",
    "code",
    "message",
    "waits for",
    "wait reason",
)


def list_jobs(
    settings: Settings,
    states: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    destinations: Sequence[str] = (),
    window: Window = ALL,
    choice: IdChoice = ANY_ID,
) -> Listing:
    """Jobs in the states, by default those not done; the window is about when they were made.

    Raises QCError: a destination that neither the settings nor any job knows.
    """
    chosen_states = parse_choices(JobState, states, "--state") or list(OPEN_STATES)
    of_kinds = parse_choices(JobKind, kinds, "--kind")
    with open_store(settings).read() as session:
        _require_known(settings, session, destinations)
        rows, total = listings.jobs(session, chosen_states, of_kinds, destinations, window, choice)
        waiting = waits(session, [job.id for job in rows if job.state == JobState.READY])
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
                "tries": job.attempts + job.alarms,
                "not before": job.not_before.isoformat(timespec="seconds"),
                "code": job.error_code,
                "message": job.error_message,
                **_describe_wait(waiting.get(job.id)),
                "created": job.created_at.isoformat(timespec="seconds"),
                "exam id": job.exam_id,
                "study instance uid": job.study_instance_uid,
                "sop instance uid": job.sop_instance_uid,
            }
            for job in rows
        ),
        total,
    )


def _describe_wait(wait: Wait | None) -> dict[str, int | str | None]:
    return {
        "waits for": None if wait is None else wait.job_id,
        "wait reason": None if wait is None else wait.reason,
    }


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
    _record(settings, "tried again", ids, clock)
    retriable = {JobState.READY, JobState.SENT, JobState.DEAD, JobState.QUARANTINED}
    return Outcome(count, describe_unchanged(ids, states, retriable, "job", "queue list"))


def cancel_jobs(settings: Settings, ids: Sequence[int], clock: Clock = utc_now) -> Outcome:
    """Make pending jobs dead."""
    with open_store(settings).begin() as session:
        states = listings.job_states(session, ids)
        count = jobs.cancel(session, ids, clock())
    _record(settings, "cancelled", ids, clock)
    return Outcome(count, describe_unchanged(ids, states, set(jobs.PENDING), "job", "queue list"))


def _record(settings: Settings, what: str, ids: Sequence[int], clock: Clock) -> None:
    """Write to the audit log what somebody ordered for jobs."""
    objects = {"job": listed(list(ids))}
    record(settings, AuditKind.QUEUE_CHANGED, objects=objects, detail={"what": what}, clock=clock)


_WORKER_KINDS = (JobKind.SCORE, JobKind.REPORT)
# A worker counts as missing once a job is due for longer: a worker that starts loads its models.
_START_TIME = timedelta(minutes=5)
# Between two jobs a worker holds no lease for a moment, so leases are read more than once.
_LEASE_READINGS, _PAUSE_SECONDS = 5, 0.2
_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs that wait to be done, by kind: how many, and since when the oldest has been due or
    when it will be. `active` are the kinds of which a process that may be alive has a job."""

    counts: dict[JobKind, int]
    due: dict[JobKind, datetime]
    active: frozenset[JobKind]

    def describe(self, now: datetime) -> str:
        """`3 jobs wait (2 score, 1 deliver), the oldest since 2026-11-29 12:51 UTC`."""
        number = count_of(sum(self.counts.values()), "job waits", "jobs wait")
        kinds = ", ".join(f"{count} {kind.value}" for kind, count in self.counts.items())
        oldest = min(self.due.values())
        # One that failed is tried again after a while.
        moment = f"the {'oldest since' if oldest <= now else 'next from'} {oldest:%Y-%m-%d %H:%M}"
        return f"{number} ({kinds}), {moment} UTC"


def read_backlog(store: Store, now: datetime) -> Backlog:
    """The jobs that are ready, or leased by a process that has ended. Raises QCError STORAGE.

    A process of this host is known to have ended as soon as it has; one of another host, or one
    whose host cannot be told, when its lease has expired.
    """
    with store.read() as session:
        ready = jobs.counts(session, [JobState.READY])
        due = jobs.oldest_due(session)
        leased = jobs.listing(session, [JobState.LEASED])
    counts = Counter({kind: count for (kind, _), count in ready.items()})
    active = set()
    for job in leased:
        assert job.lease_until is not None
        assert job.owner is not None
        if job.lease_until > now and not has_exited(job.owner):
            active.add(job.kind)
            continue
        counts[job.kind] += 1
        due[job.kind] = min(job.not_before, due.get(job.kind, job.not_before))
    in_order = {kind: counts[kind] for kind in JobKind if counts[kind]}
    return Backlog(in_order, due, frozenset(active))


def missing_worker(
    store: Store, clock: Clock = utc_now, pause: Callable[[float], None] = time.sleep
) -> str:
    """One line that says which jobs wait, since when and what to do; empty if a worker is at work.

    It reads the queue alone and needs no running service: a worker that cannot start, one that was
    never started and one that ended on another host have the same effect there. Raises QCError
    STORAGE.
    """
    backlog = _unserved(store, _WORKER_KINDS, _START_TIME, clock, pause)
    if backlog is None:
        return ""
    kind, since = min(
        ((kind, backlog.due[kind]) for kind in _WORKER_KINDS if kind in backlog.due),
        key=lambda each: each[1],
    )
    return (
        f"{kind.value} jobs have been due since {since:%Y-%m-%d %H:%M} UTC and no worker takes"
        " them; start serve with the role work, or see its log for failed"
    )


def stopped_service(
    settings: Settings,
    store: Store,
    clock: Clock = utc_now,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """One line that says how many jobs wait for a service that does not run; empty if one runs, or
    nothing waits. Raises QCError STORAGE."""
    if service_lock.is_running(settings.store.spool):
        return ""
    backlog = _unserved(store, tuple(JobKind), _NO_TIME, clock, pause)
    if backlog is None:
        return ""
    waiting = backlog.describe(clock())
    return f"{waiting}, and the service is not running; start it with qc-daemon serve"


def missing_sender(settings: Settings, store: Store, clock: Clock = utc_now) -> str:
    """One line that says which objects no process sends; empty if one is at work.

    Jobs for a destination that fails wait for it, and those for one that the settings do not have
    for the settings. Raises QCError STORAGE.
    """
    before = clock() - _START_TIME
    with store.read() as session:
        if jobs.has_changed_since(session, JobKind.DELIVER, before):
            return ""
        waiting = {
            destination.name: due
            for destination in settings.destination
            if condition(session, destination.name).failing_since is None
            and (due := jobs.oldest_due_for(session, JobKind.DELIVER, destination.name)) is not None
            and due < before
        }
    if not waiting:
        return ""
    name, since = min(waiting.items(), key=lambda each: each[1])
    return (
        f"objects for {name} have been due since {since:%Y-%m-%d %H:%M} UTC and no process sends"
        " them; start serve with the role deliver, or see its log for failed"
    )


def _unserved(
    store: Store,
    kinds: Sequence[JobKind],
    patience: timedelta,
    clock: Clock,
    pause: Callable[[float], None],
) -> Backlog | None:
    """The backlog, if a job of these kinds has been due for longer than `patience` (or waits at
    all, without any) and no process is at work on the kinds."""

    def is_waiting(backlog: Backlog) -> bool:
        if not patience:
            return bool(backlog.counts)
        now = clock()
        return any(kind in backlog.due and now - backlog.due[kind] > patience for kind in kinds)

    for _ in range(_LEASE_READINGS):
        backlog = read_backlog(store, clock())
        if not is_waiting(backlog) or backlog.active.intersection(kinds):
            return None
        pause(_PAUSE_SECONDS)
    backlog = read_backlog(store, clock())
    return backlog if is_waiting(backlog) else None


@dataclass(frozen=True, slots=True)
class Problems:
    """Jobs that were given up, objects in quarantine and jobs that wait after a failure; the latter
    two by the code of their reason."""

    failed: list[listings.FailedJobs]
    quarantined: dict[str, int]
    retried: dict[str, int]


def count_problems(settings: Settings) -> Problems:
    """Count what a person should look at."""
    with open_store(settings).read() as session:
        return Problems(
            listings.count_failed_jobs(session),
            listings.count_quarantined(session),
            listings.count_retried(session),
        )
