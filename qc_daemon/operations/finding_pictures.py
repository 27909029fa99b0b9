"""Frames and overlays of findings as PNG, for pages and API.

Decoding runs in one child process, which belongs to one thread; pictures that were asked for lately
are kept in memory.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import ErrorCode, QCError
from qc_daemon.operations.finding_lists import Entry
from qc_daemon.records.results.findings import StoredFinding
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

if TYPE_CHECKING:
    from detector.frame import Pixels
    from qc_daemon.retain import Originals
    from qc_daemon.score.decode import DecodeProcess

# So many bytes of pictures are kept, and so many requests wait for the decoder at once.
_CACHE_BYTES = 64 * 1024 * 1024
_MAX_WAITING = 32

_HIDDEN = "somebody is still to read it blinded"
_Key = tuple[str, int, str]


class FindingPictures:
    """Draws pictures one at a time; for use by many threads."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._decoder: DecodeProcess | None = None
        self._originals: Originals | None = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0
        self._waiting = 0

    def frame(self, entry: Entry) -> bytes:
        """The finding's frame as PNG, as it was stored. Raises QCError."""
        stored = entry.stored
        frame = int(stored.body["frame"])
        return self._picture((stored.revision.sha256, frame, ""), lambda: self._frame(stored))

    def overlay(self, entry: Entry, language: str) -> bytes:
        """The frame with its boxes, and a panel with the verdict, as PNG. Raises QCError, also for
        a finding whose answer is hidden."""
        if entry.is_hidden:
            raise QCError(ErrorCode.NOT_AVAILABLE, _HIDDEN)
        version = 0 if entry.state is None else entry.state.version
        key = (f"{entry.stored.finding_id} {version}", 0, language)
        return self._picture(key, lambda: self._overlay(entry, language))

    def boxes(self, entry: Entry) -> bytes:
        """The frame with its boxes and nothing else, as PNG. Raises QCError as `overlay`."""
        if entry.is_hidden:
            raise QCError(ErrorCode.NOT_AVAILABLE, _HIDDEN)
        key = (f"{entry.stored.finding_id} boxes", 0, "")
        return self._picture(key, lambda: self._boxes(entry))

    def frame_time(self, entry: Entry) -> float | None:
        """Milliseconds from a frame of the finding's cine to the next (Frame Time, the mean of
        Frame Time Vector, else the frame rate), None where the header has none. Raises QCError."""
        key = (f"{entry.stored.revision.sha256} frame time", 0, "")
        text = self._picture(key, lambda: self._frame_time(entry.stored)).decode()
        return float(text) if text else None

    def close(self) -> None:
        """End the decoder."""
        self._thread.submit(self._close_decoder)
        self._thread.shutdown()

    def _close_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()

    def _picture(self, key: _Key, draw: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._waiting >= _MAX_WAITING:
                raise QCError(ErrorCode.DECODE_TIMEOUT, "too many pictures are asked for at once")
            self._waiting += 1
        try:
            drawing: Future[bytes] = self._thread.submit(draw)
            picture = drawing.result()
        finally:
            with self._lock:
                self._waiting -= 1
        with self._lock:
            if key not in self._kept:
                self._kept[key] = picture
                self._size += len(picture)
            while self._size > _CACHE_BYTES:
                _, oldest = self._kept.popitem(last=False)
                self._size -= len(oldest)
        return picture

    def _open(self, stored: StoredFinding) -> tuple["DecodeProcess", Path]:
        """In the decoder's thread: the decoder, and the file with the finding's pixels."""
        from qc_daemon.retain import Originals
        from qc_daemon.score.decode import DecodeProcess

        if self._decoder is None:
            self._decoder = DecodeProcess.of(self._settings.score)
            self._originals = Originals(self._store, self._settings, self._decoder.pixel_sha256)
        assert self._originals is not None
        return self._decoder, self._originals(stored.revision)

    def _frame_time(self, stored: StoredFinding) -> bytes:
        decoder, path = self._open(stored)
        milliseconds = decoder.image_facts(path).frame_time_ms
        return b"" if milliseconds is None else repr(milliseconds).encode()

    def _pixels(self, stored: StoredFinding) -> "Pixels":
        """In the decoder's thread: the pixels of the finding's frame, RGB."""
        decoder, path = self._open(stored)
        frames = list(decoder.frames(path, [int(stored.body["frame"])]))
        if not frames:
            raise QCError(ErrorCode.DECODE_FAILED, "its frame cannot be decoded again")
        return frames[0].pixels

    def _frame(self, stored: StoredFinding) -> bytes:
        from qc_daemon.report.summary.html import encode_png

        return encode_png(self._pixels(stored))

    def _boxes(self, entry: Entry) -> bytes:
        from model.finding import Finding
        from qc_daemon.report.objects.overlay import render_frame
        from qc_daemon.report.summary.html import encode_png

        finding = Finding.from_json(entry.stored.body)
        return encode_png(render_frame(self._pixels(entry.stored), finding))

    def _overlay(self, entry: Entry, language: str) -> bytes:
        from model.finding import Finding
        from qc_daemon.report.objects.overlay import render_overlay
        from qc_daemon.report.person_verdict import apply_review
        from qc_daemon.report.summary.html import encode_png
        from qc_daemon.report.summary.summary import Decision

        finding = Finding.from_json(entry.stored.body)
        review = None if entry.state is None else entry.state.as_reported()
        outcome = None if review is None else review.outcome
        decision = None if outcome is None else Decision(outcome, finding.judgement)
        return encode_png(
            render_overlay(
                self._pixels(entry.stored),
                apply_review(finding, review),
                language,
                decision,
                self._settings.schedule.local_zone,
            )
        )
