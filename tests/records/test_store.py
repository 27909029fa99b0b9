"""One database, opened per process, handing out transactions."""

import multiprocessing
import pickle
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import StatementError

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.records import schema
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.records.tables import BundleRow

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def names(store: Store) -> list[str]:
    with store.read() as session:
        return [bundle.name for bundle in bundles.list_bundles(session)]


def test_an_error_leaves_nothing_behind(store: Store) -> None:
    def fail() -> None:
        with store.begin() as session:
            bundles.activate(session, "b", "/b", "m", NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(store) == []


def test_a_reading_session_cannot_write_and_the_next_writer_can(store: Store) -> None:
    with pytest.raises(QCError) as caught, store.read() as session:
        bundles.activate(session, "b", "/b", "m", NOW)
    assert caught.value.code is ErrorCode.STORAGE
    with store.begin() as session:
        bundles.activate(session, "b", "/b", "m", NOW)
    assert names(store) == ["b"]


def test_a_reader_sees_one_snapshot_and_waits_for_no_writer(store: Store) -> None:
    with store.read() as reader:
        assert bundles.active(reader) is None
        with store.begin() as writer:
            bundles.activate(writer, "b", "/b", "m", NOW)
            assert bundles.active(reader) is None
        assert bundles.active(reader) is None
    assert names(store) == ["b"]


def test_times_are_read_back_in_utc(store: Store) -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    with store.begin() as session:
        bundles.activate(session, "b", "/b", "m", NOW.astimezone(east))
    with store.read() as session:
        stored = session.execute(select(BundleRow.activated_at)).scalar_one()
    assert stored == NOW
    assert stored.tzinfo is UTC
    with pytest.raises(StatementError, match="time zone"), store.begin() as session:
        bundles.activate(session, "b", "/b", "m", NOW.replace(tzinfo=None))


def test_sqlite_is_durable_and_keeps_its_references(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'qc.db'}")
    with store.begin() as session:
        pragma = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragma == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_sqlite_takes_the_write_lock_at_once(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'qc.db'}")
    with store.begin():
        other = sqlite3.connect(tmp_path / "qc.db", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nonexistent-folder/qc.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://qc:sekret@127.0.0.1/qc",
        "postgresql+psycopg://qc:sekret@127.0.0.1:1/qc?password=sekret",
        "no url, password sekret",
        "",
    ],
)
def test_unusable_database_is_one_line_without_a_password(url: str) -> None:
    with pytest.raises(QCError) as caught, Store(url).begin():
        pass
    assert caught.value.code is ErrorCode.STORAGE
    assert caught.value.failure_class is FailureClass.ALARM
    assert "\n" not in caught.value.message
    assert "sekret" not in caught.value.message


def test_repr_of_a_store_has_no_password() -> None:
    representation = repr(Store("postgresql+psycopg://qc:sekret@127.0.0.1/qc?password=sekret"))
    assert "sekret" not in representation
    assert "127.0.0.1/qc" in representation


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "qc.db").write_bytes(b"not a database at all" * 100)
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    with pytest.raises(QCError, match="not a database"), Store(url).begin():
        pass
    with pytest.raises(QCError, match="not a database"):
        schema.check(url)


def test_an_unmigrated_database_is_storage_too(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()
    with pytest.raises(QCError, match="active_bundle"), Store(url).read() as session:
        bundles.active(session)


def test_a_closed_store_opens_again(store: Store) -> None:
    store.close()
    assert names(store) == []
    store.close()
    store.close()


def _activate(store: Store, name: str) -> None:
    for _ in range(5):
        with store.begin() as session:
            bundles.activate(session, name, "/b", name, NOW)
    store.close()


@pytest.mark.parametrize(("method", "count"), [("fork", 2), ("spawn", 1)])
def test_a_store_can_be_pickled_into_another_process(store: Store, method: str, count: int) -> None:
    with store.begin() as session:
        bundles.activate(session, "parent", "/b", "parent", NOW)
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_activate, args=(store, f"child-{n}")) for n in range(count)]
    for child in children:
        child.start()
    _activate(pickle.loads(pickle.dumps(store)), "again")
    for child in children:
        child.join()
        assert child.exitcode == 0
    written = [f"child-{n}" for n in range(count)]
    assert sorted(names(store)) == ["again", *written, "parent"]
