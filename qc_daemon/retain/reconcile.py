"""Spool against database: files that no row knows, rows whose file is not there.

A kill between the file's adoption and the row's commit leaves an orphan: durable, but its sender
was never told so and sends it again, which makes it whole. So an orphan is only counted, and stays
where it is until an operator releases or discards it: moving it could take the file away from
under a receiver that is just adopting the same bytes. A file without a row that is younger than
the margin is only counted as young: its row may be on its way.
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

MARGIN = timedelta(minutes=10)
"""A transaction that takes longer than this has failed."""
_PAGE = 500
_LISTED = 1000


@dataclass
class Findings:
    """What does not match: counts, and the first of each. Paths are relative to the spool.

    `young`: files without a row that are too young to be called orphans.
    """

    files: int = 0
    young: int = 0
    orphans: int = 0
    missing: int = 0
    damaged: int = 0
    removed: int = 0
    orphan_paths: list[str] = field(default_factory=list)
    missing_ids: list[int] = field(default_factory=list)
    """Revisions whose file is missing or of another size."""

    @property
    def clean(self) -> bool:
        return not (self.orphans or self.missing or self.damaged)


def reconcile(
    store: Store,
    spool: Path,
    before: datetime,
    stop: threading.Event | None = None,
    *,
    mend: bool = False,
    margin: timedelta = MARGIN,
    listed: int = _LISTED,
) -> Findings:
    """Compare all files and all rows; in pages, until `stop`. At most `listed` orphans are named.

    Files last written within `margin` before `before` or later are too young to be orphans. With
    `mend`, files that retention dropped and a crash left behind are removed, and so are old
    pieces of interrupted fetches. Raises QCError STORAGE; OSError if the spool cannot be read.
    """
    found = Findings()
    limit = (before - margin).timestamp()
    stopped = stop or threading.Event()
    files = _files(spool)
    while not stopped.is_set() and (page := list(islice(files, _PAGE))):
        found.files += len(page)
        with store.read() as session:
            known = retention.referenced_paths(session, [path for path, _ in page])
        for path, written in page:
            if path not in known and written >= limit:
                found.young += 1
            elif path not in known:
                found.orphans += 1
                if len(found.orphan_paths) < listed:
                    found.orphan_paths.append(path)
            elif mend and not known[path] and written < limit:
                found.removed += _remove(store, spool, path)
    if mend:
        _remove_pieces(spool, limit)
    _rows(store, spool, stopped, found)
    return found


def report(found: Findings) -> None:
    """Say in the log what was found."""
    say = log.get(role="supervisor")
    for kind, count in (
        ("orphan", found.orphans),
        ("missing", found.missing),
        ("damaged", found.damaged),
    ):
        if count:
            say.error("spool and database differ", kind=kind, count=count)
    if found.removed:
        say.info("dropped files removed", count=found.removed)
    say.info("spool reconciled", count=found.files)


def _rows(store: Store, spool: Path, stopped: threading.Event, found: Findings) -> None:
    after = 0
    while not stopped.is_set():
        with store.read() as session:
            page = retention.originals(session, after, limit=_PAGE)
        if not page:
            return
        after = page[-1].revision_id
        for original in page:
            size = _size(spool / original.path)
            if size == original.size or not _still(store, original):
                continue
            if size is None:
                found.missing += 1
            else:
                found.damaged += 1
            if len(found.missing_ids) < _LISTED:
                found.missing_ids.append(original.revision_id)


def _still(store: Store, original: Original) -> bool:
    """Whether the row says so still: retention may have dropped the file in this moment."""
    with store.read() as session:
        again = retention.originals(session, original.revision_id - 1, limit=1)
    return again == [original]


def _files(spool: Path) -> Iterator[tuple[str, float]]:
    """The received files, relative to the spool, and when each was last written."""
    for folder in _folders(spool):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm"):
                    # One that is dropped in this moment is none any more.
                    with contextlib.suppress(FileNotFoundError):
                        yield f"{folder.name}/{entry.name}", entry.stat().st_mtime


def _folders(parent: Path) -> list[Path]:
    """The spool's own folders, named by two digits of a hash."""
    with os.scandir(parent) as entries:
        return sorted(parent / e.name for e in entries if len(e.name) == 2 and e.is_dir())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _remove(store: Store, spool: Path, path: str) -> bool:
    """Take away a dropped file, unless it was fetched back in this moment."""
    with store.read() as session:
        kept = retention.referenced_paths(session, [path]).get(path, True)
    if not kept:
        (spool / path).unlink(missing_ok=True)
    return not kept


def _remove_pieces(spool: Path, limit: float) -> None:
    for piece in (spool / "incoming").glob("*.fetched"):
        if piece.stat().st_mtime < limit:
            piece.unlink(missing_ok=True)
