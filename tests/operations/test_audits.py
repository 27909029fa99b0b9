"""`qc-daemon audit`: run, listed, shown, paused; the same date and data give the same bytes."""

import csv
import io
import json
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.operations.audits import (
    MEASURE_COLUMNS,
    AuditInterruptedError,
    newest_audit,
    perform,
    read_audit,
    run_audit,
)
from qc_daemon.operations.result_import import import_findings
from qc_daemon.records.results import audits
from qc_daemon.records.results.audits import LEASE_SECONDS
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AuditState
from qc_daemon.settings import Settings, load
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate
from tests.support.histories import misses
from training.phantom.history import write_history

NOW = datetime(2026, 10, 1, 8, 0, tzinfo=UTC)
LAST = "2026-09-30"
runner = CliRunner()


def clock() -> datetime:
    return NOW


def prepare(url: str, monkeypatch: pytest.MonkeyPatch, history: Path) -> Settings:
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    monkeypatch.setenv("QC_DAEMON_SCHEDULE__TIMEZONE", "Europe/Berlin")
    migrate(url)
    settings = load(None)
    import_findings(settings, [history])
    return settings


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_history(tmp_path_factory.mktemp("history"), 503, 600)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, history: Path) -> Settings:
    return prepare(f"sqlite:///{tmp_path / 'qc.db'}", monkeypatch, history)


@pytest.fixture
def both_settings(url: str, monkeypatch: pytest.MonkeyPatch, history: Path) -> Settings:
    return prepare(url, monkeypatch, history)


def run(*arguments: str) -> Result:
    return runner.invoke(app, ["audit", *arguments])


def stored_bytes(settings: Settings) -> str:
    return run("show", LAST, "--format", "json").stdout


def test_an_audit_is_run_listed_and_shown(both_settings: Settings) -> None:
    settings = both_settings
    parts: list[float] = []
    content = run_audit(settings, LAST, progress=parts.append, clock=clock)
    assert content["date"] == LAST
    assert content["timezone"] == "Europe/Berlin"
    assert content["window"] == {"from": "2025-10-01", "to": LAST}
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    shown = json.loads(stored_bytes(settings))
    assert shown == content == read_audit(settings)
    [listed] = [json.loads(line) for line in run("list", "--format", "json").stdout.splitlines()]
    assert (listed["date"], listed["state"], listed["progress"]) == (LAST, "done", 1.0)
    assert listed["data_sha256"] == content["data_sha256"]
    rows = list(csv.DictReader(io.StringIO(run("show", "--format", "csv").stdout)))
    assert tuple(rows[0]) == MEASURE_COLUMNS
    assert len(rows) == sum(len(each["measures"]) for each in content["subjects"])
    assert f"audit of {LAST}" in run("show").stdout


def test_without_a_date_it_is_of_the_last_day_with_images(settings: Settings) -> None:
    content = run_audit(settings, clock=clock)
    assert "2026-09-01" < content["date"] < "2026-10-01"
    assert content["group"]["measures"][0]["history"][-1]["to"] <= content["date"]


def test_the_contracts_keys_are_there(settings: Settings) -> None:
    content = run_audit(settings, clock=clock)
    assert {
        "date",
        "window",
        "bundle",
        "data_sha256",
        "subjects",
        "drift",
        "second_readings",
    } <= content.keys()
    for subject in content["subjects"]:
        assert {"kind", "id", "measures"} <= subject.keys()
        for measure in subject["measures"]:
            assert {
                "name",
                "x",
                "n",
                "value",
                "low",
                "high",
                "limits",
                "flag",
                "rule",
                "adjusted",
            } <= measure.keys()


def test_the_same_date_and_data_give_the_same_bytes(settings: Settings) -> None:
    run_audit(settings, LAST, clock=clock)
    first = stored_bytes(settings)
    run_audit(settings, LAST, clock=lambda: NOW + timedelta(days=3))
    assert stored_bytes(settings) == first


