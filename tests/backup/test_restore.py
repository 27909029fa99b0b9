"""A backup is put back whole or not at all, and nothing that was there is deleted."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.backup import Restoration, restore, save
from qc_daemon.cli.app import app
from qc_daemon.operations.database import downgrade
from qc_daemon.records import integrity, schema
from qc_daemon.records.tables import Base
from qc_daemon.spool import service_lock
from tests.backup.conftest import new_storage
from tests.support.dicom_objects import ultrasound
from tests.support.storage import Storage

NOW = datetime(2026, 11, 29, 1, 2, 3, tzinfo=UTC)
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM revision").fetchall()
print("open", flush=True)
sys.stdin.read()
"""


def backup(storage: Storage, name: str = "backup", *, link: bool = False) -> Path:
    folder = storage.spool.root.parent / name
    save(storage.settings, folder, NOW, link=link)
    return folder


def put_back(storage: Storage, source: Path) -> Restoration:
    # What has the database open keeps a restore from it, this process included.
    storage.store.close()
    return restore(storage.settings, source, NOW)


def command(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def uids(storage: Storage) -> set[str]:
    with storage.store.read() as session:
        return set(session.scalars(text("SELECT sop_instance_uid FROM instance")))


def database(storage: Storage) -> Path:
    file = schema.file_of(storage.settings.store.url)
    assert file is not None
    return file


@pytest.mark.parametrize("link", [False, True])
def test_what_was_saved_comes_back_and_what_came_later_is_named(
    storage: Storage, link: bool
) -> None:
    facts = storage.receive()
    folder = backup(storage, link=link)
    later = storage.receive()
    restoration = put_back(storage, folder)
    assert uids(storage) == {facts.sop_instance_uid}
    assert [(each.sha256, each.sop_instance_uid) for each in restoration.later] == [
        (later.sha256, later.sop_instance_uid)
    ]
    assert (restoration.files, restoration.replaced, restoration.missing) == (0, 0, ())
    # The numbers go on where the restored rows end.
    assert storage.receive(ultrasound()).revision_id > facts.revision_id


def test_a_lost_spool_comes_back(storage: Storage) -> None:
    originals = [storage.receive() for _ in range(3)]
    folder = backup(storage)
    shutil.rmtree(storage.spool.root)
    restoration = put_back(storage, folder)
    assert (restoration.files, restoration.missing, restoration.later) == (3, (), ())
    assert all((storage.spool.root / each.path).is_file() for each in originals)


def test_a_damaged_file_is_replaced_and_moved_to_damaged(storage: Storage) -> None:
    facts = storage.receive()
    folder = backup(storage)
    path = storage.spool.root / facts.path
    path.write_bytes(b"other" + path.read_bytes()[5:])
    restoration = put_back(storage, folder)
    assert (restoration.files, restoration.replaced) == (1, 1)
    assert (folder / "spool" / facts.path).read_bytes() == path.read_bytes()
    (damaged_file,) = (storage.spool.root / "damaged").iterdir()
    assert damaged_file.read_bytes().startswith(b"other")


def test_a_backup_names_what_it_could_not_save(storage: Storage) -> None:
    missing, damaged = storage.receive(), storage.receive()
    (storage.spool.root / missing.path).unlink()
    (storage.spool.root / damaged.path).write_bytes(b"x" * damaged.size)
    manifest = save(storage.settings, storage.spool.root.parent / "backup", NOW)
    assert (manifest.missing, manifest.damaged) == ([missing.path], [damaged.path])
    restoration = put_back(storage, storage.spool.root.parent / "backup")
    assert restoration.missing == (missing.path,)


def test_the_write_ahead_log_of_a_killed_service_is_not_replayed(sqlite_storage: Storage) -> None:
    """The obvious restore, a copy over the database, loses to the write-ahead log beside it."""
    storage = sqlite_storage
    file = database(storage)
    facts = storage.receive()
    folder = backup(storage)
    later = [storage.receive() for _ in range(40)]
    # As a kill leaves them: whoever wrote has not closed.
    left = file.parent / "left"
    left.mkdir()
    for each in schema.files_of(file):
        shutil.copy(each, left)
    storage.store.close()
    for each in left.iterdir():
        shutil.copy(each, file.parent)
    assert len(schema.files_of(file)) == 3
    restoration = put_back(storage, folder)
    assert schema.files_of(file) == [file]
    assert uids(storage) == {facts.sop_instance_uid}
    assert restoration.old_database is not None
    # The old one is whole in its folder: with its log it has every row.
    with closing(sqlite3.connect(Path(restoration.old_database) / file.name)) as old:
        assert old.execute("SELECT count(*) FROM instance").fetchone() == (1 + len(later),)


def test_the_old_tables_move_to_a_schema(postgres_storage: Storage) -> None:
    storage = postgres_storage
    url = storage.settings.store.url
    storage.receive()
    folder = backup(storage)
    storage.receive()
    restoration = put_back(storage, folder)
    engine = create_engine(url)
    with engine.connect() as connection:
        counted = connection.execute(
            text(f'SELECT count(*) FROM "{restoration.old_database}".instance')
        )
        assert counted.scalar_one() == 2
    engine.dispose()


def test_a_damaged_backup_changes_nothing(storage: Storage) -> None:
    facts = storage.receive()
    folder = backup(storage)
    later = storage.receive()
    table = "qc.db" if storage.settings.store.url.startswith("sqlite") else "tables/instance.copy"
    for name in ("manifest.json", table, f"spool/{facts.path}"):
        path = folder / name
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 0xFF])
        for harm in (None, content[:middle], content[:middle] + flipped + content[middle + 1 :]):
            path.unlink()
            if harm is not None:
                path.write_bytes(harm)
            with pytest.raises(QCError) as caught:
                put_back(storage, folder)
            assert caught.value.code is ErrorCode.STORAGE
            assert uids(storage) == {facts.sop_instance_uid, later.sop_instance_uid}
            path.write_bytes(content)
    put_back(storage, folder)
    assert uids(storage) == {facts.sop_instance_uid}


