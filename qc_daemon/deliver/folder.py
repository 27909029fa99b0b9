"""Delivery into a folder: a file is there whole, or not at all."""

import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path

from detector.codes import ErrorCode, QCError
from qc_daemon import private
from qc_daemon.deliver.item import Item
from qc_daemon.settings import DestinationSettings
from qc_daemon.spool_file import blocks

_SAFE = re.compile(r"[0-9][0-9.]{0,63}(-r[0-9]+)?")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def file_name(name: str) -> str:
    """`name`.dcm if it is a UID (with our suffix), else its SHA-256: no sender names files."""
    if _SAFE.fullmatch(name) is None:
        name = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()
    return f"{name}.dcm"


class FolderCarrier:
    """A carrier into `destination.folder`; the same object again replaces itself."""

    def __init__(self, destination: DestinationSettings) -> None:
        if destination.folder is None:
            raise ValueError("a folder destination without a folder")
        self.name = destination.name
        self.folder: Path = destination.folder

    def send(self, item: Item) -> bool:
        try:
            with item.file() as path:
                self._place(path, self.folder / file_name(item.name), item.sha256)
        except OSError as error:
            full = error.errno in _NO_SPACE
            code = ErrorCode.DELIVERY_RESOURCES if full else ErrorCode.DELIVERY_UNREACHABLE
            raise QCError(
                code, f"destination {self.name} cannot be written: {error.strerror}"
            ) from error
        return False

    def close(self) -> None:
        """Nothing is held open."""

    def _place(self, source: Path, target: Path, sha256: str | None) -> None:
        private.make_folder(self.folder)
        fd, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.folder)
        part = Path(name)
        try:
            with os.fdopen(fd, "wb") as made:
                for block in blocks(source, sha256, 1 << 20):
                    made.write(block)
                made.flush()
                os.fsync(made.fileno())
            # Whom the share's owner lets into the folder may read what is in it, and nobody else.
            part.chmod(0o666 & self.folder.stat().st_mode)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
