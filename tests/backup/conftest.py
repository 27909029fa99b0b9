"""A spool and a database of each kind, with received objects in them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.receive import Spool
from qc_daemon.records import schema
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.retain.conftest import Yard


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'qc.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def yard(tmp_path: Path, url: str) -> Iterator[Yard]:
    made = new_yard(tmp_path, url)
    yield made
    made.store.close()


@pytest.fixture
def sqlite_yard(tmp_path: Path) -> Iterator[Yard]:
    made = new_yard(tmp_path, f"sqlite:///{tmp_path / 'qc.db'}")
    yield made
    made.store.close()


@pytest.fixture
def postgres_yard(tmp_path: Path, postgres_url: str) -> Iterator[Yard]:
    made = new_yard(tmp_path, postgres_url)
    yield made
    made.store.close()


def new_yard(folder: Path, url: str) -> Yard:
    settings = Settings(store={"url": url, "spool": folder / "spool"})
    schema.upgrade(url)
    spool = Spool(settings.store.spool)
    spool.prepare()
    return Yard(settings, Store(url), spool)
