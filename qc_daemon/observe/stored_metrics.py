"""The metrics that are read from the database at each scrape."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.records import gauges
from qc_daemon.records.clock import Clock
from qc_daemon.records.gauges import Gauges
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobState
from qc_daemon.settings import Settings

_OPEN = (*jobs.PENDING, JobState.DEAD, JobState.QUARANTINED)
_NAME_LENGTH = 64


def gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(f"qc_daemon_{name}", meaning, value)


class StoredMetrics:
    """Queue, destinations, commitments, audits, digests and the active bundle."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._destinations = {each.name for each in settings.destination}
        self._store = store
        self._clock = clock
        self._audit_id: int | None = None
        self._drifts: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        """The metrics; without the database one says so and the others are absent."""
        try:
            with self._store.read() as session:
                counts = jobs.counts(session, _OPEN)
                due = jobs.oldest_due(session)
                totals = gauges.read(session)
                audit_id = totals.audit.finished_id
                if audit_id is not None and audit_id != self._audit_id:
                    self._drifts = gauges.drifts(session, audit_id)
                    self._audit_id = audit_id
        except (QCError, SQLAlchemyError):
            yield gauge("database_up", "Whether the database can be used.", 0)
            return
        yield gauge("database_up", "Whether the database can be used.", 1)
        depth = GaugeMetricFamily("qc_daemon_jobs", "Jobs not done.", labels=["kind", "state"])
        for (kind, state), count in counts.items():
            depth.add_metric([kind, state], count)
        age = GaugeMetricFamily(
            "qc_daemon_oldest_due_job_seconds",
            "How long the longest waiting job has been due.",
            labels=["kind"],
        )
        for kind, since in due.items():
            age.add_metric([kind], max(0.0, (self._clock() - since).total_seconds()))
        yield from (depth, age)
        yield gauge("exams_open", "Open exams.", totals.open_exams)
        yield gauge(
            "objects_quarantined", "Objects in quarantine, not dismissed.", totals.quarantined
        )
        yield from self._others(totals)
        yield from self._audits(totals)

    def _others(self, totals: Gauges) -> Iterator[Metric]:
        """Commitments, destinations, digests and the bundle."""
        commitments = GaugeMetricFamily(
            "qc_daemon_commitments", "Storage commitment requests not reported.", labels=["state"]
        )
        for state, count in totals.commitments.items():
            commitments.add_metric([state], count)
        failing = GaugeMetricFamily(
            "qc_daemon_destination_failing_since_timestamp_seconds",
            "Since when a destination fails; absent: it was reached at the last try.",
            labels=["destination"],
        )
        for destination, since in totals.failing_since.items():
            # One that is no longer in the settings is not tried, and so never reached again.
            if destination in self._destinations:
                failing.add_metric([destination], since.timestamp())
        digests = GaugeMetricFamily(
            "qc_daemon_digests", "Mails and webhooks that were not sent.", labels=["state"]
        )
        for state, count in totals.digests.items():
            digests.add_metric([state], count)
        yield from (commitments, failing, digests)
        if totals.bundle is not None:
            bundle = GaugeMetricFamily(
                "qc_daemon_bundle_activated_timestamp_seconds",
                "When the active bundle was activated.",
                labels=["bundle", "model_id"],
            )
            name = totals.bundle.name[:_NAME_LENGTH]
            bundle.add_metric(
                [name, totals.bundle.model_id], totals.bundle.activated_at.timestamp()
            )
            yield bundle

    def _audits(self, totals: Gauges) -> Iterator[Metric]:
        audit = totals.audit
        yield gauge(
            "audit_failed",
            "1 while the newest nightly audit that ended has no answer.",
            audit.has_failed,
        )
        if audit.finished_at is None:
            return
        yield gauge(
            "audit_finished_timestamp_seconds",
            "When the newest nightly audit with an answer was stored; absent: never.",
            audit.finished_at.timestamp(),
        )
        drifting = GaugeMetricFamily(
            "qc_daemon_drifts",
            "Devices and sites that the newest nightly audit calls drifting.",
            labels=["kind"],
        )
        for kind, count in self._drifts.items():
            drifting.add_metric([kind], count)
        yield drifting
