"""The models of a process are loaded as the settings say."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.finding import BundleId
from qc_daemon.operations.bundles import seed_bundle
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.score.models import JudgeCache
from qc_daemon.score.worker import ScoreHandler
from qc_daemon.settings import ScoreSettings, load
from tests.support.databases import migrate


def test_the_worker_s_judge_averages_as_many_augmented_copies_as_the_settings_say(
    tmp_path: Path,
) -> None:
    for setting, copies in (("", 0), ("[score]\naugment = 3\n", 3)):
        folder = tmp_path / str(copies)
        folder.mkdir()
        config = folder / "qc.toml"
        config.write_text(setting)
        settings = load(config)
        settings.store.spool.mkdir(parents=True)
        migrate(settings.store.url)
        store = Store(settings.store.url)
        seed_bundle(settings, store)
        handler = ScoreHandler(store, settings, DecodeProcess())
        assert handler.models.judge(None).augment == copies


def test_of_many_bundles_the_two_used_last_stay_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'qc.db'}")
    migrate(store.url)
    opened: list[str] = []
    named = [BundleId(name, "1", name * 64) for name in "abc"]
    for minute, each in enumerate(named):
        with store.begin() as session:
            now = datetime(2026, 1, 1, 8, minute, tzinfo=UTC)
            bundles.activate(session, each.name, each.name, each.model_id, now)

    def open_bundle(path: str) -> SimpleNamespace:
        opened.append(path)
        return SimpleNamespace(id=next(each for each in named if each.name == path))

    monkeypatch.setattr("qc_daemon.score.models.Bundle.open", open_bundle)
    monkeypatch.setattr("qc_daemon.score.models.Judge.open", lambda bundle, *_: bundle)
    models = JudgeCache(store, ScoreSettings(device="cpu"))
    for name in "ababcbca":
        assert models.judge(name * 64).id.name == name
    assert models.judge(None).id.name == "c"
    assert opened == ["a", "b", "c", "a"]
    store.close()
