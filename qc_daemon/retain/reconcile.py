"""Compares spool and database: files without a row, and rows without their file.

A process that is killed between the file's adoption and the row's commit leaves an orphan: its
sender got no success and sends it again, which adds the row. So an orphan is only counted, and
stays where it is until an operator releases or discards it: moving it could take the file from a
receiver that is just adopting the same bytes. A file without a row that is younger than the margin
is only counted as young: its row may be about to be committed.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from qc_daemon.observe import log
from qc_daemon.records.received import retention
from qc_daemon.records.received.retention import Original
from qc_daemon.records.store import Store
from qc_daemon.spool.verification import Condition, damaged_files, examine, hash_in_name

MARGIN = timedelta(minutes=10)
"""A receipt whose row is not committed this long after its file was written has failed."""
# Files or rows that are compared in one query.
_PAGE = 500
# Paths and IDs that are listed at most; the counts go on.
_MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class FaultyFile:
    """A row whose file is not as it was acknowledged: missing, damaged or unreadable.

    `set_aside` is where a damaged file lies now, relative to the spool; None while it is in place.
    """

    revision_id: int
    condition: Condition
    path: str
    set_aside: str | None = None


@dataclass
class Differences:
    """How spool and database differ: counts, and the first of each. Paths are in the spool.

    `young` are files without a row that are too young to be orphans; `removed` are the dropped
    files that `fix` removed.
    """

    files: int = 0
    young: int = 0
    orphans: int = 0
    missing: int = 0
    damaged: int = 0
    unreadable: int = 0
    removed: int = 0
    orphan_paths: list[str] = field(default_factory=list)
    faulty_files: list[FaultyFile] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many rows have no intact file."""
        return self.missing + self.damaged + self.unreadable

    @property
    def is_clean(self) -> bool:
        """Whether no file and no row lacks its other."""
        return not (self.orphans or self.faults)


def reconcile(
    store: Store,
    spool: Path,
    before: datetime,
    stop: threading.Event | None = None,
    *,
    fix: bool = False,
    full: bool = False,
    margin: timedelta = MARGIN,
    listed: int = _MAX_LISTED,
) -> Differences:
    """Compare all files and all rows; in pages, until `stop`. At most `listed` orphans are named,
    and as many faulty files.

    A file is compared by its size, and with `full` by its SHA-256, so that every file is read. One
    that was set aside as damaged counts as damaged, not as missing.
    Files last written within `margin` before `before` or later are too young to be orphans. With
    `fix`, files that retention dropped and a crash left behind are removed, and so are old
    pieces of interrupted fetches. Raises QCError STORAGE; OSError if the spool cannot be read.
    """
    differences = Differences()
    limit = (before - margin).timestamp()
    stopped = stop or threading.Event()
    files = _files(spool)
    while not stopped.is_set() and (page := list(islice(files, _PAGE))):
        differences.files += len(page)
        with store.read() as session:
            is_consistent = retention.referenced_paths(session, [path for path, _ in page])
        for path, written in page:
            if path not in is_consistent and written >= limit:
                differences.young += 1
            elif path not in is_consistent:
                differences.orphans += 1
                if len(differences.orphan_paths) < listed:
                    differences.orphan_paths.append(path)
            elif fix and not is_consistent[path] and written < limit:
                differences.removed += _remove(store, spool, path)
    if fix:
        _remove_partial_files(spool, limit)
    _compare_rows(store, spool, stopped, differences, full=full, listed=listed)
    return differences


def log_differences(differences: Differences) -> None:
    """Write the differences to the log, a line for each kind, and how many files were compared."""
    logger = log.get(role="supervisor")
    for kind, count in (
        ("orphan", differences.orphans),
        ("missing", differences.missing),
        ("damaged", differences.damaged),
        ("unreadable", differences.unreadable),
    ):
        if count:
            logger.error("spool and database differ", kind=kind, count=count)
    if differences.removed:
        logger.info("dropped files removed", count=differences.removed)
    logger.info("spool reconciled", count=differences.files)


def _compare_rows(
    store: Store,
    spool: Path,
    stopped: threading.Event,
    differences: Differences,
    *,
    full: bool,
    listed: int,
) -> None:
    after = 0
    while not stopped.is_set():
        with store.read() as session:
            page = retention.originals(session, after, limit=_PAGE)
        if not page:
            return
        after = page[-1].revision_id
        for original in page:
            faulty = _faulty_file(spool, original, full=full)
            if faulty is None or not _is_unchanged(store, original):
                continue
            match faulty.condition:
                case Condition.MISSING:
                    differences.missing += 1
                case Condition.DAMAGED:
                    differences.damaged += 1
                case _:
                    differences.unreadable += 1
            if len(differences.faulty_files) < listed:
                differences.faulty_files.append(faulty)


def _faulty_file(spool: Path, original: Original, *, full: bool) -> FaultyFile | None:
    """The fault of a row's file; None if it is as it was acknowledged, as far as it is read."""
    path = spool / original.path
    sha256 = hash_in_name(path)
    if full and sha256 is not None:
        condition = examine(path, sha256, original.size)
    else:
        condition = _condition_by_size(path, original.size)
    set_aside = None
    if condition is Condition.MISSING and sha256 is not None:
        copies = damaged_files(spool, sha256)
        if copies:
            condition = Condition.DAMAGED
            set_aside = copies[-1].relative_to(spool).as_posix()
    if condition is Condition.INTACT:
        return None
    return FaultyFile(original.revision_id, condition, original.path, set_aside)


def _is_unchanged(store: Store, original: Original) -> bool:
    """Whether the row is still the same: retention may have just dropped the file."""
    with store.read() as session:
        page = retention.originals(session, original.revision_id - 1, limit=1)
    return page == [original]


def _files(spool: Path) -> Iterator[tuple[str, float]]:
    """The received files' paths in the spool, and when each was last written (Unix time)."""
    for folder in _folders(spool):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm"):
                    # Retention may have just dropped it.
                    with contextlib.suppress(FileNotFoundError):
                        yield f"{folder.name}/{entry.name}", entry.stat().st_mtime


def _folders(parent: Path) -> list[Path]:
    """The spool's own folders, named by two digits of a hash."""
    with os.scandir(parent) as entries:
        return sorted(parent / e.name for e in entries if len(e.name) == 2 and e.is_dir())


def _condition_by_size(path: Path, size: int) -> Condition:
    try:
        return Condition.INTACT if path.stat().st_size == size else Condition.DAMAGED
    except FileNotFoundError:
        return Condition.MISSING


def _remove(store: Store, spool: Path, path: str) -> bool:
    """Remove a dropped file, unless it was just fetched back; returns whether it did."""
    with store.read() as session:
        is_consistent = retention.referenced_paths(session, [path]).get(path, True)
    if not is_consistent:
        (spool / path).unlink(missing_ok=True)
    return not is_consistent


def _remove_partial_files(spool: Path, limit: float) -> None:
    for part in (spool / "incoming").glob("*.fetched"):
        if part.stat().st_mtime < limit:
            part.unlink(missing_ok=True)
