"""How fast the spool's disk takes what must be on it."""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.settings import Settings

SLOW_SECONDS = 0.25
"""A sender waits for three such syncs an object: file, folder and database."""
_WRITES, _BYTES = 9, 4096


def check_disk_speed(settings: Settings) -> str:
    """The time that a small write takes to be on the spool's disk."""
    spool = settings.store.spool
    folder = next(each for each in (spool, *spool.parents) if each.is_dir())
    seconds = sync_seconds(folder)
    words = f"a small write is on the disk after {1000 * seconds:.1f} ms"
    if seconds > SLOW_SECONDS:
        raise NoticeError(
            f"{words}: senders wait for several of them with each object; is {folder} on a network"
            " or failing disk? Use a local one with a write cache that outlives a power cut"
        )
    return words


def sync_seconds(folder: Path) -> float:
    """The median time of a write of 4 KiB with fsync. Raises OSError."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_WRITES):
            begun = time.monotonic()
            file.write(bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.monotonic() - begun)
    return median(times)
