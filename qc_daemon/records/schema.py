"""The schema's own life: upgrade, downgrade, check and backup."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text

from detector.codes import ErrorCode, QCError
from qc_daemon.records.store import READ_ONLY, engine, parse, shown, translated

# Any number that other users of the same PostgreSQL database are unlikely to lock.
_MIGRATION_LOCK = 0x71635F6462
# Alembic keeps the migration that runs in a global of its own.
_ONE_AT_A_TIME = threading.Lock()


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`, making the SQLite file if there is none.

    One transaction, one process at a time: others wait and then find nothing to do. Raises
    QCError STORAGE.
    """
    parsed = parse(url)
    if _file(parsed) is not None:
        _make_folder(parsed)
    with _migrating(parsed) as config:
        command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Bring the database back to `revision` ("base": no tables). Data of dropped tables is lost."""
    with _migrating(parse(url)) as config:
        command.downgrade(config, revision)


def check(url: str) -> str | None:
    """None if the schema is this version's, else one line that says what is wrong and the mend."""
    parsed = parse(url)
    file = _file(parsed)
    if file is not None and not file.exists():
        return f"the database {shown(parsed)} does not exist; run `qc-daemon db upgrade`"
    with translated(parsed), _connected(parsed, read=True) as connection, _scripts() as config:
        scripts = ScriptDirectory.from_config(config)
        current = MigrationContext.configure(connection).get_current_heads()
        if current == tuple(scripts.get_heads()):
            return None
        known = {script.revision for script in scripts.walk_revisions()}
    if set(current) <= known:
        return f"the database {shown(parsed)} has an older schema; run `qc-daemon db upgrade`"
    return (
        f"the database {shown(parsed)} has the schema of another version of qc-daemon"
        f" ({', '.join(current)}); install that version or restore a backup"
    )


def will_be_made(url: str) -> bool:
    """Whether there is no SQLite file yet, which `upgrade` makes."""
    file = _file(parse(url))
    return file is not None and not file.exists()


def backup(url: str, target: Path) -> None:
    """Copy the SQLite database to the file `target` while it is in use, whole and consistent.

    Raises QCError STORAGE: `target` exists, cannot be written, or the database is PostgreSQL's.
    """
    parsed = parse(url)
    file = _file(parsed)
    if file is None:
        raise QCError(
            ErrorCode.STORAGE, "a PostgreSQL database is backed up with pg_dump, not from here"
        )
    if not file.exists():
        raise QCError(ErrorCode.STORAGE, f"the database {shown(parsed)} does not exist")
    try:
        target.touch(exist_ok=False)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    except FileExistsError:
        raise QCError(
            ErrorCode.STORAGE, f"{target} exists already; name another file for the backup"
        ) from None
    except (OSError, sqlite3.Error) as error:
        raise QCError(ErrorCode.STORAGE, f"no backup written to {target}: {error}") from error


@contextmanager
def _migrating(url: URL) -> Iterator[Config]:
    with (
        _ONE_AT_A_TIME,
        translated(url),
        _connected(url) as connection,
        # Begun before Alembic looks, or it would commit after each migration on SQLite.
        connection.begin(),
        _scripts() as config,
    ):
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        try:
            yield config
        except (CommandError, RevisionError) as error:
            raise QCError(
                ErrorCode.STORAGE, f"the database {shown(url)} cannot be migrated: {error}"
            ) from error


@contextmanager
def _connected(url: URL, *, read: bool = False) -> Iterator[Connection]:
    made = engine(url)
    try:
        with made.execution_options(**{READ_ONLY: read}).connect() as connection:
            yield connection
    finally:
        made.dispose()


@contextmanager
def _scripts() -> Iterator[Config]:
    """Alembic's settings, with the folder of the installed top-level package `migrations`."""
    with as_file(files("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        yield config


def _file(url: URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _make_folder(url: URL) -> None:
    file = _file(url)
    assert file is not None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE, f"the folder of {shown(url)} cannot be made: {error.strerror}"
        ) from error
