"""A spool and a database of each kind, with received objects in them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.receive import Spool
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.support.databases import migrate
from tests.support.storage import Storage


@pytest.fixture
def storage(tmp_path: Path, url: str) -> Iterator[Storage]:
    storage = new_storage(tmp_path, url)
    yield storage
    storage.store.close()


@pytest.fixture
def sqlite_storage(tmp_path: Path) -> Iterator[Storage]:
    storage = new_storage(tmp_path, f"sqlite:///{tmp_path / 'qc.db'}")
    yield storage
    storage.store.close()


@pytest.fixture
def postgres_storage(tmp_path: Path, postgres_url: str) -> Iterator[Storage]:
    storage = new_storage(tmp_path, postgres_url)
    yield storage
    storage.store.close()


def new_storage(folder: Path, url: str) -> Storage:
    settings = Settings(store={"url": url, "spool": folder / "spool"})
    migrate(url)
    spool = Spool(settings.store.spool)
    spool.prepare()
    return Storage(settings, Store(url), spool)
