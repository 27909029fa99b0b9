"""The nightly audit: which local dates are due, and the work at those that wait.

Every process of the role `schedule` asks so once a minute, also of several hosts on one database:
a date is one row, which one process at a time works at.
"""

import os
from datetime import date, timedelta

from detector.errors import ErrorCode, QCError
from detector.process_id import lease_owner
from qc_daemon.audit.due_dates import due_dates
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.results import audits
from qc_daemon.records.results.audits import LEASE_SECONDS, NIGHTLY
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

CATCH_UP_DAYS = 7
"""So many nights that were missed are made up for; an older one says nothing that these do not."""
MAX_ATTEMPTS = 3
"""Processes that may die of one audit."""
_DAY = timedelta(days=1)
_log = log.get(role="schedule")


def queue_due(settings: Settings, store: Store, clock: Clock = utc_now) -> list[date]:
    """Add the audits that are due and not there yet; returns their dates, oldest first.

    A date is due on the day after it, from schedule.audit on. The first audit of a database is that
    of the day before; from then on missed nights are made up for.
    """
    at = settings.schedule.audit_time
    if at is None:
        return []
    now, zone = clock(), settings.schedule.local_zone
    newest = due_dates(None, now, at, zone)[0]
    with store.read() as session:
        audit_dates = audits.dates(session, NIGHTLY)
    dates = [newest]
    if audit_dates:
        # An audit is of the day before the date that it is due on.
        oldest = max(newest - CATCH_UP_DAYS * _DAY, date.fromisoformat(min(audit_dates)) + _DAY)
        dates = due_dates(oldest, now, at, zone)
    missing = [each - _DAY for each in dates if (each - _DAY).isoformat() not in audit_dates]
    queued = []
    for day in missing:
        with store.begin() as session:
            if audits.queue(session, NIGHTLY, day.isoformat(), now):
                queued.append(day)
    return queued


def has_work(store: Store, clock: Clock = utc_now) -> bool:
    """Whether an audit waits for a process. Those that too many processes died of are given up."""
    now = clock()
    with store.begin() as session:
        for day in audits.give_up(session, MAX_ATTEMPTS, now):
            _log.error("audit given up", code=ErrorCode.WORKER_DEATHS.value, audit_date=day)
        return audits.has_waiting(session, now)


def work(settings: Settings, store: Store, clock: Clock = utc_now) -> int:
    """Do the audits that wait, nightly ones first, until there is none; returns how many were done.

    One that fails is stored as failed, and is no reason to leave the others.
    """
    # The statistics load libraries that who only asks what is due need not have.
    from qc_daemon.operations.audits import AuditInterruptedError, perform

    done = 0
    while True:
        with store.begin() as session:
            owner = lease_owner("audit", os.getpid())
            claimed = audits.claim(session, owner, clock(), LEASE_SECONDS)
        if claimed is None:
            return done
        try:
            content = perform(settings, store, claimed, clock=clock, is_nightly_first=True)
        except AuditInterruptedError:
            _log.info("audit interrupted", audit_date=claimed.local_date)
        except QCError as error:
            _log.error(
                "audit failed",
                audit_date=claimed.local_date,
                code=error.code.value,
                reason=error.message,
            )
        except Exception as error:
            kind, place = type(error).__name__, log.where(error)
            _log.error(
                "audit failed", audit_date=claimed.local_date, error_type=kind, error_at=place
            )
        else:
            done += 1
            counts = content["counts"]
            count = counts["findings"] if claimed.bundle is None else counts["compared"]
            _log.info("audit done", audit_date=claimed.local_date, findings=count)
