"""Databases that tests share: a throwaway PostgreSQL, and an empty store of each kind."""

import atexit
import functools
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from qc_daemon.records import schema
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Base
from qc_daemon.spool import private_files
from tests.support.postgres import make_postgres
from tests.support.records import Records


@functools.cache
def _migrated_sqlite() -> Path:
    """A migrated, empty SQLite file, made once in each process of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="qc-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    schema.upgrade(f"sqlite:///{folder / 'qc.db'}")
    return folder / "qc.db"


def migrate(url: str) -> None:
    """The database with its tables; one that is empty is replaced by a copy, which is quicker than
    to run every migration. What the migrations do is the matter of tests/records."""
    file = schema.file_of(url)
    if file is None:
        _migrate_postgres(url)
    elif file.exists():
        schema.upgrade(url)
    else:
        private_files.make_folder(file.parent)
        shutil.copy(_migrated_sqlite(), file)


_TEMPLATE = "qc_migrated"


def _migrate_postgres(url: str) -> None:
    server, _, name = url.rpartition("/")
    if not _is_empty(url):
        schema.upgrade(url)
        return
    with psycopg.connect(_plain(f"{server}/postgres"), autocommit=True) as connection:
        templates = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(templates, [_TEMPLATE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {_TEMPLATE}")
            schema.upgrade(f"{server}/{_TEMPLATE}")
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE {_TEMPLATE}')


def _is_empty(url: str) -> bool:
    with psycopg.connect(_plain(url)) as connection:
        relations = "SELECT 1 FROM pg_tables WHERE schemaname = 'public'"
        return connection.execute(relations).fetchone() is None


def _plain(url: str) -> str:
    """The URL as psycopg reads it."""
    return url.replace("+psycopg", "")


def _empty_tables() -> str:
    """SQL that deletes every row and begins every number again: for the few rows of a test it is
    quicker than TRUNCATE, which makes a new file for each table and index."""
    deletions = " ".join(f"DELETE FROM {name};" for name in Base.metadata.tables)
    return f"""DO $$ DECLARE each regclass; BEGIN
        -- Neither foreign keys nor triggers, which keep histories from being changed.
        SET LOCAL session_replication_role = replica;
        {deletions}
        FOR each IN SELECT format('%I.%I', schemaname, sequencename)::regclass FROM pg_sequences
            WHERE last_value IS NOT NULL
        LOOP PERFORM setval(each, 1, false); END LOOP;
    END $$"""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a throwaway PostgreSQL's superuser, no database."""
    server = make_postgres()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of the test's own."""
    name = f"qc_{uuid.uuid4().hex}"
    with psycopg.connect(_plain(f"{postgres_server}/postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield f"{postgres_server}/{name}"
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'qc.db'}"
    postgres: str = request.getfixturevalue("postgres_url")
    return postgres


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    """One migrated PostgreSQL database; tests that want it unmigrated take `url`."""
    with psycopg.connect(_plain(f"{postgres_server}/postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE records")
        migrate(f"{postgres_server}/records")
        yield f"{postgres_server}/records"
        connection.execute("DROP DATABASE records WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_sqlite() -> Path:
    """A migrated, empty SQLite file to copy."""
    return _migrated_sqlite()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A migrated, empty store."""
    if request.param == "sqlite":
        store = Store(f"sqlite:///{shutil.copy(_migrated_sqlite(), tmp_path / 'qc.db')}")
    else:
        store = Store(request.getfixturevalue("migrated_postgres"))
        with store.begin() as session:
            session.execute(text(_empty_tables()))
    yield store
    store.close()


@pytest.fixture
def records(store: Store) -> Records:
    return Records(store)
