"""Received bytes on disk: written once, named by their SHA-256, never by anything a sender says."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_INCOMING = "incoming"
_BUFFER = 1 << 20


class Incoming:
    """A file being received. Write errors are kept, not raised, until `flush` or `finish`.

    The network thread that writes here cannot answer the sender; the handler that can, learns of a
    full or read-only disk from `finish`. A file nobody adopts is removed with the object.
    """

    def __init__(self, folder: Path) -> None:
        self.error: OSError | None = None
        self.size = 0
        self._digest = hashlib.sha256()
        self._fd = -1
        self._buffer = bytearray()
        self.path = folder / "none"
        try:
            self._fd, name = tempfile.mkstemp(suffix=".part", dir=folder)
            self.path = Path(name)
        except OSError as error:
            self.error = error

    def write(self, data: bytes) -> int:
        """Append `data`; after the first error the rest is only counted."""
        self.size += len(data)
        if self.error is None:
            self._digest.update(data)
            self._buffer += data
            if len(self._buffer) >= _BUFFER:
                self._write_out()
        return len(data)

    def _write_out(self) -> None:
        view = memoryview(bytes(self._buffer))
        self._buffer.clear()
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.error = error

    def flush(self) -> None:
        """Let readers of `path` see every byte. Raises the first OSError there was."""
        if self.error is None:
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
    """The received files: `ab/cd/<sha256>.dcm`, and `incoming/` for those not yet whole."""

    root: Path

    @property
    def incoming(self) -> Path:
        return self.root / _INCOMING

    def prepare(self) -> None:
        """Make the folders and prove that a file can be written; raises OSError if not."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        with self.open() as probe:
            probe.write(b"\0")
            probe.finish()
        _sync_folder(self.root)

    def sweep(self) -> int:
        """Remove files left by a process that died while receiving; returns how many.

        Only for a moment at which no receiver runs on this spool: none of them was acknowledged.
        """
        stale = [path for path in self.incoming.glob("*.part") if path.is_file()]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def open(self) -> Incoming:
        return Incoming(self.incoming)

    def adopt(self, incoming: Incoming) -> tuple[Path, str]:
        """Make a received file durable under its SHA-256; returns its path and that hash.

        Same bytes again replace themselves in one step, so a copy damaged by a crash heals.
        Raises OSError; then nothing was adopted.
        """
        sha256 = incoming.finish()
        path = self.path(sha256)
        for folder in _missing_folders(path.parent):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
        incoming.path.replace(path)
        _sync_folder(path.parent)
        return path, sha256

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256[2:4] / f"{sha256}.dcm"


def _missing_folders(folder: Path) -> Iterator[Path]:
    """The folders to make, outermost first; the one above `folder` and itself may be missing."""
    return (step for step in (folder.parent, folder) if not step.is_dir())


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a new name is durable only then (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
