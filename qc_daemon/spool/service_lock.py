"""Whether a service runs on a spool: a lock file that its supervisor locks while it lives.

The kernel frees the lock however the supervisor ends. A restore locks the same file exclusively, so
that neither starts while the other runs.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.spool import private_files

NAME = "service.lock"
# Seconds that a service waits for the lock: `is_running` has it for a moment only.
_WAIT_SECONDS = 2.0


@contextlib.contextmanager
def shared(spool: Path) -> Iterator[None]:
    """Lock the spool for a running service; several may share it. Raises QCError STORAGE."""
    with _lock(spool, fcntl.LOCK_SH, _WAIT_SECONDS) as is_locked:
        if not is_locked:
            raise QCError(ErrorCode.STORAGE, "a backup is being restored; start when that is done")
        yield


@contextlib.contextmanager
def exclusive(spool: Path) -> Iterator[None]:
    """Lock the spool so that no service can start. Raises QCError STORAGE if one runs."""
    with _lock(spool, fcntl.LOCK_EX, 0.0) as is_locked:
        if not is_locked:
            raise QCError(
                ErrorCode.STORAGE, f"a service is running on the spool {spool}; stop it first"
            )
        yield


def is_running(spool: Path) -> bool:
    """Whether a service runs on the spool. Changes nothing. Raises OSError."""
    try:
        fd = open_to_lock(spool / NAME)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def open_to_lock(path: Path) -> int:
    """A descriptor of the file that an exclusive lock can be taken on. Raises OSError."""
    try:
        # Over NFS an exclusive lock needs the right to write.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _lock(spool: Path, kind: int, wait_seconds: float) -> Iterator[bool]:
    try:
        private_files.make_folder(spool)
        # A file that is open for writing would keep the disk from being made read-only.
        access = os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY
        fd = os.open(spool / NAME, access | os.O_CREAT | os.O_CLOEXEC, private_files.FILE_MODE)
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE,
            f"the spool {spool} cannot be written: {(error.strerror or 'error').lower()}",
        ) from error
    try:
        yield _try_lock(fd, kind, time.monotonic() + wait_seconds)
    finally:
        os.close(fd)


def _try_lock(fd: int, kind: int, until: float) -> bool:
    """Whether the lock was free before the moment `until`."""
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