def _of_later_format(manifest: dict[str, object]) -> None:
    manifest["format"] = 2


def _of_later_schema(manifest: dict[str, object]) -> None:
    manifest["schema_revision"] = "9999"


def _reaching_out(manifest: dict[str, object]) -> None:
    manifest["files"] = {"../../outside": {"size": 1, "sha256": "0" * 64}}


def _of_another_kind(manifest: dict[str, object]) -> None:
    manifest["database"] = "postgresql" if manifest["database"] == "sqlite" else "sqlite"


def test_a_backup_that_does_not_fit_is_refused(storage: Storage) -> None:
    storage.receive()
    folder = backup(storage)
    content = (folder / "manifest.json").read_text()
    changes: list[Callable[[dict[str, object]], None]] = [
        _of_later_format,
        _of_later_schema,
        _reaching_out,
        _of_another_kind,
    ]
    for change in changes:
        manifest = json.loads(content)
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(QCError, match="backup"):
            put_back(storage, folder)


def test_an_older_version_s_backup_comes_back_at_its_revision(url: str, tmp_path: Path) -> None:
    storage = new_storage(tmp_path, url)
    storage.store.close()
    schema.downgrade(url, "0003")
    folder = backup(storage)
    schema.upgrade(url)
    assert put_back(storage, folder).schema_revision == "0003"
    assert schema.revision_of(url) == "0003"
    schema.upgrade(url)
    assert schema.check(url) is None


def test_a_running_service_is_not_restored_over(storage: Storage) -> None:
    folder = backup(storage)
    with (
        service_lock.shared(storage.spool.root),
        pytest.raises(QCError, match="service is running"),
    ):
        put_back(storage, folder)
    with (
        service_lock.exclusive(storage.spool.root),
        pytest.raises(QCError, match="being restored"),
        service_lock.shared(storage.spool.root),
    ):
        pass