def test_a_changed_window_rewrites_no_limits(settings: Settings) -> None:
    first = run_audit(settings, "2026-09-13", clock=clock)
    later = run_audit(settings, LAST, since="2026-07-01", clock=clock)
    before, after = first["group"]["measures"][0], later["group"]["measures"][0]
    limits = [
        {each["from"]: (each["centre"], each["low_limit"]) for each in measure["history"]}
        for measure in (before, after)
    ]
    assert len(limits[1]) > len(limits[0]) > 50
    assert {week: limits[1][week] for week in limits[0]} == limits[0]
    assert later["window"]["from"] == "2026-07-01"


def test_an_audit_of_a_period_leaves_the_nightly_one_as_it_is(settings: Settings) -> None:
    nightly = run_audit(settings, LAST, clock=clock)
    first = stored_bytes(settings)
    chosen = run_audit(settings, LAST, since="2026-07-01", clock=clock)
    assert chosen["audit"] == "from-2026-07-01"
    assert stored_bytes(settings) == first
    assert read_audit(settings, LAST, "from-2026-07-01") == chosen
    assert read_audit(settings) == nightly
    named = run("show", LAST, "--audit", "from-2026-07-01", "--format", "json").stdout
    assert json.loads(named) == chosen
    assert run("show", LAST, "--audit", "from-2026-07-02").exit_code != 0
    listed = [json.loads(line) for line in run("list", "--format", "json").stdout.splitlines()]
    assert [each["audit"] for each in listed] == ["from-2026-07-01", "nightly"]


def test_of_several_audits_of_a_date_one_is_to_be_named(settings: Settings) -> None:
    first = run_audit(settings, LAST, since="2026-07-01", clock=clock)
    assert read_audit(settings, LAST) == read_audit(settings) == first
    run_audit(settings, LAST, since="2026-08-01", clock=clock)
    with pytest.raises(UsageError, match="--audit from-2026-07-01"):
        read_audit(settings, LAST)


def test_the_newest_audit_of_a_period(settings: Settings) -> None:
    for day in ("2026-08-31", LAST):
        run_audit(settings, day, clock=clock)
    newest = newest_audit(settings, "2026-08-01", "2026-09-29")
    assert newest is not None
    assert newest["date"] == "2026-08-31"
    assert newest_audit(settings, "2026-01-01", "2026-01-31") is None


def test_examples_name_pictures_of_the_person(settings: Settings) -> None:
    content = run_audit(settings, clock=clock)
    chosen = [
        example
        for subject in content["subjects"]
        if subject["kind"] == "person"
        for examples in subject["examples"].values()
        for example in examples
    ]
    assert chosen
    assert all(each["sop_instance_uid"].startswith(each["study_instance_uid"]) for each in chosen)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--date", "2100-01-01"), "is not over"),
        (("--date", "yesterday"), "give a date"),
        (("--from", "2026-09-30", "--to", "2026-09-01"), "is not after"),
        (("--date", "2026-09-01", "--to", "2026-09-02"), "has the date of its last day"),
        (("--from", "2026-13-01"), "give a date"),
    ],
)
def test_wrong_dates_are_one_line_and_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    migrate(url)
    result = run("run", *arguments)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "cancel"])
def test_an_unknown_date_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    migrate(url)
    for day in ("2026-09-30", "today"):
        assert isinstance(run(verb, day).exception, UsageError)


def test_a_lab_without_images_has_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    migrate(url)
    content = run_audit(load(None), "2026-09-30", clock=clock)
    assert content["counts"]["findings"] == 0


def test_an_audit_that_is_paused_meanwhile_stops_and_goes_on_later(settings: Settings) -> None:
    store = Store(settings.store.url)

    def pause(part: float) -> None:
        if part > 0.5:
            assert run("pause", LAST).exit_code == 0

    with pytest.raises(QCError, match="was paused or cancelled"):
        run_audit(settings, LAST, progress=pause, clock=clock)
    assert state(store) == AuditState.PAUSED
    with store.begin() as session:
        assert audits.claim(session, "other", NOW, 60) is None
    assert run("resume", LAST).exit_code == 0
    with store.begin() as session:
        claimed = audits.claim(session, "other", NOW, 60)
    assert claimed is not None
    perform(settings, store, claimed, clock=clock)
    assert state(store) == AuditState.DONE
    refused = run("pause", LAST)
    assert isinstance(refused.exception, QCError)
    assert "is done" in refused.exception.message


def state(store: Store) -> str:
    with store.read() as session:
        [listed] = audits.every(session)
    return listed.state


