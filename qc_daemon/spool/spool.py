"""Received bytes on disk: written once, named by their SHA-256, never by anything a sender says."""

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
# Hashing and writing let other threads run, and cost a thread switch: not for every few kilobytes.
_BLOCK = 512 << 10
# Blocks kept for the next object rather than asked of the system anew.
_SPARE_BLOCKS = 32
# What tells a process's partial files apart.
_numbers = itertools.count()
_spare: "deque[memoryview]" = deque(maxlen=_SPARE_BLOCKS)


def relative_path(sha256: str) -> str:
    """Where the spool keeps the bytes of this hash: 256 folders, which may grow large.

    A second level would be a new folder, and so two more flushes of the disk, for most objects.
    """
    return f"{sha256[:2]}/{sha256}.dcm"


class Incoming:
    """A file being received. Write errors are kept, not raised, until `flush` or `finish`.

    The network thread that writes here cannot answer the sender; the handler that can, learns of a
    full or read-only disk from `finish`. A file nobody adopts is removed with the object; one that
    can no longer be whole is removed at once, and the rest of its bytes goes nowhere.

    `has_room` is asked before each block is written; without a folder no byte is kept at all.
    """

    def __init__(self, folder: Path | None, has_room: Callable[[], bool] = lambda: True) -> None:
        self.error: OSError | None = None
        self.size = 0
        # How many of these bytes went nowhere.
        self.lost = 0
        self._has_room = has_room
        self.data_set_offset = 0
        self._digest = hashlib.sha256()
        self._fd = -1
        self._block = _spare.pop() if _spare else memoryview(bytearray(_BLOCK))
        self._used = 0
        self.path = (folder or Path()) / "none"
        if folder is None:
            self.error = OSError(errno.ENOSPC, "nothing is kept")
            return
        try:
            path = folder / f"{_mark(os.getpid())}{next(_numbers)}{_PART}"
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self.path = path
        except OSError as error:
            self.error = error

    def space(self, wanted: int) -> memoryview:
        """Room for at most `wanted` bytes, at least one; tell with `filled` how many it holds."""
        return self._block[self._used : self._used + wanted]

    def filled(self, count: int) -> None:
        """The first `count` bytes of the last `space` are the file's next."""
        self._used += count
        self.size += count
        if self._used == len(self._block):
            self._write_out()

    def write(self, data: bytes) -> int:
        """Append `data`; after the first error the rest is only counted."""
        rest = memoryview(data)
        while rest:
            space = self.space(len(rest))
            space[:] = rest[: len(space)]
            self.filled(len(space))
            rest = rest[len(space) :]
        return len(data)

    def _write_out(self) -> None:
        view = self._block[: self._used]
        self._used = 0
        if self.error is not None:
            self.lost += len(view)
            return
        self._digest.update(view)
        try:
            # Small objects come here once, and the handler has asked for them.
            if len(view) == len(self._block) and not self._has_room():
                raise OSError(errno.ENOSPC, "no room for now")
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.error = error
            self._remove()

    def flush(self) -> None:
        """Let readers of `path` see every byte. Raises the first OSError there was."""
        self._write_out()
        if self.error is not None:
            raise self.error

    def finish(self) -> str:
        """Bring every byte to the disk; returns their SHA-256. Raises OSError when that failed."""
        self.flush()
        os.fsync(self._fd)
        if os.fstat(self._fd).st_size != self.size:
            raise OSError("the spool holds another number of bytes than were received")
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Close, and remove the file unless it was adopted under its final name."""
        if self._block:
            _spare.append(self._block)
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
        # An association whose thread dies just drops the object: there is no other end to hook.
        if getattr(self, "_fd", -1) >= 0:
            self.discard()


@dataclass(frozen=True)
class Spool:
    """The received files: `ab/<sha256>.dcm`, and `incoming/` for those not yet whole."""

    root: Path

    @property
    def incoming(self) -> Path:
        return self.root / _INCOMING

    def prepare(self) -> None:
        """Make the folders and prove that a file can be written; raises OSError if not.

        Folders of an older version are closed to others; the files in them always were.
        """
        private_files.make_folder(self.incoming)
        for folder in (self.root, *(each for each in self.root.iterdir() if each.is_dir())):
            private_files.tighten(folder)
        with self.open() as probe:
            probe.write(b"\0")
            probe.finish()
        _sync_folder(self.root)

    def sweep(self) -> int:
        """Remove files that dead processes were receiving; returns how many.

        None of them was acknowledged. What living processes receive is left alone.
        """
        stale = [path for path in self.incoming.glob(f"*{_PART}") if _left(path.name)]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def open(self, has_room: Callable[[], bool] = lambda: True) -> Incoming:
        """A new file; `has_room` says whether another block of it may be written."""
        return Incoming(self.incoming, has_room)

    def adopt(self, incoming: Incoming) -> tuple[Path, str]:
        """Make a received file durable under its SHA-256; returns its path and that hash.

        Same bytes again replace themselves in one step, so a copy damaged by a crash heals.
        Raises OSError; then nothing was adopted.
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
        return self.root / relative_path(sha256)


@cache
def _mark(pid: int) -> str:
    """What the names of the process's partial files begin with."""
    return f"{pid}-{start_mark(pid)}-"


def _left(name: str) -> bool:
    """Whether the process that the name of a partial file tells of runs no more."""
    pid, _, rest = name.partition("-")
    born = start_mark(int(pid)) if pid.isdecimal() else ""
    return not born or not rest.startswith(f"{born}-")


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a new name is durable only then (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
