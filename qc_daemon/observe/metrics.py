"""`/metrics` for Prometheus, `/health` and `/ready` for whoever watches the service.

Counts come from the shared counters, the rest is read at each scrape. Labels are closed lists and
names from the settings; nothing that a sender or a patient brings stands in them.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.dicom.certificates import earliest_expiry
from qc_daemon.observe import log
from qc_daemon.observe.counters import SharedCounters, delivery_names
from qc_daemon.records import gauges
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import exams
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobState
from qc_daemon.settings import Settings

# A supervisor that runs has ten heartbeats a second; without one for so long it is not alive.
_ALIVE_SECONDS = 15.0
_REQUEST_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
# At this `pressure` no object is received any more.
_HARD = 2
_OPEN = (*jobs.PENDING, JobState.DEAD, JobState.QUARANTINED)


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
    ) -> None:
        self.settings = settings
        self.store = store
        self.shared = shared
        self.processes = processes
        self.clock = clock
        self._heartbeat_at = time.monotonic()

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
        yield from self._received()
        yield from self._delivered()
        yield from self._stored()
        yield from self._judged()
        yield from self._disk()
        yield from self._processes()
        yield from self._certificates()

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
        yield _gauge("associations_open", "Associations now open.", shared.total("associations"))
        yield _gauge(
            "pressure",
            "Back-pressure: 0 none, 1 new associations wait, 2 every object waits.",
            shared.maximum("pressure"),
        )
        yield _gauge(
            "spool_orphans",
            "Files without a row, when last compared (hourly).",
            shared.maximum("spool_orphans"),
        )
        yield _gauge(
            "spool_missing",
            "Rows whose file was missing or damaged, when last compared (hourly).",
            shared.maximum("spool_missing"),
        )
        yield _gauge(
            "spool_scrub_finished_timestamp_seconds",
            "When the spool was last read through; 0: never.",
            shared.maximum("scrub_finished"),
        )
        yield _gauge(
            "spool_scrub_faults",
            "Files that were damaged, missing or unreadable then.",
            shared.maximum("scrub_faults"),
        )

    def _delivered(self) -> Iterator[Metric]:
        deliveries = CounterMetricFamily(
            "qc_daemon_deliveries", "Attempts to deliver.", labels=["destination", "outcome"]
        )
        for destination in self.settings.destination:
            for outcome, name in zip(
                ("delivered", "failed"), delivery_names([destination.name]), strict=True
            ):
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

    def _stored(self) -> Iterator[Metric]:
        """The metrics of the database; without it one says so and the others are absent."""
        try:
            with self.store.read() as session:
                counts = jobs.counts(session, _OPEN)
                due = jobs.oldest_due(session)
                totals = gauges.read(session)
        except (QCError, SQLAlchemyError):
            yield _gauge("database_up", "Whether the database can be used.", 0)
            return
        yield _gauge("database_up", "Whether the database can be used.", 1)
        depth = GaugeMetricFamily("qc_daemon_jobs", "Jobs not done.", labels=["kind", "state"])
        for (kind, state), count in counts.items():
            depth.add_metric([kind, state], count)
        age = GaugeMetricFamily(
            "qc_daemon_oldest_due_job_seconds",
            "How long the longest waiting job has been due.",
            labels=["kind"],
        )
        for kind, since in due.items():
            age.add_metric([kind], max(0.0, (self.clock() - since).total_seconds()))
        waiting = GaugeMetricFamily(
            "qc_daemon_commitments", "Storage commitment requests not reported.", labels=["state"]
        )
        for state_name, count in totals.commitments.items():
            waiting.add_metric([state_name], count)
        yield from (depth, age, waiting)
        yield _gauge("exams_open", "Open exams.", totals.open_exams)
        yield _gauge(
            "objects_quarantined",
            "Objects in quarantine, not dismissed.",
            totals.quarantined,
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
        yield _gauge(
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
        yield _gauge(
            "promises_broken",
            "Promises of active calibrations that later reviews speak against, when last counted.",
            shared.maximum("promises_broken"),
        )

    def _disk(self) -> Iterator[Metric]:
        try:
            disk = os.statvfs(self.settings.store.spool)
        except OSError:
            return
        yield _gauge(
            "spool_free_bytes", "Free space of the spool's disk.", disk.f_bavail * disk.f_frsize
        )
        yield _gauge("spool_size_bytes", "Size of the spool's disk.", disk.f_blocks * disk.f_frsize)

    def _processes(self) -> Iterator[Metric]:
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
            running.add_metric([role], sum(each.running for each in own))
            ready.add_metric([role], sum(each.running and each.ready for each in own))
            restarts.add_metric([role], sum(each.restarts for each in own))
        yield from (running, ready, restarts)

    def _certificates(self) -> Iterator[Metric]:
        tls = self.settings.receive.tls
        if tls is None:
            return
        expiry = GaugeMetricFamily(
            "qc_daemon_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file expires; absent: unreadable.",
            labels=["use"],
        )
        for use, path in (("own", tls.certificate), ("authority", tls.ca)):
            if path is None:
                continue
            try:
                expiry.add_metric([use], earliest_expiry(path).timestamp())
            except (OSError, ValueError):
                continue
        yield expiry


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"qc_daemon_{name}", meaning, value)


class _Server(ThreadingHTTPServer):
    """Serves on when a connection or a thread cannot be had, without a traceback."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # The caller still waits: without a pause accept would be tried again at once.
            time.sleep(_PAUSE_SECONDS)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        log.get().debug("request failed", error_type=type(error).__name__)


def listen(host: str, port: int, service: Service) -> ThreadingHTTPServer:
    """Serve the metrics in a thread of their own. Raises OSError (in use, no such address)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(service)

    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS

        def do_GET(self) -> None:
            match self.path:
                case "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
                case "/health":
                    self._answer(200 if service.alive else 503, b"alive\n" * service.alive)
                case "/ready":
                    reasons = service.unready()
                    answer = json.dumps({"ready": not reasons, "reasons": reasons}) + "\n"
                    status = 503 if reasons else 200
                    self._answer(status, answer.encode(), "application/json")
                case _:
                    self._answer(404, b"/metrics, /health or /ready\n")

        def _answer(
            self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8"
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a scrape is no event."""

    server = _Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
