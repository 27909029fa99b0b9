"""What an upgrade will do is said before it; and with a full queue it goes up, and back, whole."""

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from detector.code_digest import code_digest
from qc_daemon.operations import upgrade_check
from qc_daemon.records import schema
from qc_daemon.records.clock import utc_now
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.spool import running_services, service_lock
from tests.support.bundles import other_bundle
from tests.support.command_line import qc_daemon_here
from tests.support.records import Records

STATES = ("ready", "leased", "sent", "dead", "quarantined")


@pytest.fixture
def config(url: str, tmp_path: Path) -> Path:
    """A settings file with an empty database of each kind."""
    (tmp_path / "spool").mkdir()
    path = tmp_path / "qc-daemon.toml"
    path.write_text(f'[store]\nurl = "{url}"\nspool = "{tmp_path / "spool"}"\n')
    return path


def fill_queue(url: str) -> None:
    """Jobs of each kind, and in each state that is not the end of one."""
    store = Store(url)
    records = Records(store)
    for _ in range(2):
        records.image()
    records.receive("pacs", sop_instance_uid="1.2.3.4.90", sha256="9" * 64)
    records.score_all()
    records.wait(1000)
    records.close_due()
    for _ in range(4):
        records.receive("pacs", sop_instance_uid=f"1.2.3.5.{_}", sha256=f"{_ + 20:064x}")
    assert records.claim(JobKind.DELIVER) is not None
    with store.begin() as session:
        ready = "SELECT min(id) FROM job WHERE state = 'ready' AND kind = 'score'"
        session.execute(text(f"UPDATE job SET state = 'dead' WHERE id = ({ready})"))
    store.close()


def queue(url: str) -> list[tuple[object, ...]]:
    """Every job, by the columns that the first version had."""
    store = Store(url)
    columns = "id, kind, subject, revision, state, attempts, destination, lease_token"
    with store.read() as session:
        rows = [
            tuple(row) for row in session.execute(text(f"SELECT {columns} FROM job ORDER BY id"))
        ]
    store.close()
    return rows


