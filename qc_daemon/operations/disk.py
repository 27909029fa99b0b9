"""What the disk holds: the spool's free space, received files in it, and the database."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.operations.shared import open_store
from qc_daemon.records import schema
from qc_daemon.records.received import retention
from qc_daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Sizes in bytes. `originals` are received files that are still in the spool; `database` is
    None where it is not a file here."""

    spool: Path
    size: int
    free: int
    originals: int
    database: int | None


def read_disk_use(settings: Settings) -> DiskUse:
    """The sizes now. Raises QCError STORAGE where the spool cannot be read."""
    spool = settings.store.spool
    try:
        disk = shutil.disk_usage(spool)
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{spool}: {error.strerror}") from None
    with open_store(settings).read() as session:
        originals = retention.spooled_bytes(session)
    return DiskUse(spool, disk.total, disk.free, originals, _database_size(settings.store.url))


def _database_size(url: str) -> int | None:
    file = schema.file_of(url)
    if file is None:
        return None
    return sum(each.stat().st_size for each in schema.files_of(file) if each.is_file())
