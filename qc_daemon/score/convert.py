"""Re-encodes objects for destinations that do not take their transfer syntax, in a limited child.

Memory and time of the child are limited; its output goes block by block into an unnamed file.
"""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.settings import ScoreSettings


class Converter:
    """Re-encodes objects; each thread that calls it has a child of its own.

    `folder` holds the encoded bytes while they are sent; None: the system's temporary folder.
    """

    def __init__(self, limits: ScoreSettings, folder: Path | None = None) -> None:
        self._limits = limits
        self._folder = folder
        self._own = threading.local()

    @contextlib.contextmanager
    def __call__(self, path: Path, sha256: str | None, transfer_syntax: str) -> Iterator[Path]:
        """The object of the file at `path` as a file in `transfer_syntax`, gone after the block.

        The child reads only a file of this SHA-256, if one is given. Raises QCError as
        `DecodeProcess.convert`, or DELIVERY_RESOURCES without room for the encoded bytes.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
                for block in self._process().convert(path, transfer_syntax, sha256):
                    file.write(block)
                file.flush()
            except OSError as error:
                reason = (error.strerror or "error").lower()
                raise QCError(
                    ErrorCode.DELIVERY_RESOURCES,
                    f"the object cannot be encoded anew in the spool: {reason}",
                ) from error
            yield Path(f"/proc/self/fd/{file.fileno()}")

    def close(self) -> None:
        """End the calling thread's child; the next call starts another."""
        process: DecodeProcess | None = getattr(self._own, "process", None)
        if process is not None:
            process.close()

    def _process(self) -> DecodeProcess:
        process: DecodeProcess | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = DecodeProcess(
                megabytes=self._limits.decode_megabytes, seconds=self._limits.decode_seconds
            )
        return process
