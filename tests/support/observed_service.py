"""The metrics of a service behind their real endpoint, without the service's processes."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from qc_daemon.observe import counters, endpoint, metrics
from qc_daemon.observe.audit_log_watch import AuditLogWatch
from qc_daemon.observe.counters import SharedCounters
from qc_daemon.observe.machine_watch import Machine
from qc_daemon.observe.metrics import Process
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.support.databases import migrate

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)


@dataclass
class ObservedService:
    """A service's metrics behind a port."""

    settings: Settings
    store: Store
    shared: SharedCounters
    now: datetime = NOW
    processes: list[Process] = field(
        default_factory=lambda: [
            Process("receive", True, True, 0),
            Process("receive", True, True, 2),
            Process("work", True, True, 1),
        ]
    )
    machines: Mapping[str, Machine] = field(default_factory=dict)
    server: ThreadingHTTPServer | None = None

    @classmethod
    def make(cls, folder: Path, **settings: object) -> "ObservedService":
        """On a database and a spool in the folder, with one destination, `pacs`."""
        settings = Settings(
            store={"url": f"sqlite:///{folder / 'qc.db'}", "spool": folder},
            destination=[{"name": "pacs", "objects": ["source"]}],
            **settings,
        )
        migrate(settings.store.url)
        shared = SharedCounters.create(counters.delivery_names(["pacs"]))
        return cls(settings, Store(settings.store.url), shared)

    def __post_init__(self) -> None:
        self.audit_log_watch = AuditLogWatch(self.settings)
        self.service = metrics.Service(
            self.settings,
            self.store,
            self.shared,
            lambda: self.processes,
            clock=lambda: self.now,
            machines=lambda: self.machines,
            audit_log=self.audit_log_watch.state,
        )

    def start(self) -> "ObservedService":
        """Listen on a free port."""
        self.server = endpoint.listen("127.0.0.1", 0, self.service)
        self.port = self.server.server_address[1]
        return self

    def stop(self) -> None:
        """Stop listening."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def close(self) -> None:
        """Stop, and close the database."""
        self.stop()
        self.store.close()

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body. Raises URLError while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> tuple[int, list[str]]:
        """The answer of /ready: HTTP status and reasons."""
        status, text = self.get("/ready")
        answer = json.loads(text)
        assert answer["ready"] is (status == 200)
        return status, answer["reasons"]

    def samples(self) -> list[Sample]:
        """What /metrics says."""
        _, text = self.get("/metrics")
        return [each for family in text_string_to_metric_families(text) for each in family.samples]

    def figures(self) -> dict[str, float]:
        """Each sample by its name and the values of its labels."""
        return {
            " ".join((each.name.removeprefix("qc_daemon_"), *each.labels.values())): each.value
            for each in self.samples()
        }
