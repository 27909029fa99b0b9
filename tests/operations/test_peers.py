"""`qc-daemon peer`: who may store, who was refused, and letting them in with one command."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.records.received import peers
from qc_daemon.records.received.peers import RefusedCaller
from qc_daemon.records.store import Store
from qc_daemon.settings import load
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate

SETTINGS = """
[receive.tls]
certificate = "own.pem"
key = "own.key"
ca = "ca.pem"
[[receive.peer]]
ae_title = "FIXED"
address = "10.9.0.0/16"
"""
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CERTIFICATE, OTHER = "a1" * 32, "b2" * 32
runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "qc.toml"
    path.write_text(SETTINGS)
    migrate(load(path).store.url)
    return path


def refuse(config: Path, ae_title: str, address: str, certificate: str | None = None) -> None:
    with Store(load(config).store.url).begin() as session:
        peers.record_refusals(session, [RefusedCaller(ae_title, address, certificate, 1, NOW, NOW)])


def peer(config: Path, *arguments: str) -> Result:
    return runner.invoke(app, ["peer", *arguments, "--config", str(config)])


def listed(config: Path) -> list[dict[str, Any]]:
    result = peer(config, "list", "--format", "jsonl")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def of_state(config: Path, state: str) -> list[tuple[str, str, str | None]]:
    return [
        (row["ae_title"], row["address"], row["certificate"])
        for row in listed(config)
        if row["state"] == state
    ]


def test_all_three_kinds_are_listed(config: Path) -> None:
    refuse(config, "STRANGER", "192.168.1.2", CERTIFICATE)
    assert peer(config, "add", "US1", "--address", "10.1.2.3/16").exit_code == 0
    rows = listed(config)
    assert [(row["state"], row["ae_title"], row["address"]) for row in rows] == [
        ("settings", "FIXED", "10.9.0.0/16"),
        ("approved", "US1", "10.1.0.0/16"),
        ("refused", "STRANGER", "192.168.1.2"),
    ]
    assert rows[2] | {"attempts": 1, "certificate": CERTIFICATE} == rows[2]
    assert rows[2]["since"] == rows[2]["last_seen"] == "2026-03-04T05:06:07+00:00"
    table = peer(config, "list").output
    for word in ("FIXED", "US1", "STRANGER", "192.168.1.2"):
        assert word in table
    assert "None" not in table


def test_a_refused_caller_is_approved_with_its_address_and_certificate(config: Path) -> None:
    refuse(config, "US1", "10.1.2.3", CERTIFICATE)
    refuse(config, "US2", "10.1.2.3")
    result = peer(config, "approve", "US1")
    assert result.output == f"US1 may store from 10.1.2.3 with certificate {CERTIFICATE}\n"
    assert of_state(config, "approved") == [("US1", "10.1.2.3", CERTIFICATE)]
    assert of_state(config, "refused") == [("US2", "10.1.2.3", None)]


def test_a_second_approval_says_that_the_peer_may_store_already(config: Path) -> None:
    refuse(config, "US1", "10.1.2.3")
    peer(config, "approve", "US1")
    for more in ((), ("--address", "10.1.2.3")):
        again = peer(config, "approve", "US1", *more)
        assert (again.exit_code, again.output) == (0, "US1 may store already, from 10.1.2.3\n")
    result = peer(config, "approve", "US1", "--address", "10.9.9.9")
    assert isinstance(result.exception, QCError)


def test_a_whole_network_lets_in_all_it_covers(config: Path) -> None:
    for address in ("10.1.2.3", "10.1.2.4", "10.2.0.1"):
        refuse(config, "US1", address)
    with pytest.raises(UsageError, match=r"10\.1\.2\.3.*--address"):
        raise peer(config, "approve", "US1").exception or AssertionError
    result = peer(config, "approve", "US1", "--address", "10.1.2.3", "--network", "10.1.0.0/16")
    assert result.output == "US1 may store from 10.1.0.0/16\n"
    assert of_state(config, "refused") == [("US1", "10.2.0.1", None)]
    result = peer(config, "approve", "US1", "--network", "10.3.0.0/16")
    assert isinstance(result.exception, UsageError)
    assert "10.2.0.1 is not in it" in str(result.exception)


def test_a_renewed_certificate_is_approved_the_same_way(config: Path) -> None:
    peer(config, "add", "US1", "--address", "10.1.2.3", "--certificate", CERTIFICATE.upper())
    assert of_state(config, "approved") == [("US1", "10.1.2.3", CERTIFICATE)]
    refuse(config, "US1", "10.1.2.3", OTHER)
    assert peer(config, "approve", "US1").exit_code == 0
    assert of_state(config, "approved") == [("US1", "10.1.2.3", OTHER)]


def test_approvals_are_removed(config: Path) -> None:
    for address in ("10.1.2.3", "10.2.0.0/16"):
        peer(config, "add", "US1", "--address", address)
    assert peer(config, "remove", "US1", "--address", "10.2.7.7/16").output.startswith("1 ")
    assert of_state(config, "approved") == [("US1", "10.1.2.3", None)]
    assert peer(config, "remove", "US1").output.startswith("1 ")
    result = peer(config, "remove", "US1")
    assert isinstance(result.exception, QCError)
    assert "no approved peer US1" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "US1", "--address", "10.0.0.0/99"), "--address 10.0.0.0/99"),
        (("add", "US1", "--address", "host"), "--address host"),
        (("add", "A TITLE THAT IS TOO LONG", "--address", "10.0.0.1"), "16 printable"),
        (("add", "US1", "--address", "10.0.0.1", "--certificate", "ab"), "64 hexadecimal"),
        (("add", "FIXED", "--address", "10.9.1.0/24"), "settings file decides"),
        (("approve", "FIXED"), "settings file decides"),
        (("remove", "FIXED"), "edit receive.peer"),
        (("remove", "FIXED", "--address", "10.9.0.0/16"), "edit receive.peer"),
        (("list", "--format", "xml"), "--format xml"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    config: Path, arguments: tuple[str, ...], message: str
) -> None:
    # A peer of the settings whose certificate is another than it showed.
    refuse(config, "FIXED", "10.9.1.1", CERTIFICATE)
    before = listed(config)
    result = peer(config, *arguments)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert listed(config) == before


def test_a_certificate_needs_tls(config: Path) -> None:
    config.write_text("")
    result = peer(config, "add", "US1", "--address", "10.0.0.1", "--certificate", CERTIFICATE)
    assert isinstance(result.exception, UsageError)
    assert "[receive.tls]" in str(result.exception)


def test_exit_statuses_of_a_command_line(config: Path) -> None:
    process = qc_daemon_here("peer", "approve", "NOBODY", "--config", config)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("error: no refused caller NOBODY")
    assert qc_daemon_here("peer", "remove", "FIXED", "--config", config).returncode == 2
    assert qc_daemon_here("peer", "add", "US1", "--config", config).returncode == 2


def test_approving_a_caller_of_another_called_title_says_so(config: Path) -> None:
    caller = RefusedCaller("US9", "10.1.2.3", None, 2, NOW, NOW, "NOTOURS", "our AE title is X")
    with Store(load(config).store.url).begin() as session:
        peers.record_refusals(session, [caller])
    (row,) = [row for row in listed(config) if row["state"] == "refused"]
    assert (row["called_ae"], row["reason"]) == ("NOTOURS", "our AE title is X")
    approved = peer(config, "approve", "US9")
    assert approved.exit_code == 0
    assert "it calls us NOTOURS, and we are QCDAEMON" in approved.output
