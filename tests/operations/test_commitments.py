"""`qc-daemon commitment`: what waits for a report, and telling again what was given up."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from qc_daemon.cli.app import app
from qc_daemon.dicom.storage_commitment import Reference, Request
from qc_daemon.records.commitment import scp
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Commitment, CommitmentState
from qc_daemon.settings import load
from tests.support.databases import migrate

runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Settings of a site with one request that was given up."""
    path = tmp_path / "qc.toml"
    path.write_text("")
    url = load(path).store.url
    migrate(url)
    store = Store(url)
    request = Request("1.9", "VOLUSON1", "127.0.0.1", "a", (Reference("1.2", "1.1"),))
    with store.begin() as session:
        scp.record_request(session, request, datetime.now(UTC))
        session.execute(update(Commitment).values(state=CommitmentState.DEAD))
    store.close()
    return str(path)


def run(*arguments: str, status: int = 0) -> str:
    result = runner.invoke(app, ["commitment", *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_listed_by_state(config: str) -> None:
    assert "VOLUSON1" in run("list", "--config", config)
    assert "VOLUSON1" in run("list", "--state", "dead", "--config", config)
    assert "VOLUSON1" not in run("list", "--state", "reported", "--config", config)


def test_retried(config: str) -> None:
    result = run("retry", "1", "2", "--config", config, status=1)
    assert "1 report is due again" in result
    assert "no commitment request 2" in result
    assert "VOLUSON1" in run("list", "--state", "ready", "--config", config)
    assert "request 1 is ready" in run("retry", "1", "--config", config, status=1)


def test_an_unknown_state_is_wrong_usage(config: str) -> None:
    result = runner.invoke(app, ["commitment", "list", "--state", "x", "--config", config])
    assert result.exit_code != 0
