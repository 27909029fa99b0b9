"""Whether a file in the spool still has the bytes that were acknowledged.

The SHA-256 in the database was computed while the object came in, before its sender was answered.
Every stage that reads the file compares it: disks flip bits, and people copy files. A file that
differs is never used; it is moved to the spool's folder `damaged`, and not deleted.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

from detector.errors import ErrorCode, QCError

DAMAGED_FOLDER = "damaged"
# Bytes that are read and hashed at once.
_BLOCK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Condition(StrEnum):
    """The state of a file compared with what was acknowledged."""

    INTACT = "intact"
    MISSING = "missing"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


def hash_in_name(path: Path) -> str | None:
    """The SHA-256 in the file's name; None if the name is another."""
    return path.stem if _SHA256.fullmatch(path.stem) else None


def content_hash(path: Path, sha256: str) -> str:
    """The SHA-256 that the file at `path` must have: the one in its name, else the row's.

    The spool names every file by its hash. The two differ only where a destination gave a dropped
    original back with another header.
    """
    return hash_in_name(path) or sha256


def examine(
    path: Path,
    sha256: str,
    size: int | None = None,
    pace: Callable[[int], None] = lambda _count: None,
) -> Condition:
    """The condition of a file, which is read whole unless its `size` in bytes differs already.

    `pace` is called with the number of bytes of each block, and may wait to slow the reading.
    """
    try:
        with _open(path) as fd:
            return _examine(fd, sha256, size, pace)
    except FileNotFoundError:
        return Condition.MISSING
    except OSError:
        return Condition.UNREADABLE


def verify(path: Path, sha256: str, size: int | None = None) -> None:
    """Raises QCError SPOOL_DAMAGED, or SPOOL_MISSING for a file that cannot be read."""
    with open_verified(path, sha256, size):
        pass


@contextlib.contextmanager
def open_verified(path: Path, sha256: str | None, size: int | None = None) -> Iterator[Path]:
    """A path to the verified file that stays valid when `path` comes to name another file.

    Use what was read only after the block: a file that is written to meanwhile is noticed at its
    end. Without `sha256` nothing is compared. Raises QCError as `verify`.
    """
    with contextlib.ExitStack() as stack:
        with _os_errors_as_qc_errors():
            fd = stack.enter_context(_open(path))
            before = _stamp(fd)
            _compare(fd, sha256, size)
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            with _os_errors_as_qc_errors():
                # A rename changes the time too; only the content counts.
                if _stamp(fd) != before:
                    _compare(fd, sha256, size)


@contextlib.contextmanager
def open_unverified(path: Path) -> Iterator[Path]:
    """A path to the file that stays valid when `path` comes to name another file.

    Raises QCError SPOOL_MISSING.
    """
    with open_verified(path, None) as stable_path:
        yield stable_path


def blocks(path: Path, sha256: str | None, block: int = 1 << 18) -> Iterator[bytes]:
    """The file's bytes in blocks; the last one comes only if the hash of all is right.

    For receivers that use nothing before they have everything. Without `sha256` nothing is
    compared. Raises QCError as `verify`.
    """
    digest = hashlib.sha256()
    with _os_errors_as_qc_errors(), path.open("rb", buffering=0) as file:
        last = b""
        while following := file.read(block):
            if last:
                yield last
            digest.update(following)
            last = following
        if sha256 is not None and digest.hexdigest() != sha256:
            raise damaged_error()
        if last:
            yield last


def move_to_damaged(spool: Path, path: Path, sha256: str) -> Path | None:
    """Move a damaged file to the folder `damaged`; returns its new path, None if it is intact.

    A receiver may write the right bytes at any moment; those stay. Raises OSError.
    """
    try:
        with _open(path) as fd:
            if _examine(fd, sha256, None) is not Condition.DAMAGED:
                return None
            folder = spool / DAMAGED_FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            target = next(
                name
                for number in range(1, 1_000_000)
                if not (name := folder / f"{sha256}-{number}.dcm").exists()
            )
            path.rename(target)
            if os.fstat(fd).st_ino != target.stat().st_ino:
                # The right bytes came between the comparison and the move.
                target.rename(path)
                return None
            return target
    except FileNotFoundError:
        # Another thread has moved it.
        return None


def damaged_files(spool: Path, sha256: str) -> list[Path]:
    """The files in `damaged` that should have had this hash, oldest first."""
    folder = spool / DAMAGED_FOLDER
    return sorted(folder.glob(f"{sha256}-*.dcm"), key=lambda each: (len(each.name), each.name))


def damaged_error() -> QCError:
    """The error for a file whose bytes are not those that were received."""
    return QCError(
        ErrorCode.SPOOL_DAMAGED,
        "the file in the spool is not what was received: its SHA-256 differs; it is not used",
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _os_errors_as_qc_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise QCError(ErrorCode.SPOOL_MISSING, "the received file is gone from the spool") from None
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise QCError(
            ErrorCode.SPOOL_MISSING, f"the received file cannot be read: {reason}"
        ) from error


def _compare(fd: int, sha256: str | None, size: int | None) -> None:
    if sha256 is not None and _examine(fd, sha256, size) is Condition.DAMAGED:
        raise damaged_error()


def _examine(
    fd: int, sha256: str, size: int | None, pace: Callable[[int], None] = lambda _count: None
) -> Condition:
    if size is not None and os.fstat(fd).st_size != size:
        return Condition.DAMAGED
    digest, offset = hashlib.sha256(), 0
    while block := os.pread(fd, _BLOCK, offset):
        digest.update(block)
        offset += len(block)
        pace(len(block))
    return Condition.INTACT if digest.hexdigest() == sha256 else Condition.DAMAGED


def _stamp(fd: int) -> tuple[int, int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
