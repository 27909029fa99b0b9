"""Restores a backup: nothing is deleted; objects and decisions that came later are listed.

The files come first, then the database that names them. The old database is moved together with its
write-ahead log: a log that stayed would be replayed over the new one.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from sqlalchemy import create_engine, inspect, text

from detector.errors import ErrorCode, QCError
from model.bundle.bundle import locate
from qc_daemon.backup import contents, manifest, postgresql
from qc_daemon.backup.decision import Comparison
from qc_daemon.backup.decisions import compare
from qc_daemon.backup.manifest import DATABASE, SPOOL, Manifest
from qc_daemon.records import integrity, schema
from qc_daemon.records.store import parse, storage_errors
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files, service_lock, verification
from qc_daemon.spool.verification import Condition

_PAGE = 500
DECISIONS = "decisions.json"
"""The file with all decisions, beside the old database."""


@dataclass(frozen=True, slots=True)
class LaterObject:
    """An object that came after the backup and has no row; the UID is "" if it cannot be read."""

    sha256: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Restoration:
    """The result of a restore.

    `old_database` is the folder, or the PostgreSQL schema, with the old database; None if there was
    none. `files` counts the files that the spool lacked; `replaced` those that were damaged, now in
    `damaged/`; `sessions` the log-ins of the backup, which are ended. `missing` are files that rows
    name and neither spool nor backup has. `decisions` are those that people made after the backup;
    `decisions_file` has them as JSON, None if there was no old database or the file could not be
    written.
    """

    schema_revision: str
    created: str | None
    old_database: str | None
    files: int
    replaced: int
    sessions: int
    missing: tuple[str, ...]
    later: tuple[LaterObject, ...]
    decisions: Comparison
    decisions_file: str | None = None


def restore(
    settings: Settings,
    source: Path,
    now: datetime,
    progress: Callable[[int, int], None] = lambda _count, _total: None,
) -> Restoration:
    """Restore a backup: a folder with a manifest, or a copied SQLite database alone.

    Raises QCError STORAGE: it is no sound backup, is of a later version or of another kind of
    database, or a service or another program uses ours. The database is replaced in one step, at
    the end; a restore that fails before leaves it as it is.
    """
    url, spool = settings.store.url, settings.store.spool
    backup_manifest = _verify_backup(source, url)
    file = schema.file_of(url)
    with service_lock.exclusive(spool), _exclusive_database(url):
        if backup_manifest is None:
            added = replaced = 0
            revision, counts, _ = contents.of_copy(source)
        else:
            added, replaced = _restore_spool(source / SPOOL, backup_manifest, spool, progress)
            revision, counts = backup_manifest.schema_revision, backup_manifest.counts
        name = f"before_restore_{now:%Y%m%dt%H%M%S_%f}"
        if file is None:
            assert backup_manifest is not None
            old_database, sessions = postgresql.restore(url, source, backup_manifest, name, now)
        else:
            copy = source if backup_manifest is None else source / DATABASE
            old_database, sessions = _replace_database(file, copy, name, now)
        sizes = _check_restored(url, file, counts)
        missing = tuple(path for path in sizes if not (spool / path).is_file())
        created = None if backup_manifest is None else backup_manifest.created
        decisions = compare(url, old_database, locate(settings.score.bundle).resolve())
        # The spool has it where the old database is a PostgreSQL schema.
        folder = spool / name if file is None else file.parent / name
        decisions = _write_calibrations(folder, decisions)
        return Restoration(
            schema_revision=revision,
            created=created,
            old_database=old_database,
            files=added,
            replaced=replaced,
            sessions=sessions,
            missing=missing,
            later=tuple(_files_without_row(url, spool)),
            decisions=decisions,
            decisions_file=_write_decisions(folder, decisions, created, old_database),
        )


def _write_calibrations(folder: Path, comparison: Comparison) -> Comparison:
    """Put each site calibration that only the old database has into a file; returns the comparison
    with the commands that activate them. One that cannot be written is to be fitted again."""
    decisions = []
    for each in comparison.decisions:
        if each.record is not None:
            path = folder / f"site-{each.record['id']}.json"
            with contextlib.suppress(OSError):
                private_files.make_folder(folder)
                private_files.write(path, f"{json.dumps(each.record, indent=1)}\n".encode())
                each = each.with_record_at(path)
        decisions.append(each)
    return replace(comparison, decisions=tuple(decisions))


def _write_decisions(
    folder: Path, decisions: Comparison, created: str | None, old_database: str | None
) -> str | None:
    """Write all decisions as JSON; returns the file, None if there is none.

    A later restore cannot find them again: it compares with the database that this one restored.
    The database is replaced by now, so a file that cannot be written is no failure of the restore.
    """
    if old_database is None:
        return None
    path = folder / DECISIONS
    content = {
        "saved_at": created,
        "old_database": old_database,
        "decisions": [each.to_json() for each in decisions.decisions],
        "decisions_problem": decisions.problem,
    }
    try:
        private_files.make_folder(folder)
        private_files.write(path, f"{json.dumps(content, indent=2)}\n".encode())
    except OSError:
        return None
    return str(path)


@contextlib.contextmanager
def _exclusive_database(url: str) -> Iterator[None]:
    file = schema.file_of(url)
    if file is None:
        schema.refuse_in_use(url)
        yield
    else:
        with schema.exclusive_access(file):
            yield


def _verify_backup(source: Path, url: str) -> Manifest | None:
    """The manifest of a sound backup for this database; None for a database file alone."""
    is_sqlite = schema.file_of(url) is not None
    if source.is_file() and is_sqlite:
        _check_database(source)
        revision, _, _ = contents.of_copy(source)
        _check_schema(revision)
        return None
    if not source.is_dir():
        what = "a backup's folder or a database's copy" if is_sqlite else "a backup's folder"
        raise QCError(ErrorCode.STORAGE, f"{source} is no backup: give {what}")
    backup_manifest = manifest.read_manifest(source)
    if backup_manifest.database != parse(url).get_backend_name():
        raise QCError(
            ErrorCode.STORAGE,
            f"the backup is of a {backup_manifest.database} database,"
            " and store.url names another kind",
        )
    _check_schema(backup_manifest.schema_revision)
    manifest.verify(source, backup_manifest)
    if is_sqlite:
        _check_database(source / DATABASE)
    return backup_manifest


def _check_schema(revision: str) -> None:
    if not schema.has_revision(revision):
        raise QCError(
            ErrorCode.STORAGE,
            f"the backup has the schema of another version of qc-daemon ({revision});"
            " install that version",
        )


def _check_database(file: Path) -> None:
    if any(each != file for each in schema.files_of(file)):
        raise QCError(
            ErrorCode.STORAGE,
            f"{file} has a -wal or -shm beside it: it is a database in use, not a copy",
        )
    result = integrity.examine_file(file)
    if not result.is_sound:
        raise QCError(ErrorCode.STORAGE, f"the backup {file} is damaged: {result.faults[0]}")


def _restore_spool(
    source: Path, backup_manifest: Manifest, spool: Path, progress: Callable[[int, int], None]
) -> tuple[int, int]:
    """Copy the files that the spool lacks; returns how many, and how many replaced damaged ones."""
    added = replaced = 0
    files = backup_manifest.spool_files
    try:
        for position, (path, file) in enumerate(files.items()):
            progress(position, len(files))
            condition = verification.examine(spool / path, file.sha256, file.size)
            if condition is Condition.INTACT:
                continue
            if condition is not Condition.MISSING:
                verification.move_to_damaged(spool, spool / path, file.sha256)
                replaced += 1
            _copy(source / path, spool / path)
            added += 1
        progress(len(files), len(files))
        os.sync()
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE,
            f"the spool {spool} cannot be written: {(error.strerror or 'error').lower()};"
            " the database is as it was",
        ) from error
    return added, replaced


def _copy(source: Path, target: Path) -> None:
    """Copy a file, which gets its name only once it is complete."""
    private_files.make_folder(target.parent)
    part = target.with_suffix(".restored")
    part.unlink(missing_ok=True)
    with (
        os.fdopen(private_files.create(part), "wb") as target_file,
        source.open("rb") as source_file,
    ):
        shutil.copyfileobj(source_file, target_file, 1 << 20)
    part.replace(target)


def _replace_database(file: Path, copy: Path, name: str, now: datetime) -> tuple[str | None, int]:
    """Replace the database by the copy, with its log-ins ended; returns the folder with the old
    one, None without one, and how many log-ins.

    The copy is durable before it is renamed over the old one, which the folder has by a hard link.
    """
    old_database = file.parent / name
    part = file.with_name(f"{file.name}.restored")
    old_files = schema.files_of(file)
    try:
        private_files.make_folder(file.parent)
        for each in schema.files_of(part):
            each.unlink()
        with (
            os.fdopen(private_files.create(part), "wb") as target_file,
            copy.open("rb") as source_file,
        ):
            shutil.copyfileobj(source_file, target_file, 1 << 20)
        sessions = _end_sessions(part, now)
        _sync(part)
        if old_files:
            private_files.make_folder(old_database)
        for each in old_files:
            os.link(each, old_database / each.name)
        for each in old_files:
            if each != file:
                each.unlink()
        part.replace(file)
        _sync(file.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            for each in schema.files_of(part):
                each.unlink()
        why = (error.strerror or "error").lower()
        raise QCError(ErrorCode.STORAGE, f"the database {file} is not replaced: {why}") from error
    return str(old_database) if old_files else None, sessions


def _end_sessions(file: Path, now: datetime) -> int:
    """End the log-ins of a copied database, which is one file again afterwards."""
    engine = create_engine(f"sqlite:///{file}")
    try:
        with storage_errors(engine.url), engine.begin() as connection:
            return contents.end_sessions(connection, now)
    finally:
        engine.dispose()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_restored(url: str, file: Path | None, counts: dict[str, int]) -> dict[str, int]:
    """File sizes by path of the restored database. Raises QCError STORAGE if it is not as saved.

    Our own engine is not used: it would begin a write-ahead log.
    """
    if file is None:
        result = integrity.examine(url)
        engine = create_engine(parse(url))
    else:
        result = integrity.examine_file(file)
        engine = create_engine(f"sqlite:///{file}")
    if not result.is_sound:
        raise QCError(ErrorCode.STORAGE, f"the restored database is damaged: {result.faults[0]}")
    try:
        with engine.connect() as connection:
            if contents.counts(connection, sorted(counts)) != counts:
                raise QCError(
                    ErrorCode.STORAGE, "the restored database has other rows than were saved"
                )
            return contents.file_sizes(connection)
    finally:
        engine.dispose()


def _files_without_row(url: str, spool: Path) -> Iterator[LaterObject]:
    """The files of the spool that no row names."""
    engine = create_engine(parse(url))
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("revision"):
                paths: set[str] = set()
            else:
                paths = set(connection.execute(text("SELECT path FROM revision")).scalars())
    finally:
        engine.dispose()
    for path in sorted(spool.glob("[0-9a-f][0-9a-f]/*.dcm")):
        if path.relative_to(spool).as_posix() not in paths:
            yield LaterObject(path.stem, _instance(path))


def _instance(path: Path) -> str:
    """The SOP Instance UID in the meta group that our receiver wrote; "" if it cannot be read."""
    try:
        return str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
    except Exception:
        # pydicom lets a dozen kinds of error through for a file that is not what it was.
        return ""