def checks(config: Path, *options: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit status, and results with messages by check."""
    answer = qc_daemon_here("upgrade", "check", "-c", config, "--format", "json", *options)
    results: dict[str, list[tuple[str, str]]] = {}
    for row in map(json.loads, answer.stdout.splitlines()):
        results.setdefault(row["check"], []).append((row["result"], row["message"]))
    return answer.returncode, results


def test_a_full_queue_goes_up_and_back_whole(url: str, config: Path) -> None:
    schema.upgrade(url)
    fill_queue(url)
    before = queue(url)
    assert {row[4] for row in before} >= {"ready", "leased", "dead"}
    assert {row[1] for row in before} == {"score", "report", "deliver"}
    latest = schema.revision_of(url)
    schema.downgrade(url, "-1")
    assert queue(url) == before
    status, results = checks(config)
    assert status == 0, results
    ((word, message),) = results["migrations"]
    assert word == "ok"
    assert message.startswith("1 migration in one transaction, from ")
    assert message.endswith(schema.describe_revision(latest))
    assert "\n" not in message
    # The check itself has changed nothing.
    assert schema.revision_of(url) != latest
    schema.upgrade(url)
    assert queue(url) == before
    status, results = checks(config)
    assert status == 0
    assert results["migrations"][0][1].startswith("none: ")
    store = Store(url)
    records = Records(store)
    records.wait(10_000)
    claimed = 0
    while records.claim() is not None:
        claimed += 1
    # All that was ready, and what the dead worker had begun.
    assert claimed == sum(row[4] in ("ready", "leased") for row in before)
    store.close()


def test_the_queue_and_open_exams_are_counted(url: str, config: Path) -> None:
    schema.upgrade(url)
    assert checks(config)[1]["queue"] == [("ok", "no job waits")]
    fill_queue(url)
    ((word, message),) = checks(config)[1]["queue"]
    ready = sum(row[4] == "ready" for row in queue(url))
    assert word == "ok"
    assert f"{ready} wait, 1 are at work" in message
    assert "1 exam is open" in message


def test_without_a_database_there_is_nothing_to_upgrade(tmp_path: Path) -> None:
    config = tmp_path / "qc-daemon.toml"
    config.write_text("")
    status, results = checks(config)
    assert status == 0
    assert results["database"] == [("ok", "there is none yet: this is no upgrade")]
    assert not (tmp_path / "var").exists()


def test_a_newer_database_stops_it(url: str, config: Path) -> None:
    schema.upgrade(url)
    store = Store(url)
    with store.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    status, results = checks(config)
    assert status == 1
    ((word, message),) = results["database"]
    assert word == "FAIL"
    assert "another version" in message


@pytest.fixture
def lite(tmp_path: Path, migrated_sqlite: Path) -> Path:
    """A settings file with a migrated SQLite database."""
    (tmp_path / "spool").mkdir()
    shutil.copy(migrated_sqlite, tmp_path / "qc.db")
    path = tmp_path / "qc-daemon.toml"
    path.write_text('[store]\nurl = "sqlite:///qc.db"\nspool = "spool"\n')
    return path


def test_each_unknown_setting_is_named_and_the_rest_is_checked(lite: Path) -> None:
    lite.write_text(
        lite.read_text() + "keep_pixel_days = 4\n[receive]\nbell = 1\n[[destination]]\n"
        'name = "pacs"\nae_title = "P"\nhost = "10.0.0.1"\nport = 104\ncolour = "red"\n'
    )
    status, results = checks(lite)
    assert status == 1
    messages = [message for word, message in results["settings"] if word == "FAIL"]
    assert len(messages) == 3
    assert "store.keep_pixel_days is unknown; did you mean store.keep_pixels_days?" in messages[0]
    assert "receive.bell is unknown" in messages[1]
    assert "destination pacs" in messages[2]
    assert "colour" in messages[2]
    assert results["migrations"][0][0] == "ok"


def test_settings_that_cannot_be_used_are_all_that_is_said(lite: Path) -> None:
    lite.write_text(lite.read_text() + "[receive]\nport = 99999\n")
    status, results = checks(lite)
    assert status == 1
    assert results["settings"][0][0] == "FAIL"
    assert results["database"] == [("warn", "not looked at: the settings cannot be used")]


def test_a_disk_without_room_for_the_backup_stops_it(
    lite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (tmp_path / "qc.db").stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=size + 4096))
    assert checks(lite)[1]["backup"][0][0] == "ok"
    # Migrations write as much again.
    schema.downgrade(f"sqlite:///{tmp_path / 'qc.db'}", "-1")
    status, results = checks(lite, "--backups", str(tmp_path / "not" / "there"))
    assert status == 1
    ((word, message),) = results["backup"]
    assert word == "FAIL"
    assert f"at {tmp_path}" in message
    assert message.endswith("make room")


def activate(lite: Path, folder: Path, model_id: str) -> None:
    store = Store(f"sqlite:///{lite.parent / 'qc.db'}")
    with store.begin() as session:
        bundles.activate(session, folder.name, str(folder), model_id, utc_now())
    store.close()


def test_the_active_bundle_is_one_that_this_version_reads(lite: Path, tmp_path: Path) -> None:
    folder = other_bundle(tmp_path / "mine")
    activate(lite, folder, "1" * 64)
    assert checks(lite)[1]["bundle"] == [("ok", f"{folder}, of a format that this version reads")]
    manifest = folder / "bundle.json"
    facts = json.loads(manifest.read_text())
    manifest.unlink()
    manifest.write_text(json.dumps({**facts, "format": 99}))
    status, results = checks(lite)
    assert status == 1
    assert results["bundle"][0][0] == "FAIL"
    assert "format is not" in results["bundle"][0][1]


def test_a_bundle_of_a_former_release_has_a_warning(lite: Path, tmp_path: Path) -> None:
    """The installer removes a release after the next one: its bundle goes with it."""
    folder = other_bundle(tmp_path / "release" / "model" / "bundles" / "default")
    activate(lite, folder, "1" * 64)
    status, results = checks(lite)
    assert status == 0
    ((word, message),) = results["bundle"]
    assert word == "warn"
    assert "copy the folder and activate the copy" in message
    shutil.rmtree(folder)
    assert checks(lite)[0] == 1


def test_services_that_run_other_code_are_named(lite: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    assert checks(lite)[1]["service"] == [("ok", "none runs")]
    with service_lock.shared(spool):
        ((word, message),) = checks(lite)[1]["service"]
        assert (word, "does not say its version" in message) == ("warn", True)
        with running_services.announce(spool, "0.0.9", "abc", ["receive"], utc_now()):
            ((word, message),) = checks(lite)[1]["service"]
        assert word == "warn"
        assert "receive on " in message
        assert "runs 0.0.9, code abc; restart it afterwards" in message
        schema.downgrade(f"sqlite:///{tmp_path / 'qc.db'}", "-1")
        with running_services.announce(spool, "0.0.9", "abc", ["receive"], utc_now()):
            assert "stop it before, on every host" in checks(lite)[1]["service"][0][1]
        mine = upgrade_check.version("qc-daemon")
        with running_services.announce(spool, mine, code_digest(), ["work"], utc_now()):
            assert checks(lite)[1]["service"][0][0] == "ok"


def test_text_says_the_same(lite: Path) -> None:
    answer = qc_daemon_here("upgrade", "check", "-c", lite)
    assert answer.returncode == 0, answer.stderr
    names = [line[5:].partition(":")[0] for line in answer.stdout.splitlines()]
    assert names == [
        "version",
        "settings",
        "database",
        "migrations",
        "backup",
        "bundle",
        "queue",
        "service",
    ]
