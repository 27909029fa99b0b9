"""Dropping: the row first, then the file, an hour apart, never where nothing gives it back."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from detector.errors import QCError
from qc_daemon.records.tables import Exam, ExamState, JobRow, JobState, Revision, RevisionState
from qc_daemon.retain.reconcile import reconcile
from qc_daemon.retain.retention import Retention, RetentionRule, drop_due
from qc_daemon.settings import Settings, SettingsError, load
from tests.support.storage import MONDAY, Storage

RULE = RetentionRule(timedelta(days=400), ("pacs",), ("pacs",))
LATER = MONDAY + timedelta(days=401)


def finish_all(storage: Storage) -> None:
    """Everything is scored, delivered and closed."""
    with storage.store.begin() as session:
        session.execute(update(Revision).values(state=RevisionState.SCORED))
        session.execute(update(JobRow).values(state=JobState.DONE, updated_at=MONDAY))
        session.execute(update(Exam).values(state=ExamState.CLOSED))


def files(storage: Storage) -> list[Path]:
    return list(storage.spool.root.rglob("*.dcm"))


def test_a_batch_at_a_time(storage: Storage) -> None:
    for _ in range(3):
        storage.receive()
    finish_all(storage)
    assert drop_due(storage.store, storage.spool.root, RULE, MONDAY) == 0
    assert drop_due(storage.store, storage.spool.root, RULE, LATER, limit=2) == 2
    assert len(files(storage)) == 1
    assert drop_due(storage.store, storage.spool.root, RULE, LATER, limit=2) == 1
    assert files(storage) == []
    assert reconcile(storage.store, storage.spool.root, LATER).is_clean


def test_a_crash_before_the_file_is_removed_is_fixed_at_the_next_start(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.receive()
    finish_all(storage)

    def crash(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qc_daemon.retain.retention._unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            drop_due(storage.store, storage.spool.root, RULE, LATER)
    assert len(files(storage)) == 1
    assert reconcile(storage.store, storage.spool.root, LATER, fix=True).removed == 1
    assert files(storage) == []


def test_without_the_database_nothing_is_dropped(storage: Storage) -> None:
    storage.receive()
    finish_all(storage)
    database = Path(storage.settings.store.url.removeprefix("sqlite:///"))
    storage.store.close()
    database.rename(database.with_name("away"))
    database.mkdir()
    with pytest.raises(QCError):
        drop_due(storage.store, storage.spool.root, RULE, LATER)
    assert len(files(storage)) == 1


def test_every_hour_and_at_once_while_there_is_more(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qc_daemon.retain.retention.BATCH", 1)
    calls: list[int] = []
    monkeypatch.setattr(
        "qc_daemon.retain.retention.drop_due",
        lambda *_args: calls.append(1) or (len(calls) < 3),
    )
    seconds = iter([0.0, 1.0, 2.0, 3.0, 3601.0, 3602.0])
    retention = Retention(storage.store, storage.settings, lambda: LATER, lambda: next(seconds))
    for _ in range(5):
        retention.step()
    assert len(calls) == 3
    retention.step()
    assert len(calls) == 4


DICOM = {"name": "pacs", "objects": ["source"]}
FOLDER = {"name": "share", "kind": "folder", "folder": "share", "objects": ["source"]}


@pytest.mark.parametrize(
    ("days", "destinations", "expected"),
    [
        (10, [DICOM], ("pacs",)),
        (10, [DICOM, FOLDER], ("pacs", "share")),
        ("forever", [DICOM], None),
        (10, [], None),
        (10, [FOLDER], None),
        (10, [{"name": "pacs", "objects": ["sr"]}], None),
    ],
)
def test_who_must_hold_an_original(
    days: Any, destinations: list[dict[str, Any]], expected: tuple[str, ...] | None
) -> None:
    rule = RetentionRule.of(Settings(store={"keep_pixels_days": days}, destination=destinations))
    assert (rule.source_destinations if rule else None) == expected
    assert rule is None or rule.keep == timedelta(days=10)


@pytest.mark.parametrize(
    ("rule", "every", "fetchable"),
    [
        ({"to": ["share"], "calling_ae": "A"}, (), ("pacs",)),
        ({"to": ["pacs", "share"], "calling_ae": "A"}, ("pacs",), ("pacs",)),
        ({"to": ["old"], "calling_ae": "A"}, (), ("pacs", "old")),
        ({"drop": True, "station": "A"}, (), ("pacs",)),
        ({"to": ["pacs", "old"]}, ("pacs", "old"), ("pacs", "old")),
        ({"to": ["share"], "calling_ae": "A", "objects": ["sr"]}, ("pacs",), ("pacs",)),
    ],
)
def test_who_must_hold_what_rules_route(
    rule: dict[str, Any], every: tuple[str, ...], fetchable: tuple[str, ...]
) -> None:
    old = {"name": "old", "objects": []}
    retention_rule = RetentionRule.of(
        Settings(
            destination=[DICOM, FOLDER | {"objects": []}, old],
            rule=[{"name": "r", "objects": ["source"]} | rule],
        )
    )
    assert retention_rule is not None
    assert set(retention_rule.source_destinations) == set(every)
    assert set(retention_rule.fetchable) == set(fetchable)


@pytest.mark.parametrize("days", ["-1", '"never"', "1.5"])
def test_other_values_of_keep_pixels_days_are_refused(tmp_path: Path, days: str) -> None:
    config = tmp_path / "qc.toml"
    config.write_text(f"[store]\nkeep_pixels_days = {days}\n")
    with pytest.raises(SettingsError, match="keep_pixels_days"):
        load(config)
