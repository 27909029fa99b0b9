"""The series of backups in `[backup] folder`: list it, add to it, read it back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.console import UsageError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.backup import series
from qc_daemon.backup.series import SavedBackup
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings

COLUMNS = ("name", "state", "begun", "objects", "megabytes", "own_megabytes", "verified", "problem")


def list_backups(settings: Settings) -> list[dict[str, Any]]:
    """The backups, newest first. Raises QCError STORAGE, UsageError where none is scheduled."""
    return [_row(each) for each in series.list_backups(_folder(settings))]


def make_backup(settings: Settings, clock: Clock = utc_now) -> tuple[SavedBackup, list[Path]]:
    """Make the next one, read it back, remove those that are not kept; it, and the removed ones.

    Raises QCError STORAGE; UsageError where no folder is named.
    """
    _folder(settings)
    saved_and_removed = series.save_next(settings, clock(), settings.schedule.local_zone)
    record(settings, AuditKind.EXPORTED, detail={"what": "backup"}, clock=clock)
    return saved_and_removed


def verify_backups(
    settings: Settings, names: Sequence[str], clock: Clock = utc_now
) -> list[dict[str, Any]]:
    """Read backups back, without names all of them; their rows. Raises QCError, UsageError."""
    backups = series.list_backups(_folder(settings))
    known = {each.folder.name: each for each in backups}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"there is no backup {unknown}; see qc-daemon backup list")
    rows = []
    for name in names or known:
        each = known[name]
        verification = series.verify(each.folder, clock())
        rows.append(_row(SavedBackup(each.folder, each.begun, verification)))
    return rows


def describe(saved: SavedBackup, removed: Sequence[Path]) -> list[str]:
    """Lines that say what was made and removed."""
    row = _row(saved)
    lines = [
        f"{saved.folder}: written and read back, the database and {row['objects']} received objects"
        f" ({row['own_megabytes']} MB of {row['megabytes']} MB are new)"
    ]
    if row["problem"]:
        lines.append(row["problem"])
    return lines + [f"{each}: removed" for each in removed]


def _row(backup: SavedBackup) -> dict[str, Any]:
    verification = backup.verification
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"name": backup.folder.name, "begun": backup.begun.isoformat(), "state": "unfinished"}
    if verification is None:
        return row
    lacking = verification.missing + verification.damaged
    problem = verification.fault
    if problem is None and lacking:
        problem = f"the spool lacked {lacking} received objects whole (qc-daemon spool check)"
    return row | {
        "state": "good" if backup.is_good else "damaged",
        "objects": verification.objects,
        "megabytes": _megabytes(verification.size),
        "own_megabytes": _megabytes(verification.copied),
        "verified": verification.verified_at,
        "problem": problem,
    }


def _megabytes(size: int) -> float:
    return round(size / 1e6, 1)


def _folder(settings: Settings) -> Path:
    if settings.backup.folder is None:
        raise UsageError("no backups are scheduled: name their folder (backup.folder)")
    return settings.backup.folder
