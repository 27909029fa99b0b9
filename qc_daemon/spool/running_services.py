"""Which services run on a spool, on whichever host: each has a file there that it locks while it
lives, with its version and roles.

The kernel frees a lock however a process ends, so a file without its lock is of a service that has
ended, and the next start removes it. Versions before this file existed write none.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from detector.errors import ErrorCode, QCError
from qc_daemon.spool import private_files, service_lock

FOLDER = "services"
_MAX_BYTES = 4096
_MOMENT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class RunningService:
    """A supervisor: its host and process id, its version and `code_digest`, its roles, and when it
    started (ISO 8601)."""

    host: str
    pid: int
    version: str
    code: str
    roles: tuple[str, ...]
    started: str


@contextlib.contextmanager
def announce(
    spool: Path, version: str, code: str, roles: Sequence[str], now: datetime
) -> Iterator[None]:
    """Have the file of this process within the block. Raises QCError STORAGE."""
    service = RunningService(
        socket.gethostname(),
        os.getpid(),
        version,
        code,
        tuple(roles),
        now.isoformat(timespec="seconds"),
    )
    folder = spool / FOLDER
    path = folder / f"{service.host}-{service.pid}.json"
    # Under another name until it is locked: a file without a lock is removed by others.
    unlocked = path.with_suffix(".new")
    try:
        private_files.make_folder(folder)
        _remove_ended(folder)
        unlocked.unlink(missing_ok=True)
        fd = private_files.create(unlocked)
    except OSError as error:
        raise _not_writable(spool, error) from error
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(asdict(service)).encode())
        # A file that is open for writing would keep the disk from being made read-only.
        locked = unlocked.open("rb")
    except OSError as error:
        raise _not_writable(spool, error) from error
    with locked:
        try:
            fcntl.flock(locked, fcntl.LOCK_SH)
            unlocked.replace(path)
        except OSError as error:
            raise _not_writable(spool, error) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def list_running(spool: Path) -> list[RunningService]:
    """The services that run, by host and process id. Changes nothing."""
    folder = spool / FOLDER
    services = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        with contextlib.suppress(OSError), _open(path) as file:
            if _is_locked(file.fileno()):
                services += _parse(file.read(_MAX_BYTES))
    return services


def _not_writable(spool: Path, error: OSError) -> QCError:
    why = (error.strerror or "error").lower()
    return QCError(ErrorCode.STORAGE, f"the spool {spool} cannot be written: {why}")


def _parse(content: bytes) -> list[RunningService]:
    """The service of a file; none of one that is being written or is not ours."""
    try:
        values = json.loads(content)
        return [RunningService(**values | {"roles": tuple(map(str, values["roles"]))})]
    except (ValueError, TypeError, KeyError):
        return []


def _remove_ended(folder: Path) -> None:
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError), _open(path) as file:
            if not _is_locked(file.fileno()):
                path.unlink()


def _open(path: Path) -> BinaryIO:
    return os.fdopen(service_lock.open_to_lock(path), "rb")


def _is_locked(fd: int) -> bool:
    """Whether another process has the lock; it is taken for a moment where none has."""
    for is_last in (False, True):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if is_last:
                return True
            # It may be another that asks just this.
            time.sleep(_MOMENT_SECONDS)
        else:
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False
    return True
