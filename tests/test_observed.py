"""The service as whoever watches it sees it: figures of several processes, alive, ready."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qc_daemon.records.revisions import spooled
from tests.service import Service
from tests.wire import CANARY, CANARY_ID, Pacs, eventually, store, ultrasound

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


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs().start()
    yield made
    made.stop()


@pytest.fixture
def service(tmp_path: Path, pacs: Pacs) -> Iterator[Service]:
    orphan = tmp_path / "spool" / spooled(f"abcd{'0' * 60}")
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"of a service that was killed")
    os.utime(orphan, (1e9, 1e9))
    made = Service(tmp_path, SETTINGS.format(pacs=pacs.port)).start()
    yield made
    made.stop()


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


def test_figures_of_a_running_service(service: Service) -> None:
    eventually(lambda: get(service, "/ready") == (200, "ready\n"))
    assert get(service, "/health") == (200, "alive\n")
    eventually(lambda: figure(service, "spool_orphans") == 1)
    sizes = [store(service.port, ultrasound()) for _ in range(6)]
    assert sizes == [[0]] * 6
    assert figure(service, "objects_stored_total", kind="new") == 6
    assert figure(service, "processes", role="receive") == 2
    eventually(
        lambda: figure(service, "deliveries_total", destination="pacs", outcome="delivered") == 6
    )
    service.kill_role("receive")
    # What the killed process counted stays.
    assert figure(service, "objects_stored_total", kind="new") == 6
    assert figure(service, "process_restarts_total", role="receive") == 1
    assert store(service.port, ultrasound()) == [0]
    assert figure(service, "objects_stored_total", kind="new") == 7
