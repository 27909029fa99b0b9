"""Saves a backup: first a snapshot of the database, then the files that it names.

A file is durable before its row exists, and leaves the spool only after its row says so. So the
files of the snapshot are in the spool, whatever the service receives meanwhile; one that retention
has dropped in between can be fetched from its destination.
"""

import contextlib
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.backup import contents, postgresql
from qc_daemon.backup.manifest import (
    DATABASE,
    SPOOL,
    TABLES,
    File,
    Manifest,
    read_manifest,
    sha256_of,
)
from qc_daemon.records import schema
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

_BLOCK = 1 << 20
_DAYS = 7
"""A file that is linked from the previous backup is read again once in so many days."""


def save(
    settings: Settings,
    folder: Path,
    now: datetime,
    *,
    link: bool = False,
    previous: Path | None = None,
    progress: Callable[[int, int], None] = lambda _count, _total: None,
) -> Manifest:
    """Save database and spool in a new folder while the service runs.

    With `link` the spooled files are hard links, which take no room but guard only against
    deletion, and need the same file system. Files that the backup in the folder `previous` has are
    hard links to its own where the disk can: their names are their hashes, so that they never
    change; each is read again once in seven days, and copied anew where it is damaged. `progress`
    is called with files saved and in all. Raises QCError STORAGE; the folder then has no manifest.
    """
    try:
        _make(folder)
        return _save_all(settings, folder, now, link, previous, progress)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise QCError(ErrorCode.STORAGE, f"no backup written to {folder}: {why}") from error


def _make(folder: Path) -> None:
    private_files.make_folder(folder)
    if any(folder.iterdir()):
        raise QCError(
            ErrorCode.STORAGE, f"{folder} is not empty; name another folder for the backup"
        )
    private_files.tighten(folder)


def _save_all(
    settings: Settings,
    folder: Path,
    now: datetime,
    link: bool,
    previous: Path | None,
    progress: Callable[[int, int], None],
) -> Manifest:
    former = {} if previous is None else read_manifest(previous).files
    url, spool = settings.store.url, settings.store.spool
    columns: dict[str, list[str]] = {}
    if schema.file_of(url) is None:
        export = postgresql.export(url, folder / TABLES)
        files = {f"{TABLES}/{name}.copy": each for name, each in export.files.items()}
        revision, counts, sizes = export.schema_revision, export.counts, export.sizes
        columns = export.columns
    else:
        copy = folder / DATABASE
        schema.backup(url, copy)
        files = {DATABASE: File(copy.stat().st_size, sha256_of(copy))}
        revision, counts, sizes = contents.of_copy(copy)
    missing, damaged = [], []
    for position, (path, size) in enumerate(sizes.items()):
        progress(position, len(sizes))
        target = folder / SPOOL / path
        file = None
        if previous is not None and former.get(f"{SPOOL}/{path}") == File(size, Path(path).stem):
            file = _link_former(previous / SPOOL / path, target, size, now)
        if file is None:
            file = _save_file(spool / path, target, link)
        if file is None:
            missing.append(path)
        elif file != File(size, Path(path).stem):
            damaged.append(path)
            target.unlink()
        else:
            files[f"{SPOOL}/{path}"] = file
    progress(len(sizes), len(sizes))
    # One flush for all files, before the manifest names them.
    os.sync()
    manifest = Manifest(
        created=now.isoformat(timespec="seconds"),
        version=contents.own_version(),
        database="sqlite" if schema.file_of(url) else "postgresql",
        schema_revision=revision,
        counts=counts,
        files=files,
        columns=columns,
        missing=missing,
        damaged=damaged,
    )
    manifest.write(folder)
    os.sync()
    return manifest


def _link_former(source: Path, target: Path, size: int, now: datetime) -> File | None:
    """The entry of a file that is linked from the previous backup; None where it cannot be, or is
    not what it was."""
    private_files.make_folder(target.parent)
    try:
        os.link(source, target)
    except OSError:
        # Gone, or a file system without links.
        return None
    sha256 = source.stem
    is_due = int(sha256[:8], 16) % _DAYS == now.toordinal() % _DAYS
    if target.stat().st_size == size and (not is_due or sha256_of(target) == sha256):
        return File(size, sha256)
    target.unlink()
    return None


def _save_file(source: Path, target: Path, link: bool) -> File | None:
    """The file's entry in the manifest; None if it is not in the spool."""
    private_files.make_folder(target.parent)
    try:
        if not link:
            _copy(source, target)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(source, target)
    except FileNotFoundError:
        return None
    return File(target.stat().st_size, sha256_of(target))


def _copy(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as source_file:
        fd = private_files.create(target)
        with os.fdopen(fd, "wb") as target_file:
            while block := source_file.read(_BLOCK):
                target_file.write(block)
