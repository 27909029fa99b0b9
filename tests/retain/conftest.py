"""A spool and a database with received objects in them, and a PACS on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.receive import Spool
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.support.databases import migrate
from tests.support.pacs import Pacs
from tests.support.storage import Storage


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    yield pacs
    pacs.stop()


@pytest.fixture
def storage(tmp_path: Path, pacs: Pacs) -> Iterator[Storage]:
    settings = Settings(
        store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": tmp_path / "spool"},
        destination=[
            {
                "name": "pacs",
                "host": "127.0.0.1",
                "port": pacs.port,
                "timeout": 20,
                "objects": ["source"],
            }
        ],
    )
    migrate(settings.store.url)
    spool = Spool(settings.store.spool)
    spool.prepare()
    store = Store(settings.store.url)
    yield Storage(settings, store, spool)
    store.close()
