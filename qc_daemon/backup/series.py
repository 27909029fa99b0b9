"""A series of backups in one folder: the next one, which of them are good, and which of them stay.

Each is a folder `backup-` and its time in UTC. `verification.json` in it says what reading it back
has shown; it is written last, so that one without it is unfinished.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from detector.errors import ErrorCode, QCError
from qc_daemon.backup.manifest import File, Manifest, read_manifest, sha256_of
from qc_daemon.backup.save import save
from qc_daemon.records.store import parse
from qc_daemon.settings import BackupSettings, Settings
from qc_daemon.spool import private_files

VERIFICATION, SETTINGS = "verification.json", "settings.json"
_LOCK, _RETIRED = ".lock", ".removed-"
_FOLDER = re.compile(r"backup-(\d{8}T\d{6}Z)")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading a backup back has shown; `fault` is None where all of it is as it was saved.

    `missing` and `damaged` count files that rows name and that the spool did not have whole;
    `size` is of all files in bytes, `copied` of those that are no links to an earlier backup's.
    """

    verified_at: str
    created: str
    version: str
    schema_revision: str
    objects: int
    size: int
    copied: int
    missing: int
    damaged: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class SavedBackup:
    """One folder of the series; `verification` is None while it is unfinished."""

    folder: Path
    begun: datetime
    verification: Verification | None

    @property
    def is_good(self) -> bool:
        """Whether it was read back whole."""
        return self.verification is not None and self.verification.fault is None


def list_backups(folder: Path) -> list[SavedBackup]:
    """The backups of the series, newest first. Raises QCError STORAGE without the folder."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise _unusable(folder, error) from error
    backups = []
    for each in entries:
        match = _FOLDER.fullmatch(each.name)
        if match and each.is_dir():
            begun = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
            backups.append(SavedBackup(each, begun, _read_verification(each)))
    return sorted(backups, key=lambda each: each.begun, reverse=True)


def newest_good(backups: Collection[SavedBackup]) -> SavedBackup | None:
    """The newest that was read back whole."""
    return max(
        (each for each in backups if each.is_good), key=lambda each: each.begun, default=None
    )


def retention(
    backups: Collection[SavedBackup], limits: BackupSettings, zone: ZoneInfo
) -> set[SavedBackup]:
    """Those that stay: the newest good one of each of the last days, weeks and months that have
    one. One that is not good stays until as many good ones are newer as days are kept.
    """
    good = sorted((each for each in backups if each.is_good), key=lambda each: each.begun)[::-1]
    keep: set[SavedBackup] = set()
    for count, period in (
        (limits.keep_daily, lambda day: day),
        (limits.keep_weekly, lambda day: day.isocalendar()[:2]),
        (limits.keep_monthly, lambda day: (day.year, day.month)),
    ):
        newest: dict[object, SavedBackup] = {}
        for each in good:
            newest.setdefault(period(_local_date(each, zone)), each)
        keep.update(list(newest.values())[:count])
    for each in backups:
        newer = sum(other.begun > each.begun for other in good)
        if not each.is_good and newer < limits.keep_daily:
            keep.add(each)
    return keep


def save_next(settings: Settings, now: datetime, zone: ZoneInfo) -> tuple[SavedBackup, list[Path]]:
    """Make the next backup of `[backup] folder`, read it back, and remove those that are not kept.

    Returns it and the folders that were removed. Raises QCError STORAGE: it could not be made, is
    not as it was saved, or another process makes one; then nothing is removed.
    """
    series = settings.backup.folder
    assert series is not None
    with _exclusive(series):
        backups = [each for each in list_backups(series) if not _is_unfinished(each)]
        _clear(series)
        previous = newest_good(backups)
        folder = series / f"backup-{now:{_TIME}}"
        try:
            manifest = save(
                settings, folder, now, previous=None if previous is None else previous.folder
            )
            _write_settings(settings, folder)
        except (QCError, OSError):
            # A disk that is full must not stay full of halves.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        saved = SavedBackup(folder, now.replace(microsecond=0), verify(folder, now, manifest))
        if not saved.is_good:
            assert saved.verification is not None
            raise QCError(ErrorCode.STORAGE, saved.verification.fault or "")
        removed = _remove(series, [saved, *backups], settings.backup, zone)
        return saved, removed


def verify(folder: Path, now: datetime, written: Manifest | None = None) -> Verification:
    """Read a backup back from its disk and store what that shows.

    Every file, or of a manifest that was `written` just now those that are no links to an earlier
    backup's. Raises QCError STORAGE where there is no manifest.
    """
    manifest = read_manifest(folder) if written is None else written
    own = {
        name: each
        for name, each in manifest.files.items()
        if not _is_shared(folder / name, written is not None)
    }
    verification = Verification(
        verified_at=now.isoformat(timespec="seconds"),
        created=manifest.created,
        version=manifest.version,
        schema_revision=manifest.schema_revision,
        objects=len(manifest.spool_files),
        size=sum(each.size for each in manifest.files.values()),
        copied=sum(
            each.size for name, each in manifest.files.items() if not _is_shared(folder / name)
        ),
        missing=len(manifest.missing),
        damaged=len(manifest.damaged),
        fault=_first_fault(folder, own),
    )
    content = json.dumps(asdict(verification), indent=1).encode()
    try:
        with private_files.replacing(folder / VERIFICATION) as file:
            file.write(content)
    except OSError as error:
        raise _unusable(folder, error) from error
    return verification


def _first_fault(folder: Path, files: dict[str, File]) -> str | None:
    for name, each in files.items():
        path = folder / name
        try:
            _forget_cached(path)
            is_sound = path.stat().st_size == each.size and sha256_of(path) == each.sha256
        except OSError as error:
            return f"{folder.name}: {name} cannot be read: {(error.strerror or 'error').lower()}"
        if not is_sound:
            return f"{folder.name}: {name} is not what was saved"
    return None


def _forget_cached(path: Path) -> None:
    """Have the kernel read the file from the disk, and not what it has just been given to write."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _is_shared(path: Path, is_asked: bool = True) -> bool:
    """Whether another backup has the same file."""
    try:
        return is_asked and path.stat().st_nlink > 1
    except OSError:
        return False