def test_a_database_that_another_program_has_open_is_not_replaced(storage: Storage) -> None:
    """A service with another spool, an older one that knows no lock, a person's SQL shell."""
    folder = backup(storage)
    url = storage.settings.store.url
    if url.startswith("sqlite"):
        with subprocess.Popen(
            [sys.executable, "-P", "-c", HOLDER, database(storage)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(QCError, match="in use"):
                put_back(storage, folder)
    else:
        engine = create_engine(url)
        with engine.connect(), pytest.raises(QCError, match="in use by 1 other"):
            put_back(storage, folder)
        engine.dispose()
    put_back(storage, folder)


def test_a_copy_alone_is_restored_too(sqlite_storage: Storage) -> None:
    storage = sqlite_storage
    facts = storage.receive()
    copy = storage.spool.root.parent / "copy.db"
    schema.backup(storage.settings.store.url, copy)
    later = storage.receive()
    assert [each.sha256 for each in put_back(storage, copy).later] == [later.sha256]
    assert uids(storage) == {facts.sop_instance_uid}


def test_no_restore_of_what_is_no_backup(sqlite_storage: Storage, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE instance (id)")
    text_file = tmp_path / "notes.txt"
    text_file.write_text("no database")
    for source in (other, text_file, tmp_path / "none", tmp_path):
        with pytest.raises(QCError):
            put_back(sqlite_storage, source)
    # A live database is no copy of itself.
    sqlite_storage.receive()
    with pytest.raises(QCError, match="in use, not a copy"):
        restore(sqlite_storage.settings, database(sqlite_storage), NOW)


def test_a_backup_needs_a_folder_of_its_own(storage: Storage) -> None:
    with pytest.raises(QCError, match="not empty"):
        backup(storage, "spool")


def test_the_commands_save_restore_and_take_in_again(
    sqlite_storage: Storage, tmp_path: Path
) -> None:
    storage = sqlite_storage
    config = tmp_path / "qc.toml"
    config.write_text('[store]\nurl = "sqlite:///qc.db"\nspool = "spool"\n')
    facts = storage.receive()
    backup = command("db", "backup", tmp_path / "saved", "--with-spool", "--config", config)
    assert "1 received object " in backup
    later = storage.receive()
    storage.store.close()
    result = command("db", "restore", tmp_path / "saved", "--config", config)
    assert "1 object came after the backup" in result
    assert f"{later.sha256} {later.sop_instance_uid}" in result
    assert "1 object is taken in" in command("spool", "release", "--all", "--config", config)
    assert uids(storage) == {facts.sop_instance_uid, later.sop_instance_uid}
    storage.store.close()
    result = command("db", "restore", tmp_path / "saved", "--release", "--config", config)
    assert "1 of them is taken in again" in result
    assert uids(storage) == {facts.sop_instance_uid, later.sop_instance_uid}
    assert "sound" in command("db", "check", "--config", config)


def test_a_role_without_the_right_to_create_a_schema_gets_the_grant(
    postgres_url: str, tmp_path: Path
) -> None:
    owner = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        connection.execute(text("CREATE ROLE weak LOGIN"))
        connection.execute(text("GRANT ALL ON SCHEMA public TO weak"))
    owner.dispose()
    # By its own tables: it has no right to copy a database that has some.
    schema.upgrade(postgres_url.replace("qc@", "weak@"))
    try:
        storage = new_storage(tmp_path, postgres_url.replace("qc@", "weak@"))
        facts = storage.receive()
        folder = backup(storage)
        with pytest.raises(QCError, match="GRANT CREATE"):
            put_back(storage, folder)
        assert uids(storage) == {facts.sop_instance_uid}
        storage.store.close()
    finally:
        with owner.connect() as connection:
            connection.execute(text("DROP OWNED BY weak"))
            connection.execute(text("DROP ROLE weak"))
        owner.dispose()


def test_a_downgrade_copies_first_or_needs_confirmation(storage: Storage, tmp_path: Path) -> None:
    url = storage.settings.store.url
    facts = storage.receive()
    storage.store.close()
    is_sqlite = schema.file_of(url) is not None
    if not is_sqlite:
        with pytest.raises(UsageError, match="--yes"):
            list(downgrade(storage.settings, "-1", yes=False, clock=lambda: NOW))
    with service_lock.shared(storage.spool.root), pytest.raises(QCError, match="is running"):
        list(downgrade(storage.settings, "-1", yes=True, clock=lambda: NOW))
    before = schema.revision_of(url)
    output = "\n".join(downgrade(storage.settings, "-1", yes=not is_sqlite, clock=lambda: NOW))
    after = schema.revision_of(url)
    assert before != after
    # By what they brought, not by a number alone.
    assert f"was at {before} (" in output
    assert f"is at {after} (" in output
    if is_sqlite:
        copy = tmp_path / "qc.db.before_downgrade_20261129t010203"
        assert str(copy) in output
        assert put_back(storage, copy).schema_revision == before
        assert uids(storage) == {facts.sop_instance_uid}


def test_a_database_is_checked_for_what_its_rows_refer_to(postgres_storage: Storage) -> None:
    """As a restore with triggers off leaves it: PostgreSQL does not look again by itself."""
    url = postgres_storage.settings.store.url
    postgres_storage.receive()
    assert integrity.examine(url, full=True).is_sound
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        connection.execute(text("DELETE FROM instance"))
    engine.dispose()
    integrity_result = integrity.examine(url, full=True)
    assert integrity_result.faults == (
        "1 row of revision refers to rows of instance that are not there",
    )


def test_no_migration_takes_a_table_away(sqlite_storage: Storage) -> None:
    """A backup saves the tables that this version knows: they must be all there ever were."""
    url = sqlite_storage.settings.store.url
    sqlite_storage.store.close()
    while True:
        engine = create_engine(url)
        tables = set(inspect(engine).get_table_names()) - {"alembic_version"}
        engine.dispose()
        assert tables <= set(Base.metadata.tables)
        if not tables:
            return
        schema.downgrade(url, "-1")
