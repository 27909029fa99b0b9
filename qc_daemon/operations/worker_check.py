"""Whether score and report jobs wait although no worker takes them, by what the queue shows.

It needs no service to ask: a worker that cannot start, one that was never started and one on
another host that has ended all look the same in the queue.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select

from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.leases import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobRow, JobState

_KINDS = (JobKind.SCORE, JobKind.REPORT)
# A worker that starts loads its models first.
_PATIENCE = timedelta(minutes=5)
# Between two jobs a worker has none for a moment, so it is looked for more than once.
_LOOKS, _PAUSE_SECONDS = 5, 0.2


def missing_worker(
    store: Store, clock: Clock = utc_now, pause: Callable[[float], None] = time.sleep
) -> str:
    """One line that says what waits, since when and what to do; empty if a worker is at work.

    Raises QCError STORAGE.
    """
    waiting = _waiting(store, clock())
    for _ in range(_LOOKS):
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
        kind: oldest[kind] for kind in _KINDS if kind in oldest and now - oldest[kind] > _PATIENCE
    }


def _is_any_leased(store: Store) -> bool:
    leased = select(JobRow.id).where(JobRow.state == JobState.LEASED, JobRow.kind.in_(_KINDS))
    with store.read() as session:
        return session.execute(leased.limit(1)).first() is not None
