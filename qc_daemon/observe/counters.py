"""Counts of several processes in one piece of shared memory.

The supervisor makes the board; each process writes its own row only, so that no lock crosses
processes, and counters live on when a process dies and its successor takes the row. Memory, not a
file: a full disk under a mapped file kills whoever writes to it.
"""

import mmap
import os
import struct
import threading
from collections.abc import Iterable

ROWS = 256
_CELL = 8

COUNTERS = (
    "stored_new", "stored_same", "stored_revision", "stored_bytes",
    "refused_0110", "refused_A700", "refused_A900", "refused_C000", "refused_other",
    "rejected_unknown", "rejected_busy", "rejected_called", "rejected_protocol",
    "fetched_back", "fetched_nowhere", "spool_damaged",
)  # fmt: skip
GAUGES = (
    "ready", "associations", "pressure", "spool_orphans", "spool_missing", "scrub_finished",
    "scrub_faults",
)  # fmt: skip
"""What a process measured ends with it; `ready` is 1 once it has said that it can do its work."""


def deliveries(destinations: Iterable[str]) -> list[str]:
    """The counters of these destinations: objects taken, attempts failed."""
    return [f"{outcome} {name}" for name in destinations for outcome in ("delivered", "failed")]


class Board:
    """`ROWS` rows of named numbers; `names` beyond the fixed ones are more counters."""

    def __init__(self, fd: int, more: Iterable[str] = ()) -> None:
        self.more = list(more)
        self.names = (*COUNTERS, *self.more, *GAUGES)
        self.fd = fd
        self._place = {name: place for place, name in enumerate(self.names)}
        self._memory = mmap.mmap(fd, ROWS * self._width)

    @classmethod
    def create(cls, more: Iterable[str] = ()) -> "Board":
        more = list(more)
        fd = os.memfd_create("qc-tally")
        os.ftruncate(fd, ROWS * (len(COUNTERS) + len(more) + len(GAUGES)) * _CELL)
        return cls(fd, more)

    @property
    def _width(self) -> int:
        return len(self.names) * _CELL

    def get(self, row: int, name: str) -> float:
        value: float = struct.unpack_from("d", self._memory, self._offset(row, name))[0]
        return value

    def put(self, row: int, name: str, value: float) -> None:
        struct.pack_into("d", self._memory, self._offset(row, name), value)

    def knows(self, name: str) -> bool:
        return name in self._place

    def end(self, row: int) -> None:
        """The row's process is gone: what it counted stays, what it measured does not."""
        for name in GAUGES:
            self.put(row, name, 0.0)

    def total(self, name: str) -> float:
        return sum(self.get(row, name) for row in range(ROWS))

    def most(self, name: str) -> float:
        return max(self.get(row, name) for row in range(ROWS))

    def _offset(self, row: int, name: str) -> int:
        return row * self._width + self._place[name] * _CELL


_lock = threading.Lock()
_board = Board.create()
_row = 0


def use(board: Board, row: int) -> None:
    """Let this process count in `row` of the service's board."""
    global _board, _row
    with _lock:
        board.end(row)
        _board, _row = board, row


def board() -> Board:
    """The board this process counts on: its own until `use`."""
    return _board


def add(name: str, amount: float = 1) -> None:
    """Count; raises KeyError for a name that is not on the board."""
    with _lock:
        _board.put(_row, name, _board.get(_row, name) + amount)


def get(name: str) -> float:
    """What this process has counted or said."""
    with _lock:
        return _board.get(_row, name)


def put(name: str, value: float) -> None:
    """Say how much there is now."""
    with _lock:
        _board.put(_row, name, value)


def stored(kind: str, size: int) -> None:
    """Count a stored object (new, same or revision) of so many bytes."""
    add(f"stored_{kind}")
    add("stored_bytes", size)


def delivery(destination: str, *, done: bool) -> None:
    """Count a delivery, or an attempt that failed; destinations no longer in the settings are not
    on the board."""
    name = deliveries([destination])[0 if done else 1]
    if _board.knows(name):
        add(name)


def refused(status: int) -> None:
    """Count an object answered with this C-STORE status."""
    name = f"refused_{status:04X}"
    add(name if _board.knows(name) else "refused_other")