def _write_settings(settings: Settings, folder: Path) -> None:
    """The settings as they were, for whoever sets the service up anew. Secrets are not in them:
    they stand in files and the environment, and the database's password is left out."""
    document = settings.model_dump(mode="json")
    document["store"]["url"] = parse(settings.store.url).render_as_string(hide_password=True)
    private_files.write(folder / SETTINGS, json.dumps(document, indent=1).encode())


def _remove(
    series: Path, backups: Collection[SavedBackup], limits: BackupSettings, zone: ZoneInfo
) -> list[Path]:
    keep = retention(backups, limits, zone)
    removed = [each.folder for each in backups if each not in keep and _retire(each.folder)]
    _clear(series)
    return removed


def _is_unfinished(backup: SavedBackup) -> bool:
    """Whether its process died; it goes, for nobody else is at work."""
    return backup.verification is None and _retire(backup.folder)


def _retire(folder: Path) -> bool:
    """Give a folder another name before it is deleted: half of a backup must not look like one."""
    try:
        folder.rename(folder.with_name(f"{_RETIRED}{folder.name}"))
    except OSError:
        return False
    return True


def _clear(series: Path) -> None:
    for each in series.glob(f"{_RETIRED}*"):
        shutil.rmtree(each, ignore_errors=True)


def _local_date(backup: SavedBackup, zone: ZoneInfo) -> date:
    return backup.begun.astimezone(zone).date()


def _read_verification(folder: Path) -> Verification | None:
    try:
        return Verification(**json.loads((folder / VERIFICATION).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def _exclusive(series: Path) -> Iterator[None]:
    """One process at a time makes a backup of the series, also on several hosts with one share."""
    try:
        descriptor = os.open(series / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(series, error) from error
    with os.fdopen(descriptor, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise QCError(
                ErrorCode.STORAGE, f"another process makes a backup in {series}; wait for its end"
            ) from None
        yield


def _unusable(folder: Path, error: OSError) -> QCError:
    why = (error.strerror or type(error).__name__).lower()
    return QCError(
        ErrorCode.STORAGE, f"the folder of backups {folder} cannot be used: {why} (backup.folder)"
    )
