"""A store with one exam and its deliver jobs, and a PACS on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.support.databases import migrate
from tests.support.delivery import Delivery
from tests.support.pacs import Pacs


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    peer = Pacs()
    yield peer
    peer.stop()


@pytest.fixture
def delivery(tmp_path: Path, pacs: Pacs) -> Iterator[Delivery]:
    spool = tmp_path / "spool"
    (spool / "incoming").mkdir(parents=True)
    (tmp_path / "share").mkdir()
    settings = Settings(
        store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": spool},
        jobs={"backoff_seconds": 30, "poll_seconds": 0.05},
        destination=[
            {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "timeout": 20},
            {"name": "share", "kind": "folder", "folder": tmp_path / "share"},
        ],
    )
    migrate(settings.store.url)
    store = Store(settings.store.url)
    yield Delivery(settings, store, spool)
    store.close()
