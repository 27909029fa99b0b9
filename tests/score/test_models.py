"""The models of a process are loaded as the settings say."""

from pathlib import Path

from qc_daemon.operate import seed_bundle
from qc_daemon.records import schema
from qc_daemon.records.store import Store
from qc_daemon.score.worker import ScoreWorker
from qc_daemon.settings import load


def test_the_worker_s_judge_takes_as_many_further_looks_as_the_settings_say(
    tmp_path: Path,
) -> None:
    for setting, looks in (("", 0), ("[score]\naugment = 3\n", 3)):
        folder = tmp_path / str(looks)
        folder.mkdir()
        config = folder / "qc.toml"
        config.write_text(setting)
        settings = load(config)
        settings.store.spool.mkdir(parents=True)
        schema.upgrade(settings.store.url)
        store = Store(settings.store.url)
        seed_bundle(settings, store)
        worker = ScoreWorker(store, settings, "work:test")
        try:
            assert worker.models.judge(None).augment == looks
        finally:
            worker.close()
