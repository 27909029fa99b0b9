"""What people order by command is in the audit log, by ids; `audit-log` checks and prints it."""

import json
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from qc_daemon.audit_trail.chain import chain_name, segments
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.operations import passwords
from qc_daemon.settings import load
from tests.support.accounts import QUICK_HASHER
from tests.support.audit_log import content, records
from tests.support.command_line import Completed, qc_daemon_here
from tests.support.databases import migrate

SCHEMA = Path(__file__).parents[1] / "support" / "audit_message.rng"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "qc.toml"
    path.write_text("")
    migrate(load(path).store.url)
    return path


def run(config: Path, *arguments: str, status: int = 0) -> Completed:
    result = qc_daemon_here(*arguments, "--config", config)
    assert result.returncode == status, result.stdout + result.stderr
    return result


def last(config: Path) -> dict[str, Any]:
    return records(load(config))[-1]


def test_what_is_ordered_is_recorded_with_its_object(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    monkeypatch.setenv("QC_PASSWORD", "correct horse battery")
    run(config, "peer", "add", "VOLUSON1", "--address", "10.1.0.0/16")
    record = last(config)
    assert (record["kind"], record["detail"]) == ("peer-changed", {"what": "approved"})
    assert record["objects"] == {"peer": "VOLUSON1", "network": "10.1.0.0/16"}
    assert record["actor"]["kind"] == "machine-user"
    run(config, "peer", "remove", "VOLUSON1")
    assert last(config)["detail"] == {"what": "removed"}
    run(config, "bundle", "activate", "default")
    record = last(config)
    assert (record["kind"], record["objects"]["bundle"]) == ("bundle-activated", "default")
    assert len(record["objects"]["model_id"]) == 64
    run(config, "exam", "list", "--patient", "Canary^Patient", "--day", "2026-11-28")
    record = last(config)
    assert (record["kind"], record["detail"]["fields"]) == ("searched", "patient, day")
    run(config, "export", "findings", "--format", "csv")
    record = last(config)
    assert (record["kind"], record["detail"]) == ("exported", {"what": "findings", "count": "0"})
    run(config, "queue", "cancel", "7", status=1)
    assert "Canary" not in content(load(config))


def test_verify_says_where_the_log_ends_and_what_is_wrong(config: Path) -> None:
    assert run(config, "audit-log", "verify").stdout == "there is no audit log yet\n"
    for number in range(4):
        run(config, "peer", "add", f"US{number}", "--address", "10.1.0.0/16")
    out = run(config, "audit-log", "verify").stdout
    assert f"{chain_name()}: 4 records, as written; it ends at" in out
    place = out.split()[-1]
    run(config, "audit-log", "verify", "--anchor", place)
    result = run(config, "audit-log", "verify", "--anchor", f"3:{'0' * 64}", status=1)
    assert "record 3 is another one than was anchored" in result.stdout
    path = segments(chain_folder(load(config)))[0]
    path.write_bytes(path.read_bytes().replace(b"US2", b"US9"))
    result = run(config, "audit-log", "verify", "--format", "json", status=1)
    row = json.loads(result.stdout)
    assert (row["result"], row["records"]) == ("NOT SOUND", 4)
    assert row["problems"][0].endswith("was changed: its digest is another")


def test_export_prints_records_and_is_recorded_itself(config: Path) -> None:
    run(config, "peer", "add", "US1", "--address", "10.1.0.0/16")
    run(config, "bundle", "activate", "default")
    lines = run(config, "audit-log", "export", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        "peer-changed",
        "bundle-activated",
        "log-used",
    ]
    text = run(config, "audit-log", "export", "--kind", "peer-changed").stdout
    assert "peer-changed by " in text
    assert text.rstrip().endswith("peer US1 network 10.1.0.0/16 what: approved")
    messages = run(config, "audit-log", "export", "--format", "xml").stdout.splitlines()
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    for message in messages:
        schema.assertValid(etree.fromstring(message.encode()))
    assert len(messages) == 5
    assert not run(config, "audit-log", "export", "--until", "2020-01-01").stdout


def test_wrong_arguments_get_a_line(config: Path) -> None:
    for arguments, words in (
        (("verify", "--anchor", "12"), "give NUMBER:DIGEST"),
        (("export", "--format", "pdf"), "give one of text, jsonl, xml"),
        (("export", "--kind", "thing"), "--kind: give one of start, stop"),
    ):
        assert words in run(config, "audit-log", *arguments, status=2).stderr
    result = run(config, "audit-log", "verify", "--chain", "elsewhere", status=1)
    assert "has no chain elsewhere; there is none yet" in result.stderr
