"""Reads the live board from the database, once for all boards of this process, and wakes those who
wait for a change. It reads only while somebody looks."""

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from detector.errors import QCError
from qc_daemon.observe import log
from qc_daemon.operations.board import BoardExam, read_board
from qc_daemon.records.clock import Clock
from qc_daemon.settings import Settings
from qc_daemon.web.board_tiles import TileCache

_READ_SECONDS = 0.7
_STALE_SECONDS = 10 * _READ_SECONDS


@dataclass(frozen=True, slots=True)
class Board:
    """The exams as they are, the latest first, and at which version each last changed.

    `version` counts changes of anything; `is_current` is False while the database cannot be read.
    """

    exams: tuple[BoardExam, ...]
    changed: dict[int, int]
    version: int
    is_current: bool

    def changed_since(self, version: int) -> list[BoardExam]:
        """The exams that changed after that version, the latest first."""
        return [exam for exam in self.exams if self.changed[exam.exam_id] > version]


class Subscription:
    """Waits for versions of the board within an event loop."""

    def __init__(self, feed: "BoardFeed", loop: asyncio.AbstractEventLoop) -> None:
        self._feed = feed
        self._loop = loop
        self._change = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait until the board changed, the feed was closed, or so many seconds passed."""
        if not self._feed.is_closed:
            try:
                await asyncio.wait_for(self._change.wait(), seconds)
            except TimeoutError:
                return
        self._change.clear()

    def wake(self) -> None:
        """From any thread: end a wait."""
        # A loop that has ended waits for nothing.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._change.set)


class BoardFeed:
    """The board of these settings; for use by many threads and one event loop.

    `epoch` tells this process's versions from another's; `tiles` are those that boards showed.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.epoch = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._wake = threading.Event()
        self._board = Board((), {}, 0, is_current=False)
        self.tiles = TileCache()
        self._read_at: float | None = None
        self._subscriptions: set[Subscription] = set()
        self._thread: threading.Thread | None = None
        self.is_closed = False

    def board(self) -> Board:
        """The board as it was read last; read now if that was some time ago. Raises QCError."""
        with self._lock:
            at = self._read_at
        if at is None or time.monotonic() - at > _READ_SECONDS:
            self._read()
        return self._board

    @property
    def last(self) -> Board:
        """The board as it was read last."""
        return self._board

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Have the board read again and again; within a running event loop."""
        subscription = Subscription(self, asyncio.get_running_loop())
        with self._lock:
            self._subscriptions.add(subscription)
            if self._thread is None and not self.is_closed:
                self._thread = threading.Thread(target=self._run, name="board", daemon=True)
                self._thread.start()
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every wait and the reading."""
        self.is_closed = True
        self._wake.set()
        for subscription in self._waiting():
            subscription.wake()

    def _waiting(self) -> Sequence[Subscription]:
        with self._lock:
            return tuple(self._subscriptions)

    def _run(self) -> None:
        while not self._wake.wait(_READ_SECONDS):
            with self._lock:
                if not self._subscriptions:
                    self._thread = None
                    return
            before = self._board
            try:
                self._read()
            except QCError as error:
                self._note_failure(code=error.code.value)
            except Exception as error:
                # A thread that ended here would leave the boards as they are for ever.
                self._note_failure(error_type=type(error).__name__, error_at=log.where(error))
            if self._board is not before:
                for subscription in self._waiting():
                    subscription.wake()

    def _note_failure(self, **why: str) -> None:
        board = self._board
        is_stale = self._read_at is None or time.monotonic() - self._read_at > _STALE_SECONDS
        if board.is_current and is_stale:
            log.get(role="web").warning("board not read", **why)
            with self._lock:
                self._board = Board(board.exams, board.changed, board.version + 1, is_current=False)

    def _read(self) -> None:
        """Read what changed; one thread at a time, and the others have its result."""
        begun = time.monotonic()
        with self._reading:
            with self._lock:
                if self._read_at is not None and self._read_at > begun:
                    return
            before = self._board
            known = {exam.exam_id: exam for exam in before.exams}
            exams = tuple(read_board(self._settings, known, self._clock()))
            after = _next_board(before, exams)
            with self._lock:
                self._read_at = time.monotonic()
                self._board = after
            self.tiles.keep(exams)


def _next_board(before: Board, exams: tuple[BoardExam, ...]) -> Board:
    """The board with these exams; the same object if nothing changed."""
    if before.is_current and exams == before.exams:
        return before
    version = before.version + 1
    known = {exam.exam_id: exam for exam in before.exams}
    changed = {
        exam.exam_id: before.changed[exam.exam_id] if exam == known.get(exam.exam_id) else version
        for exam in exams
    }
    return Board(exams, changed, version, is_current=True)
