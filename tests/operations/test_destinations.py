"""`qc-daemon destination`: what waits for it, what it does not take, sending again."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector.errors import ErrorCode, QCError
from qc_daemon.cli.app import app
from qc_daemon.operations.destinations import list_destinations
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import receipts
from qc_daemon.records.results import destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentSupport, JobKind
from qc_daemon.settings import load
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate
from tests.support.receipts import numbered_receipt

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
            receipt = numbered_receipt(number)
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
        "aborted": 0,
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


def test_a_table_has_the_error_only_until_the_destination_answers_again(config: str) -> None:
    store = Store(load(Path(config)).store.url)
    away = QCError(
        ErrorCode.DELIVERY_UNREACHABLE,
        "destination pacs cannot be reached: connection refused: nothing listens at the port",
    )
    with store.begin() as session:
        destinations.record_failure(session, "pacs", away, NOW)
        destinations.record_failure(session, "pacs", away, NOW + timedelta(hours=3))
        destinations.record_commitment(
            session, "pacs", CommitmentSupport.REFUSED, NOW, "destination pacs answered 0122"
        )
    listed = run("list", "--config", config).splitlines()
    assert max(map(len, listed)) <= 120
    text = " ".join(each.strip() for each in listed)
    assert (
        "pacs: failing since 2026-11-02 08:00 UTC; last error at 2026-11-02 11:00 UTC:"
        " cannot be reached: connection refused: nothing listens at the port"
    ) in text
    assert (
        "pacs: storage commitment refused since 2026-11-02 08:00 UTC: destination pacs answered"
        " 0122; stored counts as delivered"
    ) in text
    assert "pacs: does not take Comprehensive 3D SR Storage (2026-11-02 08:00 UTC)" in text
    with store.begin() as session:
        destinations.record_success(session, "pacs")
    store.close()
    assert "cannot be reached" not in run("list", "--config", config)
    # A program has what it had.
    row = json.loads(run("list", "--format", "json", "--config", config).splitlines()[0])
    assert (row["failing_since"], row["last_error"], row["last_error_at"]) == (
        None,
        away.message,
        "2026-11-02T11:00:00+00:00",
    )
    assert row["commitment"].startswith("refused since 2026-11-02 08:00 UTC: ")


@pytest.mark.parametrize("name", ["p", "s" * 16])
@pytest.mark.parametrize("commitment", [None, *CommitmentSupport])
def test_a_table_fits_120_columns(config: str, name: str, commitment: str | None) -> None:
    Path(config).write_text(
        f'[[destination]]\nname = "{name}"\n[[destination]]\nname = "vna"\nkind = "dicomweb"\n'
        'url = "https://vna.hospital.example/dicom-web"\ncommitment = "off"\n'
    )
    store = Store(load(Path(config)).store.url)
    with store.begin() as session:
        if commitment is not None:
            destinations.record_commitment(session, name, CommitmentSupport(commitment), NOW)
    store.close()
    listed = run("list", "--config", config)
    assert name in listed
    assert max(map(len, listed.splitlines())) <= 120


def test_what_the_destination_aborts_on_is_named(config: str) -> None:
    store = Store(load(Path(config)).store.url)
    with store.begin() as session:
        job = jobs.claim(session, [JobKind.DELIVER], "w", NOW, 300, destinations=["pacs"])
        assert job is not None
        error = QCError(ErrorCode.DELIVERY_ABORTED, "no")
        jobs.fail(session, job, error, NOW, RetryPolicy(), random.Random(1))
    store.close()
    line = "pacs: gave no answer for 1 of the objects that wait; see queue list --destination pacs"
    assert line in run("list", "--config", config).splitlines()


@pytest.mark.parametrize("name", ["pacs", "archive", "vna"])
def test_a_destination_of_the_settings_or_of_a_job_has_a_queue(config: str, name: str) -> None:
    with Path(config).open("a") as file:
        file.write('[[destination]]\nname = "vna"\n')
    listed = qc_daemon_here("queue", "list", "--destination", name, "--config", config)
    assert listed.returncode == 0
    assert ("no jobs match" in listed.stdout) == (name == "vna")


@pytest.mark.parametrize(("name", "format"), [("pax", "table"), ("pac", "json")])
def test_a_destination_that_nothing_knows_has_no_queue(config: str, name: str, format: str) -> None:
    listed = qc_daemon_here(
        *("queue", "list", "--destination", "pacs", "--destination", name),
        *("--format", format, "--config", config),
    )
    assert (listed.returncode, listed.stdout) == (1, "")
    assert listed.stderr == (
        f"error: there is no destination {name}: neither the settings nor any job names it;"
        " see destination list\n"
    )


def test_sent_again(config: str) -> None:
    assert "1 job is ready again" in run("retry", "pacs", "--config", config)
    assert list_destinations(load(Path(config)))[0]["waiting"] == 2
    assert "0 jobs" in run("retry", "pacs", "--config", config)


def test_learnt_again(config: str) -> None:
    assert "1 SOP class is offered again" in run("relearn", "pacs", "--config", config)
    assert list_destinations(load(Path(config)))[0]["does not take"] == ""


@pytest.mark.parametrize("command", ["retry", "relearn"])
def test_an_unknown_destination_is_a_failure(config: str, command: str) -> None:
    run(command, "pax", "--config", config, status=1)
