"""What the service measures of itself, and whether it lives and can do its work.

Counts come from the shared counters, the rest is read at each scrape. Labels are closed lists and
names from the settings; nothing that a sender or a patient brings stands in them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from detector.anatomy import View
from detector.errors import Flag, QCError
from qc_daemon.dicom.certificates import earliest_expiry
from qc_daemon.observe.audit_log_watch import AuditLogState
from qc_daemon.observe.counters import VERDICTS, SharedCounters, delivery_names, durations
from qc_daemon.observe.machine_watch import Machine
from qc_daemon.observe.stored_metrics import StoredMetrics, gauge
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import exams
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import Settings

# A supervisor that runs has ten heartbeats a second; without one for so long it is not alive.
_ALIVE_SECONDS = 15.0
# At this `pressure` no object is received any more.
_HARD = 2


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the service, as its supervisor knows it.

    `ready` once it has said so itself; `reason` is why its predecessor ended, as far as known.
    """

    role: str
    running: bool
    ready: bool
    restarts: int
    reason: str = ""

    @property
    def problem(self) -> str:
        """Why it cannot do its work now; empty if it can."""
        if self.running and self.ready:
            return ""
        problem = f"{self.role} is {'starting' if self.running else 'not running'}"
        return f"{problem}; the last one ended: {self.reason}" if self.reason else problem


