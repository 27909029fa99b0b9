"""Nightly backups: each is read back, what the night before has is linked, old ones go by rule."""

import json
import os
import shutil
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from detector.errors import QCError
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.backup import restore, series
from qc_daemon.backup.manifest import read_manifest
from qc_daemon.backup.series import SavedBackup, Verification, list_backups, retention, save_next
from qc_daemon.cli.app import app
from qc_daemon.settings import BackupSettings, Settings
from tests.support.storage import Storage

NIGHT = datetime(2026, 11, 30, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def folder(storage: Storage, tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    storage.settings.backup = BackupSettings(folder=folder, keep_daily=2, keep_weekly=0)
    storage.settings.backup.keep_monthly = 0
    return folder


def save(storage: Storage, now: datetime = NIGHT) -> SavedBackup:
    saved, _ = save_next(storage.settings, now, BERLIN)
    return saved


def spooled(saved: SavedBackup) -> dict[str, Path]:
    return {path.name: path for path in (saved.folder / "spool").rglob("*.dcm")}


def test_each_night_s_backup_is_whole_and_new_files_only_take_room(
    storage: Storage, folder: Path
) -> None:
    first_object = storage.receive()
    first = save(storage)
    second_object = storage.receive()
    second = save(storage, NIGHT + DAY)
    assert first.is_good
    assert second.is_good
    assert set(spooled(second)) == {f"{each.sha256}.dcm" for each in (first_object, second_object)}
    name = f"{first_object.sha256}.dcm"
    assert spooled(first)[name].samefile(spooled(second)[name])
    assert not spooled(second)[name].samefile(storage.spool.path(first_object.sha256))
    assert first.verification is not None
    assert second.verification is not None
    assert second.verification.objects == 2
    # The object of the first night is counted once.
    assert second.verification.copied < second.verification.size
    shutil.rmtree(first.folder)
    storage.store.close()
    assert restore(storage.settings, second.folder, NIGHT + 2 * DAY).missing == ()


def test_settings_are_saved_without_the_database_s_password(
    sqlite_storage: Storage, tmp_path: Path
) -> None:
    settings = sqlite_storage.settings
    (tmp_path / "backups").mkdir()
    settings.backup = BackupSettings(folder=tmp_path / "backups")
    saved = save(sqlite_storage)
    document = json.loads((saved.folder / "settings.json").read_text())
    assert Settings(**document).store.spool == settings.store.spool
    settings.store.url = "postgresql+psycopg://qc:SECRET@db/qc"
    series._write_settings(settings, tmp_path)
    assert "SECRET" not in (tmp_path / "settings.json").read_text()


def test_a_change_on_the_backup_s_disk_is_reported_and_the_file_copied_anew(
    storage: Storage, folder: Path
) -> None:
    facts = storage.receive()
    first = save(storage)
    saved_file = spooled(first)[f"{facts.sha256}.dcm"]
    content = bytearray(saved_file.read_bytes())
    content[-1] ^= 1
    saved_file.write_bytes(content)
    assert "is not what was saved" in (series.verify(first.folder, NIGHT).fault or "")
    # A bad backup lends nothing to the next one.
    second = save(storage, NIGHT + DAY)
    assert second.is_good
    assert not spooled(second)[f"{facts.sha256}.dcm"].samefile(saved_file)


def test_within_a_week_every_linked_file_is_read_again(storage: Storage, folder: Path) -> None:
    storage.settings.backup.keep_daily = 10
    facts = storage.receive()
    name = f"{facts.sha256}.dcm"
    first = save(storage)
    content = bytearray(spooled(first)[name].read_bytes())
    content[-1] ^= 1
    spooled(first)[name].write_bytes(content)
    nights = [save(storage, NIGHT + DAY * number) for number in range(1, 8)]
    bad = [each for each in nights if spooled(each)[name].samefile(spooled(first)[name])]
    assert len(bad) < 7
    assert spooled(nights[-1])[name].read_bytes() == storage.spool.path(facts.sha256).read_bytes()


def test_old_backups_go_only_once_a_good_one_is_there(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.receive()
    saved = [save(storage, NIGHT + DAY * number) for number in range(3)]
    names = [each.folder.name for each in list_backups(folder)]
    assert names == [each.folder.name for each in saved[:0:-1]]
    with monkeypatch.context() as patch:
        patch.setattr(series, "sha256_of", lambda _path: "0" * 64)
        with pytest.raises(QCError, match="is not what was saved"):
            save(storage, NIGHT + 3 * DAY)
    listed = list_backups(folder)
    assert [each.is_good for each in listed] == [False, True, True]
    assert not list(folder.glob(".removed-*"))


def test_what_a_killed_process_left_goes_and_a_failed_one_leaves_nothing(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "backup-20261101T020000Z" / "spool").mkdir(parents=True)
    (folder / ".removed-backup-20261001T020000Z").mkdir()
    (folder / "somebody-s-own").mkdir()
    facts = storage.receive()
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        # The package exports the function under the module's name.
        patch.setattr(sys.modules["qc_daemon.backup.save"], "_copy", full)

        with pytest.raises(QCError, match="no space left"):
            save(storage)
    assert sorted(each.name for each in folder.iterdir()) == [".lock", "somebody-s-own"]
    saved = save(storage)
    assert set(spooled(saved)) == {f"{facts.sha256}.dcm"}


def test_one_process_at_a_time(storage: Storage, folder: Path) -> None:
    with series._exclusive(folder), pytest.raises(QCError, match="another process"):
        save(storage)
    assert list_backups(folder) == []


def test_the_commands_list_make_and_read_back(
    sqlite_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, spool = sqlite_storage.settings.store.url, sqlite_storage.settings.store.spool
    (tmp_path / "backups").mkdir()
    config = tmp_path / "qc-daemon.toml"
    config.write_text(f'[store]\nurl = "{url}"\nspool = "{spool}"\n[backup]\nfolder = "backups"\n')
    monkeypatch.setenv("QC_DAEMON_CONFIG", str(config))
    facts = sqlite_storage.receive()

    def run(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, ["backup", *arguments])
        assert result.exit_code == status, result.output
        return result.output

    assert "written and read back, the database and 1 received objects" in run("create")
    [row] = [json.loads(line) for line in run("list", "--format", "json").splitlines()]
    assert (row["state"], row["objects"], row["problem"]) == ("good", 1, None)
    run("verify", row["name"])
    assert "there is no backup" in str(
        CliRunner().invoke(app, ["backup", "verify", "backup-x"]).exception
    )
    path = tmp_path / "backups" / row["name"] / "spool" / facts.sha256[:2] / f"{facts.sha256}.dcm"
    path.unlink()
    [row] = [json.loads(line) for line in run("verify", "--format", "json", status=1).splitlines()]
    assert row["state"] == "damaged"
    assert "cannot be read" in row["problem"]
    log = chain_folder(sqlite_storage.settings)
    assert any(b'"backup"' in path.read_bytes() for path in log.rglob("*") if path.is_file())


def test_a_folder_that_is_not_there_is_one_line(sqlite_storage: Storage, tmp_path: Path) -> None:
    sqlite_storage.settings.backup = BackupSettings(folder=tmp_path / "not-mounted")
    for call in (lambda: save(sqlite_storage), lambda: list_backups(tmp_path / "not-mounted")):
        with pytest.raises(QCError, match=r"no such file or directory \(backup.folder\)"):
            call()


def test_no_file_of_a_backup_is_open_to_others(storage: Storage, folder: Path) -> None:
    storage.receive()
    old = os.umask(0o022)
    try:
        saved = save(storage)
    finally:
        os.umask(old)
    assert not [each for each in saved.folder.rglob("*") if each.stat().st_mode & 0o077]
    assert read_manifest(saved.folder).files


def made(day: date, *, good: bool = True, hour: int = 2) -> SavedBackup:
    begun = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    fault = None if good else "is not what was saved"
    verification = Verification("", begun.isoformat(), "1", "0001", 1, 1, 1, 0, 0, fault)
    return SavedBackup(Path(f"/b/{begun:%Y%m%dT%H%M%SZ}"), begun, verification)


def test_a_year_of_nights_leaves_days_weeks_and_months() -> None:
    limits = BackupSettings(folder=Path("/b"))
    present: list[SavedBackup] = []
    for number in range(400):
        present.append(made(date(2025, 10, 1) + timedelta(days=number)))
        keep = retention(present, limits, BERLIN)
        present = [each for each in present if each in keep]
    dates = sorted((each.begun.date() for each in present), reverse=True)
    newest = date(2025, 10, 1) + timedelta(days=399)
    assert dates[:7] == [newest - timedelta(days=number) for number in range(7)]
    # The last days of weeks and months that are over.
    assert {date(2026, 10, 25), date(2026, 10, 18)} <= set(dates)
    assert {date(2026, number, 31) for number in (8, 10)} | {date(2026, 9, 30)} <= set(dates)
    assert len(dates) <= 7 + 4 + 6


@given(
    nights=st.lists(st.tuples(st.integers(0, 800), st.booleans()), min_size=1, max_size=60),
    daily=st.integers(1, 9),
    weekly=st.integers(0, 9),
    monthly=st.integers(0, 9),
)
def test_what_stays(nights: list[tuple[int, bool]], daily: int, weekly: int, monthly: int) -> None:
    limits = BackupSettings(keep_daily=daily, keep_weekly=weekly, keep_monthly=monthly)
    backups = [
        made(date(2025, 1, 1) + timedelta(days=number), good=good)
        for number, good in dict(nights).items()
    ]
    keep = retention(backups, limits, BERLIN)
    good = sorted((each for each in backups if each.is_good), key=lambda each: each.begun)[::-1]
    assert set(good[:daily]) <= keep
    assert len([each for each in keep if each.is_good]) <= daily + weekly + monthly
    if not good:
        assert keep == set(backups)
    # Nothing that a larger limit keeps is lost by asking twice.
    assert retention(list(keep), limits, BERLIN) >= {each for each in keep if each.is_good}
    for older, newer in pairwise(good[::-1]):
        assert older.begun < newer.begun
