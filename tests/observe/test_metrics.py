"""The figures over HTTP: in Prometheus' own format, true, and without a patient in them."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from detector.errors import ErrorCode
from qc_daemon.observe import counters, metrics
from qc_daemon.observe.counters import SharedCounters
from qc_daemon.observe.metrics import Process
from qc_daemon.records.received import receipts, revisions
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.support.databases import migrate
from tests.support.dicom_objects import CANARY, CANARY_ID
from tests.support.receipts import numbered_receipt

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)


@dataclass
class Site:
    """A service's figures behind a port."""

    settings: Settings
    store: Store
    shared: SharedCounters
    service: metrics.Service
    port: int
    processes: list[Process] = field(default_factory=list)

    def get(self, path: str) -> tuple[int, str]:
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

    def figures(self) -> dict[str, float]:
        """Each sample by its name and the values of its labels."""
        _, text = self.get("/metrics")
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        return {
            " ".join((each.name.removeprefix("qc_daemon_"), *each.labels.values())): each.value
            for each in samples
        }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(
        store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": tmp_path},
        destination=[{"name": "pacs", "objects": ["source"]}],
    )
    migrate(settings.store.url)
    store = Store(settings.store.url)
    shared = SharedCounters.create(counters.delivery_names(["pacs"]))
    processes = [
        Process("receive", True, True, 0),
        Process("receive", True, True, 2),
        Process("work", True, True, 1),
    ]
    service = metrics.Service(settings, store, shared, lambda: processes, clock=lambda: NOW)
    server = metrics.listen("127.0.0.1", 0, service)
    yield Site(settings, store, shared, service, server.server_address[1], processes)
    server.shutdown()
    server.server_close()
    store.close()


def receive(site: Site, number: int = 1) -> int:
    receipt = numbered_receipt(number, patient_id=CANARY_ID, calling_ae=CANARY, size=10)
    with site.store.begin() as session:
        return receipts.admit(
            session,
            receipt,
            source_destinations=["pacs"],
            bundle_id=None,
            now=NOW - timedelta(minutes=5),
        ).revision_id


def test_counts_of_all_processes_are_summed(site: Site) -> None:
    for row, count in ((1, 3), (2, 4)):
        site.shared.set(row, "stored_new", count)
        site.shared.set(row, "stored_bytes", 100 * count)
        site.shared.set(row, "refused_A700", 1)
        site.shared.set(row, "associations", 2)
        site.shared.set(row, "delivered pacs", 5)
    site.shared.set(2, "pressure", 1)
    site.shared.set(2, "reviews_second_reading", 3)
    site.shared.set(2, "reviews_oldest", 1_800_000_000)
    site.shared.set(2, "sites_commissioning", 2)
    site.shared.set(2, "promises_broken", 1)
    figures = site.figures()
    assert figures["objects_stored_total new"] == 7
    assert figures["received_bytes_total"] == 700
    assert figures["objects_refused_total A700"] == 2
    assert figures["associations_open"] == 4
    assert figures["pressure"] == 1
    assert figures["reviews_waiting second-reading"] == 3
    assert figures["reviews_waiting first-reading"] == 0
    assert figures["reviews_oldest_timestamp_seconds"] == 1_800_000_000
    assert figures["sites commissioning"] == 2
    assert figures["promises_broken"] == 1
    assert (
        figures["deliveries_total pacs delivered"],
        figures["deliveries_total pacs failed"],
    ) == (
        10,
        0,
    )
    assert figures["processes receive"] == 2
    assert (figures["process_restarts_total receive"], figures["process_restarts_total work"]) == (
        2,
        1,
    )
    assert figures["spool_free_bytes"] > 0


def test_queue_and_quarantine_come_from_the_database(site: Site) -> None:
    receive(site)
    second = receive(site, 2)
    with site.store.begin() as session:
        revisions.quarantine(session, second, ErrorCode.TRUNCATED, "cut short", NOW)
    figures = site.figures()
    assert figures["jobs score ready"] == 2
    assert figures["jobs deliver ready"] == 2
    assert figures["oldest_due_job_seconds score"] == 300
    assert figures["objects_quarantined"] == 1
    assert figures["exams_open"] == 1
    assert figures["database_up"] == 1


def test_without_the_database_the_other_metrics_remain(site: Site) -> None:
    site.store.close()
    Path(site.settings.store.url.removeprefix("sqlite:///")).write_bytes(b"not a database" * 100)
    figures = site.figures()
    assert figures["database_up"] == 0
    assert "exams_open" not in figures
    assert "objects_stored_total new" in figures
    assert site.ready() == (503, ["the database cannot be used"])


def test_metrics_name_no_patient_and_no_caller(site: Site) -> None:
    receive(site)
    _, text = site.get("/metrics")
    assert "qc_daemon_jobs" in text
    for canary in (CANARY, CANARY_ID, "1.2.3.4.1"):
        assert canary not in text


@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (lambda site: None, None),
        (
            lambda site: site.processes.append(Process("deliver", False, False, 0)),
            "deliver is not running",
        ),
        (
            lambda site: site.processes.append(Process("work", True, False, 3, "no CUDA device")),
            "work is starting; the last one ended: no CUDA device",
        ),
        (
            # What ended once and runs again has nothing to answer for.
            lambda site: site.processes.append(Process("work", True, True, 3, "killed by SIGKILL")),
            None,
        ),
        (
            lambda site: site.shared.set(1, "pressure", 2),
            "receiving is stopped by back-pressure",
        ),
    ],
)
def test_ready_lists_the_reasons_why_not(
    site: Site, disturb: Callable[[Site], None], reason: str | None
) -> None:
    disturb(site)
    assert site.ready() == ((200, []) if reason is None else (503, [reason]))


def test_process_counts_as_ready_only_once_it_has_set_its_gauge(site: Site) -> None:
    site.processes.append(Process("work", True, False, 0))
    figures = site.figures()
    assert (figures["processes work"], figures["processes_ready work"]) == (2, 1)


def test_health_fails_without_the_supervisors_heartbeat(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.service.heartbeat()
    assert site.get("/health") == (200, "alive\n")
    monkeypatch.setattr("qc_daemon.observe.metrics._ALIVE_SECONDS", 0.0)
    assert site.get("/health")[0] == 503


def test_another_path_has_status_404(site: Site) -> None:
    assert site.get("/../etc/passwd")[0] == 404
