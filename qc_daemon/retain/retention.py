"""Retention: originals and overlays leave the spool once destinations have them.

The row is changed first, then the file removed. A crash between the two leaves a file too many,
which the next start removes (`reconcile`), and never one too few.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import exams, retention, revisions
from qc_daemon.records.store import Store
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import Settings

# Originals, or overlays, that one step drops.
BATCH = 50
# Seconds between two passes.
_INTERVAL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How long originals are kept after delivery, and the destinations that must have them.

    Those are each of `source_destinations`, one of `fetchable`, and all others that the original
    was routed to.
    """

    keep: timedelta
    source_destinations: tuple[str, ...]
    fetchable: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> "RetentionRule | None":
        """The rule of the settings; None where originals never leave: they are kept forever, or no
        destination could give them back."""
        days = settings.store.keep_pixels_days
        routes = Routes.of(settings)
        possible = routes.possible(SOURCE)
        fetchable = tuple(
            each.name
            for each in settings.destination
            if (each.kind == "dicom" or each.retrieve) and each.name in possible
        )
        if days == "forever" or not fetchable:
            return None
        return cls(timedelta(days=days), routes.certain(SOURCE), fetchable)


def drop_due(
    store: Store, spool: Path, rule: RetentionRule, now: datetime, limit: int = BATCH
) -> int:
    """Drop one batch; returns how many files were dropped. Raises QCError STORAGE."""
    with store.read() as session:
        due = retention.droppable(
            session, now, rule.keep, rule.source_destinations, rule.fetchable, limit=limit
        )
    dropped = []
    for original in due:
        with store.begin() as session:
            is_dropped = retention.drop(
                session,
                original.revision_id,
                now,
                rule.keep,
                rule.source_destinations,
                rule.fetchable,
            )
        if is_dropped:
            _unlink(spool / original.path)
            dropped.append(original.revision_id)
    _record(store, dropped)
    return len(dropped)


def _record(store: Store, revision_ids: list[int]) -> None:
    """Write to the audit log which exams lost how many originals."""
    if not revision_ids or not recorder.is_used():
        return
    with store.read() as session:
        exam_ids = Counter(
            each.exam_id for each in revisions.facts_of(session, revision_ids).values()
        )
        identifiers = {exam_id: exams.identifiers(session, exam_id) for exam_id in exam_ids}
    for exam_id, count in exam_ids.items():
        study, patient_id = identifiers[exam_id]
        recorder.enqueue(
            None,
            AuditKind.DELETED,
            study=study,
            patient_id=patient_id,
            objects={"exam": exam_id},
            detail={"what": "originals that destinations have", "count": count},
        )


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.get(role="schedule").warning("file not removed", error_type=type(error).__name__)


class Retention:
    """Drops what is due once an hour, in batches, so that the scheduler's other work goes on."""

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
        self.rule = RetentionRule.of(settings)
        self.keep_overlays = timedelta(days=settings.store.keep_overlays_days)
        self._monotonic = monotonic
        self._due = 0.0
        self._dropped = 0

    def step(self) -> None:
        """Drop one batch if an hour has passed; while there is more, the next step goes on."""
        started, now = self._monotonic(), self.clock()
        if started < self._due:
            return
        with self.store.begin() as session:
            overlays = retention.drop_overlays(session, now, self.keep_overlays, limit=BATCH)
        count = 0 if self.rule is None else drop_due(self.store, self.spool, self.rule, now)
        self._dropped += count
        if count or overlays:
            return
        self._due = started + _INTERVAL_SECONDS
        if self._dropped:
            log.get(role="schedule").info("originals dropped", count=self._dropped)
        self._dropped = 0
