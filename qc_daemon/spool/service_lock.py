"""Whether a service runs on a spool: a lock that its supervisor has for as long as it lives.

The kernel gives it back however the supervisor ends. Restoring a backup takes the same lock for
itself alone, so that neither begins while the other is at work.
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
# Somebody who only asks has the lock for a moment.
_PATIENCE_SECONDS = 2.0


@contextlib.contextmanager
def running(spool: Path) -> Iterator[None]:
    """For the life of a service; several may share a spool. Raises QCError STORAGE."""
    with _locked(spool, fcntl.LOCK_SH, _PATIENCE_SECONDS) as locked:
        if not locked:
            raise QCError(ErrorCode.STORAGE, "a backup is being restored; start when that is done")
        yield


@contextlib.contextmanager
def alone(spool: Path) -> Iterator[None]:
    """Nobody starts a service meanwhile. Raises QCError STORAGE if one runs."""
    with _locked(spool, fcntl.LOCK_EX, 0.0) as locked:
        if not locked:
            raise QCError(
                ErrorCode.STORAGE, f"a service is running on the spool {spool}; stop it first"
            )
        yield


def is_running(spool: Path) -> bool:
    """Whether a service runs on the spool. Changes nothing. Raises OSError."""
    try:
        fd = _opened(spool / NAME)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _opened(path: Path) -> int:
    try:
        # Over NFS only who may write gets an exclusive lock.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _locked(spool: Path, kind: int, patience: float) -> Iterator[bool]:
    try:
        private_files.make_folder(spool)
        # Not for writing, where that is not needed: nobody could make the disk read-only.
        access = os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY
        fd = os.open(spool / NAME, access | os.O_CREAT | os.O_CLOEXEC, private_files.FILE_MODE)
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE,
            f"the spool {spool} cannot be written: {(error.strerror or 'error').lower()}",
        ) from error
    try:
        yield _taken(fd, kind, time.monotonic() + patience)
    finally:
        os.close(fd)


def _taken(fd: int, kind: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
