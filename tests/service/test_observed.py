"""The service as whoever watches it sees it: figures of several processes, alive, ready."""

import json
import os
import resource
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qc_daemon.spool.spool import relative_path
from tests.support.dicom_objects import CANARY, CANARY_ID, ultrasound
from tests.support.pacs import Pacs
from tests.support.peers import store
from tests.support.service import Service
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 2
[observe]
port = 0
[jobs]
poll_seconds = 0.1
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
objects = ["source"]
timeout = 20
"""


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    running = Pacs().start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, pacs: Pacs) -> Iterator[Service]:
    """Shared: a test compares with what there was before it."""
    folder = tmp_path_factory.mktemp("observed")
    orphan = folder / "spool" / relative_path(f"abcd{'0' * 60}")
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"of a service that was killed")
    os.utime(orphan, (1e9, 1e9))
    running = Service(folder, SETTINGS.format(pacs=pacs.port)).start()
    yield running
    running.end()


def get(service: Service, path: str) -> tuple[int, str]:
    port = eventually(lambda: service.events("metrics"))[0]["port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figure(service: Service, name: str, **labels: str) -> float:
    _, text = get(service, "/metrics")
    assert CANARY not in text
    assert CANARY_ID not in text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"qc_daemon_{name}" and sample.labels == labels:
                return sample.value
    raise AssertionError(f"no figure {name}")


def ready(service: Service) -> tuple[int, list[str]]:
    status, text = get(service, "/ready")
    return status, json.loads(text)["reasons"]


def test_figures_of_a_running_service(service: Service) -> None:
    assert ready(service) == (200, [])
    assert get(service, "/health") == (200, "alive\n")
    eventually(lambda: figure(service, "spool_orphans") == 1)

    def stored() -> float:
        return figure(service, "objects_stored_total", kind="new")

    def delivered() -> float:
        return figure(service, "deliveries_total", destination="pacs", outcome="delivered")

    eventually(lambda: delivered() == stored())
    before = stored()
    statuses = [store(service.port, ultrasound()) for _ in range(6)]
    assert statuses == [[0]] * 6
    assert stored() == before + 6
    assert figure(service, "processes", role="receive") == 2
    eventually(lambda: delivered() == before + 6)
    service.kill_role("receive")
    # What the killed process counted stays.
    assert stored() == before + 6
    assert figure(service, "process_restarts_total", role="receive") == 1
    assert store(service.port, ultrasound()) == [0]
    assert stored() == before + 7


def test_a_worker_that_cannot_start_is_in_log_metrics_and_health(
    tmp_path: Path, pacs: Pacs
) -> None:
    """A device that this machine does not have: receiving goes on, and nobody says all is well."""
    text = SETTINGS.format(pacs=pacs.port) + '[score]\ndevice = "cuda:99"\n'
    service = Service(tmp_path, text, roles=("receive", "work")).spawn()
    try:
        (failed, *_) = eventually(lambda: service.events("failed"))
        assert failed["code"] == "device-not-available"
        assert "cuda:99" in failed["reason"]
        eventually(lambda: service.events("process died"))
        status, reasons = ready(service)
        assert status == 503
        assert any(each.startswith("work is") and "cuda:99" in each for each in reasons)
        assert store(service.port, ultrasound()) == [0]
        assert figure(service, "processes_ready", role="work") == 0
        eventually(lambda: figure(service, "processes_ready", role="receive") == 2)
        assert get(service, "/health")[0] == 200
        assert "Traceback" not in service.log_file.read_text()
    finally:
        assert service.stop() == 0


def schedule_starts(service: Service) -> int:
    """How often the role `schedule` became ready."""
    return len([line for line in service.events("ready") if line["role"] == "schedule"])


def test_a_locked_database_holds_up_no_restart(service: Service) -> None:
    """Neither the supervisor's pulse nor a role waits for what a dead process had leased."""
    lock = sqlite3.connect(service.folder / "qc.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    starts, warnings = schedule_starts(service), len(service.events("leases not released"))
    service.process_dies("schedule")
    statuses = []

    def ready_again() -> bool:
        statuses.append(get(service, "/health")[0])
        return schedule_starts(service) > starts

    eventually(ready_again)
    assert set(statuses) == {200}
    # It had not even given up waiting for the database.
    assert len(service.events("leases not released")) == warnings
    lock.execute("ROLLBACK")
    lock.close()


def test_a_process_that_cannot_be_had_now_is_tried_again(service: Service) -> None:
    """Every handle of the supervisor is taken, by a real limit; the others go on receiving."""
    assert service.process is not None
    supervisor = service.process.pid
    soft, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, hard))
    starts = schedule_starts(service)
    service.process_dies("schedule")
    (event, *_) = eventually(lambda: service.events("process not started"))
    assert event["kind"] == "schedule"
    assert "too many open files" in event["reason"]
    assert store(service.port, ultrasound()) == [0]
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: schedule_starts(service) > starts)
    eventually(lambda: ready(service) == (200, []))


def test_the_first_line_says_what_runs(service: Service) -> None:
    (line,) = service.events("starting")
    assert line["version"] == version("qc-daemon")
    assert line["roles"] == "receive, deliver, schedule"
    assert (line["database"], line["destinations"]) == ("sqlite", "pacs")