def test_a_cancelled_audit_is_no_longer_stored(settings: Settings) -> None:
    store = Store(settings.store.url)
    with store.begin() as session:
        audits.queue(session, audits.NIGHTLY, LAST, NOW)
        claimed = audits.claim(session, "one", NOW, 60)
    assert claimed is not None
    assert run("cancel", LAST).exit_code == 0
    with pytest.raises(AuditInterruptedError):
        perform(settings, store, claimed, clock=clock)
    assert state(store) == AuditState.CANCELLED
    with pytest.raises(UsageError, match="there is no audit"):
        read_audit(settings, LAST)


def test_one_process_at_a_time_works_at_an_audit(both_settings: Settings) -> None:
    settings = both_settings
    store = Store(settings.store.url)
    with store.begin() as session:
        assert audits.queue(session, audits.NIGHTLY, LAST, NOW)
        assert not audits.queue(session, audits.NIGHTLY, LAST, NOW)
        first = audits.claim(session, "one", NOW, 60)
        assert first is not None
        assert audits.claim(session, "two", NOW, 60) is None
    with pytest.raises(QCError, match="run by another process"):
        run_audit(settings, LAST, clock=lambda: NOW + timedelta(seconds=30))
    with store.begin() as session:
        # The first one is gone, and its lease is over.
        second = audits.claim(session, "two", NOW + timedelta(seconds=61), 60)
        assert second is not None
        assert not audits.renew(session, first, 0.5, NOW, 60)
        assert audits.renew(session, second, 0.5, NOW, 60)


def test_an_audit_names_the_zone_of_its_days_where_no_setting_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QC_DAEMON_SCHEDULE__TIMEZONE")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    content = run_audit(load(None), LAST, clock=clock)
    assert content["timezone"] == "Asia/Kathmandu"
    assert "(Asia/Kathmandu)" in run("show", LAST).stdout


def test_a_failure_is_stored_without_its_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DOE^JANE")

    monkeypatch.setattr("qc_daemon.operations.audits.make_audit", broken)
    with pytest.raises(RuntimeError):
        run_audit(settings, LAST, clock=clock)
    [listed] = [json.loads(line) for line in run("list", "--format", "json").stdout.splitlines()]
    assert (listed["state"], listed["reason"]) == ("failed", "RuntimeError")


@pytest.mark.parametrize("small_disk", ["16m"], indirect=True)
def test_a_disk_that_is_full_is_one_line_and_the_audit_before_stays(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, history: Path
) -> None:
    """The disk of the database fills up while the audit is run again; then it is full at once."""
    settings = prepare(f"sqlite:///{small_disk / 'qc.db'}", monkeypatch, history)
    run_audit(settings, LAST, clock=clock)
    before = stored_bytes(settings)
    ballast = small_disk / "ballast"

    def fill(part: float) -> None:
        if part >= 0.3 and not ballast.exists():
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))

    # The log of the database would take what is left of it in place of the disk.
    with closing(sqlite3.connect(small_disk / "qc.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with pytest.raises(QCError, match=r"cannot be used: (database or disk is full|disk I/O error)"):
        run_audit(settings, LAST, progress=fill, clock=clock)
    assert ballast.exists()
    ended = qc_daemon_here("audit", "run", "--date", LAST)
    assert ended.returncode == 1
    assert ended.stderr.strip().count("\n") == 0
    assert ended.stderr.strip().startswith("error: ")
    assert stored_bytes(settings) == before
    ballast.unlink()
    later = NOW + timedelta(seconds=LEASE_SECONDS + 1)
    again = run_audit(settings, LAST, clock=lambda: later)
    assert json.dumps(again, sort_keys=True) == json.dumps(json.loads(before), sort_keys=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [601, 602, 603])
def test_what_is_planted_in_an_imported_history_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    """The whole way, as a user goes it; seeds that nothing was tuned on."""
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    migrate(url)
    path = write_history(tmp_path / "history", seed, 30_000)
    assert runner.invoke(app, ["results", "import", str(path)]).exit_code == 0
    assert run("run").exit_code == 0
    content = json.loads(run("show", "--format", "json").stdout)
    truth = json.loads((path.parent / "truth.json").read_text())
    assert misses(truth, content) == []