class Service(Collector):
    """All metrics of a service; the supervisor calls `heartbeat` on every round."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        shared: SharedCounters,
        processes: Callable[[], Sequence[Process]],
        clock: Clock = utc_now,
        machines: Callable[[], Mapping[str, Machine]] = dict,
        audit_log: Callable[[], AuditLogState] = AuditLogState,
    ) -> None:
        self.settings = settings
        self.store = store
        self.shared = shared
        self.processes = processes
        self.clock = clock
        self.machines = machines
        self.audit_log = audit_log
        self._stored = StoredMetrics(settings, store, clock)
        self._heartbeat_at = time.monotonic()

    def use_settings(self, settings: Settings) -> None:
        """Go on with other settings."""
        self.settings = settings
        self._stored = StoredMetrics(settings, self.store, self.clock)

    def heartbeat(self) -> None:
        self._heartbeat_at = time.monotonic()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._heartbeat_at < _ALIVE_SECONDS

    def unready(self) -> list[str]:
        """Why the service cannot do its work now; empty if it can."""
        reasons = list(dict.fromkeys(p.problem for p in self.processes() if p.problem))
        if self.shared.maximum("pressure") >= _HARD:
            reasons.append("receiving is stopped by back-pressure")
        try:
            with self.store.read() as session:
                exams.count_open(session)
        except (QCError, SQLAlchemyError):
            reasons.append("the database cannot be used")
        return reasons

    def collect(self) -> Iterator[Metric]:
        version_info = GaugeMetricFamily(
            "qc_daemon_version_info", "1, with the version.", labels=["version"]
        )
        version_info.add_metric([version("qc-daemon")], 1)
        yield version_info
        yield from self._received()
        yield from self._durations()
        yield from self._findings()
        yield from self._delivered()
        yield from self._stored.collect()
        yield from self._judged()
        yield from self._machines()
        yield from self._disk()
        yield from self._processes()
        yield from self._certificates()
        yield from self._audit_log()

    def _received(self) -> Iterator[Metric]:
        shared = self.shared
        stored = CounterMetricFamily(
            "qc_daemon_objects_stored", "Objects answered with success.", labels=["kind"]
        )
        for kind in ("new", "same", "revision"):
            stored.add_metric([kind], shared.total(f"stored_{kind}"))
        refused = CounterMetricFamily(
            "qc_daemon_objects_refused", "Objects answered with a failure.", labels=["status"]
        )
        for status in ("0110", "A700", "A900", "C000", "other"):
            refused.add_metric([status], shared.total(f"refused_{status}"))
        rejected = CounterMetricFamily(
            "qc_daemon_associations_rejected", "Associations rejected.", labels=["reason"]
        )
        for reason in ("unknown", "busy", "called", "protocol"):
            rejected.add_metric([reason], shared.total(f"rejected_{reason}"))
        yield from (stored, refused, rejected)
        yield CounterMetricFamily(
            "qc_daemon_received_bytes", "Bytes of stored objects.", shared.total("stored_bytes")
        )
        yield CounterMetricFamily(
            "qc_daemon_login_headers_ignored",
            "Requests to the pages with a log-in header that is not from a trusted proxy.",
            shared.total("login_headers_ignored"),
        )
        yield gauge("associations_open", "Associations now open.", shared.total("associations"))
        yield gauge(
            "pressure",
            "Back-pressure: 0 none, 1 new associations wait, 2 every object waits.",
            shared.maximum("pressure"),
        )
        yield gauge(
            "spool_orphans",
            "Files without a row, when last compared (hourly).",
            shared.maximum("spool_orphans"),
        )
        yield gauge(
            "spool_missing",
            "Rows whose file was missing or damaged, when last compared (hourly).",
            shared.maximum("spool_missing"),
        )
        yield gauge(
            "spool_scrub_finished_timestamp_seconds",
            "When the spool was last read through; 0: never.",
            shared.maximum("scrub_finished"),
        )
        yield gauge(
            "spool_scrub_faults",
            "Files that were damaged, missing or unreadable then.",
            shared.maximum("scrub_faults"),
        )
        if self.settings.backup.folder is not None:
            yield gauge(
                "backup_finished_timestamp_seconds",
                "When the newest good backup was begun; 0: none, absent: none is scheduled.",
                shared.maximum("backup_finished"),
            )

    def _durations(self) -> Iterator[Metric]:
        storing = HistogramMetricFamily(
            "qc_daemon_store_seconds", "How long storing an object took before success was sent."
        )
        storing.add_metric([], *_histogram(self.shared, "store"))
        running = HistogramMetricFamily(
            "qc_daemon_job_seconds", "How long jobs ran that were done.", labels=["kind"]
        )
        failures = CounterMetricFamily(
            "qc_daemon_job_failures", "Runs of jobs that failed.", labels=["kind"]
        )
        for kind in JobKind:
            running.add_metric([kind], *_histogram(self.shared, kind))
            failures.add_metric([kind], self.shared.total(f"failed_{kind}"))
        yield from (storing, running, failures)

    def _findings(self) -> Iterator[Metric]:
        """What the models say: shares that move without a new bundle are worth a look."""
        findings = CounterMetricFamily(
            "qc_daemon_findings", "Findings stored.", labels=["view", "verdict"]
        )
        for view in View:
            for verdict in VERDICTS:
                findings.add_metric([view, verdict], self.shared.total(f"found_{view}_{verdict}"))
        flags = CounterMetricFamily(
            "qc_daemon_findings_flagged", "Findings stored with a flag.", labels=["flag"]
        )
        for flag in Flag:
            flags.add_metric([flag], self.shared.total(f"flag_{flag}"))
        yield from (findings, flags)

    def _machines(self) -> Iterator[Metric]:
        """Of machines that may store by settings or approval; those that only knock have none."""
        last = GaugeMetricFamily(
            "qc_daemon_machine_last_object_timestamp_seconds",
            "When a known machine last sent an object.",
            labels=["ae_title"],
        )
        quiet = GaugeMetricFamily(
            "qc_daemon_machine_quiet",
            "1 while a known machine is silent for longer than it ever is at such hours.",
            labels=["ae_title"],
        )
        for ae_title, machine in self.machines().items():
            last.add_metric([ae_title], machine.last_object_at.timestamp())
            quiet.add_metric([ae_title], machine.is_quiet)
        yield from (last, quiet)

    def _delivered(self) -> Iterator[Metric]:
        deliveries = CounterMetricFamily(
            "qc_daemon_deliveries", "Attempts to deliver.", labels=["destination", "outcome"]
        )
        for destination in self.settings.destination:
            for outcome, name in zip(
                ("delivered", "failed"), delivery_names([destination.name]), strict=True
            ):
                # One that came by a reload is counted from the next start.
                if self.shared.has(name):
                    deliveries.add_metric([destination.name, outcome], self.shared.total(name))
        yield deliveries
        fetched = CounterMetricFamily(
            "qc_daemon_originals_fetched",
            "Dropped originals requested of destinations.",
            labels=["outcome"],
        )
        for outcome in ("back", "nowhere"):
            fetched.add_metric([outcome], self.shared.total(f"fetched_{outcome}"))
        yield fetched
        yield CounterMetricFamily(
            "qc_daemon_spool_damaged_files",
            "Altered files that were moved to the spool's folder damaged.",
            self.shared.total("spool_damaged"),
        )

    def _judged(self) -> Iterator[Metric]:
        """What waits for a person, and where models are calibrated; the role `schedule` counts."""
        shared = self.shared
        waiting = GaugeMetricFamily(
            "qc_daemon_reviews_waiting",
            "Findings that wait for a person, when last counted.",
            labels=["kind"],
        )
        for kind, name in (
            ("first-reading", "reviews_waiting"),
            ("second-reading", "reviews_second_reading"),
            ("disagreement", "reviews_disagreement"),
        ):
            waiting.add_metric([kind], shared.maximum(name))
        yield waiting
        yield gauge(
            "reviews_oldest_timestamp_seconds",
            "Since when the longest of them waits; 0: none.",
            shared.maximum("reviews_oldest"),
        )
        sites = GaugeMetricFamily(
            "qc_daemon_sites",
            "Sites with findings by calibration, when last counted.",
            labels=["state"],
        )
        for state in ("calibrated", "waived", "commissioning"):
            sites.add_metric([state], shared.maximum(f"sites_{state}"))
        yield sites
        yield gauge(
            "promises_broken",
            "Promises of active calibrations that later reviews speak against, when last counted.",
            shared.maximum("promises_broken"),
        )

    def _disk(self) -> Iterator[Metric]:
        try:
            disk = os.statvfs(self.settings.store.spool)
        except OSError:
            return
        yield gauge(
            "spool_free_bytes", "Free space of the spool's disk.", disk.f_bavail * disk.f_frsize
        )
        yield gauge("spool_size_bytes", "Size of the spool's disk.", disk.f_blocks * disk.f_frsize)

    def _processes(self) -> Iterator[Metric]:
        roles = GaugeMetricFamily(
            "qc_daemon_processes_wanted", "Processes that should run.", labels=["role"]
        )
        running = GaugeMetricFamily(
            "qc_daemon_processes", "Processes now running.", labels=["role"]
        )
        ready = GaugeMetricFamily(
            "qc_daemon_processes_ready", "Processes that can do their work.", labels=["role"]
        )
        restarts = CounterMetricFamily(
            "qc_daemon_process_restarts", "Processes started again.", labels=["role"]
        )
        processes = list(self.processes())
        for role in dict.fromkeys(each.role for each in processes):
            own = [each for each in processes if each.role == role]
            roles.add_metric([role], len(own))
            running.add_metric([role], sum(each.running for each in own))
            ready.add_metric([role], sum(each.running and each.ready for each in own))
            restarts.add_metric([role], sum(each.restarts for each in own))
        yield from (roles, running, ready, restarts)

    def _certificates(self) -> Iterator[Metric]:
        expiry = GaugeMetricFamily(
            "qc_daemon_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file expires; absent: unreadable.",
            labels=["use"],
        )
        for use, path in self._certificate_files():
            try:
                expiry.add_metric([use], earliest_expiry(path).timestamp())
            except (OSError, ValueError):
                continue
        yield expiry

    def _audit_log(self) -> Iterator[Metric]:
        state = self.audit_log()
        yield gauge("audit_log_records", "Number of the audit log's last record.", state.records)
        yield gauge(
            "audit_log_problems",
            "What is not as it was written in the audit log, when last verified (hourly).",
            state.problems,
        )
        waiting = GaugeMetricFamily(
            "qc_daemon_audit_log_waiting",
            "Records that a server for audit messages does not have yet.",
            labels=["server"],
        )
        for server, count in state.waiting.items():
            waiting.add_metric([server], count)
        yield waiting

    def _certificate_files(self) -> Iterator[tuple[str, Path]]:
        """What each certificate of the settings is for, and its file."""
        tls = self.settings.receive.tls
        if tls is not None:
            yield "own", tls.certificate
            if tls.ca is not None:
                yield "authority", tls.ca
        for destination in self.settings.destination:
            if destination.tls is not None and destination.tls.certificate is not None:
                yield f"destination {destination.name}", destination.tls.certificate
            if destination.tls is not None and destination.tls.ca is not None:
                yield f"authority of destination {destination.name}", destination.tls.ca


def _histogram(shared: SharedCounters, kind: str) -> tuple[list[tuple[str, float]], float]:
    buckets, seconds = durations(shared, kind)
    return [(f"{limit:g}".replace("inf", "+Inf"), count) for limit, count in buckets], seconds
