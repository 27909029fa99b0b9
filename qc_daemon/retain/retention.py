"""Dropping what destinations hold: overlays, and originals, the row first and then the file.

A crash between the two leaves a file too many, which the next start removes (`reconcile`), and
never one too few.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import retention
from qc_daemon.records.store import Store
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import Settings

BATCH = 50
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """How long originals are kept after delivery, and the destinations that must hold them.

    Each of `source_destinations`, one of `fetchable`, and all others that it was routed to.
    """

    keep: timedelta
    source_destinations: tuple[str, ...]
    fetchable: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Rule | None":
        """None where originals never leave: kept forever, or nowhere to fetch them back from."""
        days = settings.store.keep_pixels_days
        routes = Routes.of(settings)
        possible = routes.possible(SOURCE)
        fetchable = tuple(
            each.name
            for each in settings.destination
            if each.kind == "dicom" and each.name in possible
        )
        if days == "forever" or not fetchable:
            return None
        return cls(timedelta(days=days), routes.certain(SOURCE), fetchable)


def drop_due(store: Store, spool: Path, rule: Rule, now: datetime, limit: int = BATCH) -> int:
    """Drop one batch; returns how many files left. Raises QCError STORAGE."""
    with store.read() as session:
        due = retention.droppable(
            session, now, rule.keep, rule.source_destinations, rule.fetchable, limit=limit
        )
    count = 0
    for original in due:
        with store.begin() as session:
            dropped = retention.drop(
                session,
                original.revision_id,
                now,
                rule.keep,
                rule.source_destinations,
                rule.fetchable,
            )
        if dropped:
            _unlink(spool / original.path)
            count += 1
    return count


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.get(role="schedule").warning("file not removed", error_type=type(error).__name__)


class Retention:
    """Once an hour, batch by batch; a step takes a moment and the exam clock goes on between."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.spool = settings.store.spool
        self.clock = clock
        self.rule = Rule.of(settings)
        self.keep_overlays = timedelta(days=settings.store.keep_overlays_days)
        self._monotonic = monotonic
        self._due = 0.0
        self._dropped = 0

    def step(self) -> None:
        """Drop one batch if the hour has come; the next step goes on while there is more."""
        began, now = self._monotonic(), self.clock()
        if began < self._due:
            return
        with self.store.begin() as session:
            overlays = retention.drop_overlays(session, now, self.keep_overlays, limit=BATCH)
        count = 0 if self.rule is None else drop_due(self.store, self.spool, self.rule, now)
        self._dropped += count
        if count or overlays:
            return
        self._due = began + _HOUR
        if self._dropped:
            log.get(role="schedule").info("originals dropped", count=self._dropped)
        self._dropped = 0
