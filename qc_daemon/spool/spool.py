"""Received files: written once, named by their SHA-256 and by nothing that a sender chooses."""

import contextlib
import errno
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from detector.process_id import start_mark
from qc_daemon.spool import private_files

_INCOMING, _PART = "incoming", ".part"
# Bytes that are hashed and written at once: each time costs a switch to another thread.
_BLOCK = 512 << 10
# Blocks of memory that are kept for the next object.
_MAX_SPARE_BLOCKS = 32
# Numbers the partial files of this process.
_numbers = itertools.count()
_spare_blocks: "deque[memoryview]" = deque(maxlen=_MAX_SPARE_BLOCKS)


def relative_path(sha256: str) -> str:
    """The path of the file with this hash, in one of 256 folders.

    A second level would cost a new folder, and so two more flushes of the disk, for most objects.
    """
    return f"{sha256[:2]}/{sha256}.dcm"


class Incoming:
    """A file that is being received. Write errors are raised by `flush` or `finish`, not before.

    The network thread that writes here cannot answer the sender; the handler, which can, learns of
    a full or read-only disk from `finish`. A file that is not adopted is removed with this object.
    After an error the file is removed at once, and the rest of its bytes is only counted.

    `has_room` is called before each block is written; without a folder no byte is stored at all.
    """

    def __init__(self, folder: Path | None, has_room: Callable[[], bool] = lambda: True) -> None:
        self.error: OSError | None = None
        self.size = 0
        # How many of these bytes were not stored.
        self.lost_bytes = 0
        self._has_room = has_room
        self.data_set_offset = 0
        self._digest = hashlib.sha256()
        self._fd = -1
        self._block = _spare_blocks.pop() if _spare_blocks else memoryview(bytearray(_BLOCK))
        self._used = 0
        self.path = (folder or Path()) / "none"
        if folder is None:
            self.error = OSError(errno.ENOSPC, "nothing is kept")
            return
        try:
            path = folder / f"{_prefix(os.getpid())}{next(_numbers)}{_PART}"
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self.path = path
        except OSError as error:
            self.error = error

    def space(self, count: int) -> memoryview:
        """A buffer of one to `count` bytes for the file's next; call `add` once it is filled."""
        return self._block[self._used : self._used + count]

    def add(self, count: int) -> None:
        """Append the first `count` bytes of the last `space`."""
        self._used += count
        self.size += count
        if self._used == len(self._block):
            self._write_out()

    def write(self, data: bytes) -> int:
        """Append `data`; returns its length."""
        remaining = memoryview(data)
        while remaining:
            space = self.space(len(remaining))
            space[:] = remaining[: len(space)]
            self.add(len(space))
            remaining = remaining[len(space) :]
        return len(data)

    def _write_out(self) -> None:
        view = self._block[: self._used]
        self._used = 0
        if self.error is not None:
            self.lost_bytes += len(view)
            return
        self._digest.update(view)
        try:
            # A small object is less than a block, and its handler has checked the disk.
            if len(view) == len(self._block) and not self._has_room():
                raise OSError(errno.ENOSPC, "no room for now")
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.error = error
            self._remove()

    def flush(self) -> None:
        """Write every byte, so that readers of `path` see it. Raises the first OSError."""
        self._write_out()
        if self.error is not None:
            raise self.error

    def finish(self) -> str:
        """Make every byte durable; returns their SHA-256. Raises OSError."""
        self.flush()
        os.fsync(self._fd)
        if os.fstat(self._fd).st_size != self.size:
            raise OSError("the spool holds another number of bytes than were received")
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Close the file, and remove it unless it was adopted."""
        if self._block:
            _spare_blocks.append(self._block)
            self._block = memoryview(b"")
        self._remove()

    def _remove(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.discard()

    def __del__(self) -> None:
        # An association whose thread dies just drops the object; nothing else is called.
        if getattr(self, "_fd", -1) >= 0:
            self.discard()


@dataclass(frozen=True)
class Spool:
    """The received files: `ab/<sha256>.dcm`, and `incoming/` for those not yet complete."""

    root: Path

    @property
    def incoming(self) -> Path:
        """The folder of files that are being received."""
        return self.root / _INCOMING

    def prepare(self) -> None:
        """Make the folders, and write a file as a test. Raises OSError.

        Folders of an older version are made private; the files in them always were.
        """
        private_files.make_folder(self.incoming)
        for folder in (self.root, *(each for each in self.root.iterdir() if each.is_dir())):
            private_files.tighten(folder)
        with self.open() as probe:
            probe.write(b"\0")
            probe.finish()
        _sync_folder(self.root)

    def sweep(self) -> int:
        """Remove the partial files of dead processes; returns how many.

        None of them was acknowledged. Those of running processes stay.
        """
        stale = [path for path in self.incoming.glob(f"*{_PART}") if _is_stale(path.name)]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def open(self, has_room: Callable[[], bool] = lambda: True) -> Incoming:
        """A new file in `incoming/`; `has_room` says whether another block may be written."""
        return Incoming(self.incoming, has_room)

    def adopt(self, incoming: Incoming) -> tuple[Path, str]:
        """Make a received file durable under its SHA-256; returns its path and SHA-256.

        A file with the same bytes is replaced in one step, which repairs a damaged one. Raises
        OSError; then nothing was adopted.
        """
        sha256 = incoming.finish()
        path = self.path(sha256)
        try:
            incoming.path.replace(path)
        except FileNotFoundError:
            path.parent.mkdir(mode=private_files.FOLDER_MODE, exist_ok=True)
            _sync_folder(self.root)
            incoming.path.replace(path)
        _sync_folder(path.parent)
        return path, sha256

    def path(self, sha256: str) -> Path:
        """The path of the file with this hash."""
        return self.root / relative_path(sha256)


@cache
def _prefix(pid: int) -> str:
    """The start of the names of the process's partial files."""
    return f"{pid}-{start_mark(pid)}-"


def _is_stale(name: str) -> bool:
    """Whether the process named by a partial file has ended; its ID may be another's now."""
    pid, _, remainder = name.partition("-")
    start = start_mark(int(pid)) if pid.isdecimal() else ""
    return not start or not remainder.startswith(f"{start}-")


def _sync_folder(folder: Path) -> None:
    """Make a folder's entries durable; a new name is so only then (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
