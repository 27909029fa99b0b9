"""What is known of who made the stored images, where and with what; reading what is pending."""

import threading
from typing import Any

from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.operations.shared import open_store
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.settings import Settings


def count_acquisitions(settings: Settings) -> dict[str, Any]:
    """How many images were read, of how many the file was gone or unreadable, how many are still to
    be read."""
    with open_store(settings).read() as session:
        return dict(acquisitions.count_states(session))


def fill_acquisitions(settings: Settings, *, with_unknown: bool) -> str:
    """Read the headers of pending images now; returns a line with what came of it.

    Raises QCError STORAGE, SPOOL_MISSING.
    """
    from qc_daemon.score.acquisition_fill import fill
    from qc_daemon.score.decode import DecodeProcess

    store, spool = open_store(settings), settings.store.spool
    with store.read() as session:
        has_any = bool(acquisitions.unread(session, 0, 1, with_unknown=with_unknown))
    if not has_any:
        return "nothing is left to be read"
    if not spool.is_dir():
        raise QCError(ErrorCode.SPOOL_MISSING, f"the spool {spool} is not there")
    with DecodeProcess.of(settings.score) as decoder:
        filled = fill(store, spool, decoder, threading.Event(), with_unknown=with_unknown)
    words = count_of(filled.read, "image was read", "images were read")
    if not filled.unknown:
        return words
    return f"{words}; of {filled.unknown} the file is gone or cannot be read: they stay unknown"
