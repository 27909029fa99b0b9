"""`qc-daemon destination`: what waits for it, what it does not take, sending again."""

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector.errors import ErrorCode, QCError
from qc_daemon.cli.app import app
from qc_daemon.operations.destinations import list_destinations
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import receipts
from qc_daemon.records.received.receipts import Receipt
from qc_daemon.records.results import destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import load
from tests.support.databases import migrate

runner = CliRunner()
SR3D = "1.2.840.10008.5.1.4.1.1.88.34"
NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A site whose PACS refused one object and waits for another, and that had an archive."""
    path = tmp_path / "qc.toml"
    path.write_text('[[destination]]\nname = "pacs"\nobjects = ["source", "sr"]\n')
    url = load(path).store.url
    migrate(url)
    store = Store(url)
    with store.begin() as session:
        for number in (1, 2):
            receipt = Receipt(
                f"1.1.{number}", "1.2", "1.3", "1.4", "P", "1", "AE", f"{number:064}", 1, "a", "x"
            )
            receipts.admit(
                session,
                receipt,
                source_destinations=["pacs", "archive"],
                bundle_id=None,
                now=NOW,
            )
        job = jobs.claim(session, [JobKind.DELIVER], "w", NOW, 300, destinations=["pacs"])
        assert job is not None
        error = QCError(ErrorCode.DELIVERY_REFUSED, "no")
        jobs.fail(session, job, error, NOW, RetryPolicy(), random.Random(1))
        destinations.record_refusal(session, "pacs", SR3D, NOW)
    store.close()
    return str(path)


def run(*arguments: str, status: int = 0) -> str:
    result = runner.invoke(app, ["destination", *arguments])
    assert (result.exit_code == 0) == (status == 0), result.output
    return result.output


def test_listed(config: str) -> None:
    pacs, archive = list_destinations(load(Path(config)))
    assert pacs == {
        "name": "pacs",
        "kind": "dicom",
        "objects": "source, sr",
        "does not take": "Comprehensive 3D SR Storage (2026-11-02 08:00 UTC)",
        "waiting": 1,
        "not committed": 0,
        "given up": 1,
        "delivered": 0,
        "state": "ok",
        "failing since": None,
        "last error code": None,
        "last error": None,
        "last error at": None,
        "commitment": "not known yet",
    }
    assert (archive["name"], archive["kind"], archive["waiting"], archive["state"]) == (
        "archive",
        "not in the settings",
        2,
        "not in the settings",
    )
    assert "pacs" in run("list", "--config", config)


def test_sent_again(config: str) -> None:
    assert "1 jobs are ready again" in run("retry", "pacs", "--config", config)
    assert list_destinations(load(Path(config)))[0]["waiting"] == 2
    assert "0 jobs" in run("retry", "pacs", "--config", config)


def test_learnt_again(config: str) -> None:
    assert "1 SOP classes are offered again" in run("relearn", "pacs", "--config", config)
    assert list_destinations(load(Path(config)))[0]["does not take"] == ""


@pytest.mark.parametrize("command", ["retry", "relearn"])
def test_an_unknown_destination_is_wrong_usage(config: str, command: str) -> None:
    run(command, "pax", "--config", config, status=2)
