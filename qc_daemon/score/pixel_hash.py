"""The hash of a file's pixels for those who seldom ask: decoded in a child started for the call.

Neither numpy nor the decoder is imported before: receiver and deliverer stay small.
"""

from collections.abc import Callable
from pathlib import Path

from qc_daemon.settings import ScoreSettings


def pixel_hash(settings: ScoreSettings) -> Callable[[Path], str]:
    """A function that hashes the decoded pixels of a file; it raises QCError as
    `DecodeProcess.summary`."""

    def decode(path: Path) -> str:
        from qc_daemon.score.decode import DecodeProcess

        with DecodeProcess.of(settings) as decoder:
            return decoder.pixel_sha256(path)

    return decode
