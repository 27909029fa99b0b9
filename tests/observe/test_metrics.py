"""The figures over HTTP: in Prometheus' own format, true, and without a patient in them."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from detector.errors import ErrorCode
from qc_daemon.observe import counters
from qc_daemon.observe.machine_watch import Machine
from qc_daemon.observe.metrics import Process
from qc_daemon.records.received import receipts, revisions
from qc_daemon.records.results import bundles
from tests.support.dicom_objects import CANARY, CANARY_ID
from tests.support.observed_service import NOW, ObservedService
from tests.support.receipts import numbered_receipt


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ObservedService]:
    observed = ObservedService.make(tmp_path).start()
    yield observed
    observed.close()


def receive(site: ObservedService, number: int = 1) -> int:
    receipt = numbered_receipt(number, patient_id=CANARY_ID, calling_ae=CANARY, size=10)
    with site.store.begin() as session:
        return receipts.admit(
            session,
            receipt,
            source_destinations=["pacs"],
            bundle_id=None,
            now=NOW - timedelta(minutes=5),
        ).revision_id


def test_counts_of_all_processes_are_summed(site: ObservedService) -> None:
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


def test_queue_and_quarantine_come_from_the_database(site: ObservedService) -> None:
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


def test_without_the_database_the_other_metrics_remain(site: ObservedService) -> None:
    site.store.close()
    Path(site.settings.store.url.removeprefix("sqlite:///")).write_bytes(b"not a database" * 100)
    figures = site.figures()
    assert figures["database_up"] == 0
    assert "exams_open" not in figures
    assert "objects_stored_total new" in figures
    assert site.ready() == (503, ["the database cannot be used"])


def test_metrics_name_no_patient_and_no_caller(site: ObservedService) -> None:
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
    site: ObservedService, disturb: Callable[[ObservedService], None], reason: str | None
) -> None:
    disturb(site)
    assert site.ready() == ((200, []) if reason is None else (503, [reason]))


def test_process_counts_as_ready_only_once_it_has_set_its_gauge(site: ObservedService) -> None:
    site.processes.append(Process("work", True, False, 0))
    figures = site.figures()
    assert (figures["processes work"], figures["processes_ready work"]) == (2, 1)


def test_live_fails_without_the_supervisors_heartbeat(
    site: ObservedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.service.heartbeat()
    assert site.get("/live") == site.get("/health") == (200, "alive\n")
    monkeypatch.setattr("qc_daemon.observe.metrics._ALIVE_SECONDS", 0.0)
    assert site.get("/live")[0] == site.get("/health")[0] == 503


def test_another_path_has_status_404(site: ObservedService) -> None:
    assert site.get("/../etc/passwd")[0] == 404


def test_durations_are_histograms_of_what_was_counted(site: ObservedService) -> None:
    counters.use(site.shared, 4)
    try:
        for seconds in (0.02, 0.3, 0.3, 1000.0):
            counters.count_duration("score", seconds)
        counters.count_job_failure("report")
    finally:
        counters.use(counters.SharedCounters.create(), 0)
    figures = site.figures()
    within = [figures[f"job_seconds_bucket score {limit}"] for limit in ("0.01", "0.05", "0.5")]
    assert within == [0, 1, 3]
    assert figures["job_seconds_bucket score +Inf"] == figures["job_seconds_count score"] == 4
    assert figures["job_seconds_sum score"] == pytest.approx(1000.62)
    assert figures["job_failures_total report"] == 1
    assert figures["store_seconds_count"] == 0


def test_findings_are_counted_by_view_verdict_and_flag(site: ObservedService) -> None:
    counters.use(site.shared, 4)
    try:
        counters.count_finding("NT", "review", ["out-of-distribution", "low-resolution"])
        counters.count_finding("NT", "standard", [])
    finally:
        counters.use(counters.SharedCounters.create(), 0)
    figures = site.figures()
    assert (figures["findings_total review NT"], figures["findings_total review CRL"]) == (1, 0)
    assert figures["findings_flagged_total out-of-distribution"] == 1


def test_known_machines_have_their_last_object_and_whether_they_are_quiet(
    site: ObservedService,
) -> None:
    site.machines = {"VOLUSON1": Machine(NOW - timedelta(hours=9), True)}
    figures = site.figures()
    assert figures["machine_last_object_timestamp_seconds VOLUSON1"] == NOW.timestamp() - 9 * 3600
    assert figures["machine_quiet VOLUSON1"] == 1


def test_the_active_bundle_is_named(site: ObservedService) -> None:
    with site.store.begin() as session:
        bundles.activate(session, "mine", "/bundles/mine", "ab" * 32, NOW)
    name = f"bundle_activated_timestamp_seconds mine {'ab' * 32}"
    assert site.figures()[name] == NOW.timestamp()
