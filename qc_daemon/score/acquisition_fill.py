"""Reads the facts of acquisition of images that an older version scored, from the spool.

A migration cannot: it is one transaction, which thousands of files would hold open while nobody can
store. So a scored image without facts is pending; after the start they are read one by one, and
what was read stays where the service stops.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.acquisition import Acquisition
from qc_daemon.observe import log
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.store import Store
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.spool.verification import content_hash

# Images of one query and of one pause.
_PAGE = 50
_RETRY_SECONDS = 60.0
_OF_THE_FILE = frozenset(
    {
        ErrorCode.SPOOL_MISSING,
        ErrorCode.SPOOL_DAMAGED,
        ErrorCode.UNREADABLE,
        ErrorCode.TRUNCATED,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.DECODE_FAILED,
        ErrorCode.DECODE_MEMORY,
        ErrorCode.DECODE_TIMEOUT,
    }
)
"""With these the file is gone or cannot be read; with any other one the disk or this machine."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How many images were read, and of how many the file is gone or cannot be read."""

    read: int = 0
    unknown: int = 0


def fill(
    store: Store,
    spool: Path,
    decoder: DecodeProcess,
    stop: threading.Event,
    *,
    with_unknown: bool = False,
    pause: Callable[[float], object] = lambda _seconds: None,
    clock: Clock = utc_now,
) -> Filled:
    """Read every pending image, and with `with_unknown` those again whose file was gone, until
    `stop`. `pause` is called after each page with the seconds that it took.

    Raises QCError STORAGE, SPOOL_MISSING where the spool itself is away.
    """
    filled, after = Filled(), 0
    while not stop.is_set():
        started = time.monotonic()
        with store.read() as session:
            page = acquisitions.unread(session, after, _PAGE, with_unknown=with_unknown)
        if not page:
            break
        for facts in page:
            if stop.is_set():
                break
            acquisition = _read(facts, spool, decoder)
            with store.begin() as session:
                acquisitions.store(
                    session, facts.revision_id, acquisition, facts.calling_ae, clock()
                )
            after = facts.revision_id
            if acquisition is None:
                filled = replace(filled, unknown=filled.unknown + 1)
            else:
                filled = replace(filled, read=filled.read + 1)
        pause(time.monotonic() - started)
    return filled


def fill_in_background(
    store: Store,
    spool: Path,
    open_decoder: Callable[[], DecodeProcess],
    stop: threading.Event,
) -> None:
    """`fill` once after the start, half of the time idle; again where the disk was away."""
    logger = log.get(role="schedule")
    while not stop.is_set():
        try:
            with store.read() as session:
                if not acquisitions.unread(session, 0, 1):
                    return
            with open_decoder() as decoder:
                filled = fill(store, spool, decoder, stop, pause=stop.wait)
            logger.info("acquisitions read", count=filled.read)
            if filled.unknown:
                logger.warning("acquisitions unknown", count=filled.unknown)
            return
        except (QCError, OSError) as error:
            logger.warning("reading acquisitions stalled", error_type=type(error).__name__)
            stop.wait(_RETRY_SECONDS)


def _read(facts: RevisionFacts, spool: Path, decoder: DecodeProcess) -> Acquisition | None:
    """The facts in the revision's file; None where that is gone or cannot be read."""
    path = spool / facts.path
    try:
        return decoder.acquisition(path, content_hash(path, facts.sha256))
    except QCError as error:
        if error.code not in _OF_THE_FILE:
            raise
        if not spool.is_dir():
            raise QCError(ErrorCode.SPOOL_MISSING, "the spool is away") from None
        return None
