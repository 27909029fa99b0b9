"""The schema goes up and down on both databases and is what the models say."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from detector.errors import ErrorCode, QCError
from qc_daemon.records import schema
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Base

TABLES = set(Base.metadata.tables)


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_up_down_and_up_again(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "qc-daemon db upgrade" in (schema.check(url) or "")
    schema.upgrade(url)
    assert tables(url) == TABLES
    assert schema.check(url) is None
    schema.upgrade(url)
    schema.downgrade(url, "base")
    assert tables(url) == set()
    assert "older schema" in (schema.check(url) or "")
    schema.upgrade(url)
    assert tables(url) == TABLES


def test_checking_makes_no_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'qc.db'}"
    assert "does not exist" in (schema.check(url) or "")
    assert not (tmp_path / "new").exists()
    schema.upgrade(url)
    assert schema.check(url) is None


def test_the_migrated_schema_is_the_models(url: str) -> None:
    schema.upgrade(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_newer_database_is_refused(url: str) -> None:
    schema.upgrade(url)
    with Store(url).begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "another version" in (schema.check(url) or "")
    with pytest.raises(QCError) as caught:
        schema.upgrade(url)
    assert caught.value.code is ErrorCode.STORAGE
    assert "\n" not in caught.value.message


def test_an_unknown_revision_is_refused(url: str) -> None:
    schema.upgrade(url)
    with pytest.raises(QCError, match="cannot be migrated"):
        schema.downgrade(url, "nonsense")
    assert tables(url) == TABLES


def test_a_failed_upgrade_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many migrations are one transaction: else a second process could come in between."""

    def fails(*_: object) -> None:
        raise RuntimeError("the last migration fails")

    monkeypatch.setattr("alembic.op.add_column", fails)
    with pytest.raises(RuntimeError):
        schema.upgrade(url)
    assert tables(url) == set()
    monkeypatch.undo()
    schema.upgrade(url)
    assert tables(url) == TABLES


def test_several_processes_may_upgrade_at_once(url: str) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=schema.upgrade, args=(url,)) for _ in range(3)]
    for child in children:
        child.start()
    schema.upgrade(url)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert schema.check(url) is None


@pytest.mark.parametrize(
    "change",
    [
        "state = 'asleep'",
        "kind = 'audit'",
        "state = 'leased'",
        "lease_token = 'x'",
        "state = 'leased', lease_token = 'x', owner = 'y'",
    ],
)
def test_the_database_itself_refuses_a_job_that_cannot_be(records, change: str) -> None:
    records.image()
    with pytest.raises(IntegrityError), records.store.begin() as session:
        session.execute(text(f"UPDATE job SET {change}"))


@pytest.mark.parametrize(
    "change",
    ["exam SET state = 'ajar'", "revision SET state = 'lost'", "revision SET exam_id = 99"],
)
def test_the_database_itself_refuses_rows_that_cannot_be(records, change: str) -> None:
    records.image()
    with pytest.raises(IntegrityError), records.store.begin() as session:
        session.execute(text(f"UPDATE {change}"))


def test_a_backup_is_whole_while_the_database_is_in_use(tmp_path: Path, records) -> None:
    url, target = records.store.url, tmp_path / "copy.db"
    records.image()
    if not url.startswith("sqlite"):
        with pytest.raises(QCError, match="pg_dump"):
            schema.backup(url, target)
        assert not target.exists()
        return
    with records.store.begin() as session:
        session.execute(text("DELETE FROM job"))
        schema.backup(url, target)
    with sqlite3.connect(target) as copy:
        assert copy.execute("SELECT count(*) FROM job").fetchone() == (1,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert schema.check(f"sqlite:///{target}") is None
    with pytest.raises(QCError, match="exists already"):
        schema.backup(url, target)
    with pytest.raises(QCError, match="no backup written"):
        schema.backup(url, tmp_path / "no" / "such" / "folder.db")


def test_no_backup_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(QCError, match="does not exist"):
        schema.backup(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "copy.db")
