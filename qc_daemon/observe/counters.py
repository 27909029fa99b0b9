"""Counters and gauges of several processes in one piece of shared memory.

The supervisor creates it; each process writes its own row only, so that no lock crosses processes,
and counters live on when a process dies and its successor takes the row. Memory, not a file: a full
disk under a mapped file kills whoever writes to it.
"""

import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from detector.anatomy import View
from detector.errors import Flag

ROWS = 256
_CELL = 8

TIMED = ("store", "score", "report", "deliver")
"""What is timed: answering a C-STORE request, and the run of a job of each kind."""
BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, float("inf"))
"""Upper limits of the histograms of durations, in seconds."""
VERDICTS = ("standard", "non-standard", "review")


def _duration_names(kind: str) -> list[str]:
    return [*(f"{kind}_within_{limit:g}" for limit in BUCKETS), f"{kind}_seconds"]


COUNTERS = (
    "stored_new", "stored_same", "stored_revision", "stored_bytes",
    "refused_0110", "refused_A700", "refused_A900", "refused_C000", "refused_other",
    "rejected_unknown", "rejected_busy", "rejected_called", "rejected_protocol",
    "login_headers_ignored",
    "fetched_back", "fetched_nowhere", "spool_damaged",
    "failed_score", "failed_report", "failed_deliver",
    *(name for kind in TIMED for name in _duration_names(kind)),
    *(f"found_{view}_{verdict}" for view in View for verdict in VERDICTS),
    *(f"flag_{flag}" for flag in Flag),
)  # fmt: skip
GAUGES = (
    "ready", "associations", "pressure", "spool_orphans", "spool_missing", "scrub_finished",
    "scrub_faults", "backup_finished", "reviews_waiting", "reviews_second_reading",
    "reviews_disagreement", "reviews_oldest", "sites_calibrated", "sites_waived",
    "sites_commissioning", "promises_broken",
)  # fmt: skip
"""Values of a process that end with it; `ready` is 1 once it has said that it can do its work."""


def delivery_names(destinations: Iterable[str]) -> list[str]:
    """The names of these destinations' counters: objects delivered, attempts failed."""
    return [f"{outcome} {name}" for name in destinations for outcome in ("delivered", "failed")]


class SharedCounters:
    """`ROWS` rows of named numbers; `more` names further counters beside the fixed ones."""

    def __init__(self, fd: int, more: Iterable[str] = ()) -> None:
        self.more = list(more)
        self.names = (*COUNTERS, *self.more, *GAUGES)
        self.fd = fd
        self._index = {name: index for index, name in enumerate(self.names)}
        self._memory = mmap.mmap(fd, ROWS * self._width)

    @classmethod
    def create(cls, more: Iterable[str] = ()) -> "SharedCounters":
        """Rows of zeros in new memory, whose `fd` child processes inherit."""
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

    def set(self, row: int, name: str, value: float) -> None:
        struct.pack_into("d", self._memory, self._offset(row, name), value)

    def has(self, name: str) -> bool:
        """Whether there is a counter or gauge of that name."""
        return name in self._index

    def reset_gauges(self, row: int) -> None:
        """Set the gauges of a row whose process has ended to 0; its counters stay."""
        for name in GAUGES:
            self.set(row, name, 0.0)

    def total(self, name: str) -> float:
        """The sum over all rows."""
        return sum(self.get(row, name) for row in range(ROWS))

    def maximum(self, name: str) -> float:
        """The greatest value of any row."""
        return max(self.get(row, name) for row in range(ROWS))

    def _offset(self, row: int, name: str) -> int:
        return row * self._width + self._index[name] * _CELL


_lock = threading.Lock()
_shared = SharedCounters.create()
_row = 0


def use(memory: SharedCounters, row: int) -> None:
    """Let this process count in `row` of the service's shared counters."""
    global _shared, _row
    with _lock:
        memory.reset_gauges(row)
        _shared, _row = memory, row


def shared() -> SharedCounters:
    """The counters that this process counts in: its own until `use`."""
    return _shared


def add(name: str, amount: float = 1) -> None:
    """Add to this process's counter; raises KeyError for a name that is none of the counters."""
    with _lock:
        _shared.set(_row, name, _shared.get(_row, name) + amount)


def get(name: str) -> float:
    """The value of this process's counter or gauge."""
    with _lock:
        return _shared.get(_row, name)


def set(name: str, value: float) -> None:
    """Set this process's gauge."""
    with _lock:
        _shared.set(_row, name, value)


def count_stored(kind: str, size: int) -> None:
    """Count a stored object (new, same or revision) of so many bytes."""
    add(f"stored_{kind}")
    add("stored_bytes", size)


def count_delivery(destination: str, *, done: bool) -> None:
    """Count a delivery, or an attempt that failed.

    Destinations that are no longer in the settings have no counter.
    """
    name = delivery_names([destination])[0 if done else 1]
    if _shared.has(name):
        add(name)


def count_refused(status: int) -> None:
    """Count an object answered with this C-STORE status."""
    name = f"refused_{status:04X}"
    add(name if _shared.has(name) else "refused_other")


def count_duration(kind: str, seconds: float) -> None:
    """Count what took so long, of a kind in `TIMED`."""
    add(f"{kind}_within_{BUCKETS[bisect_left(BUCKETS, seconds)]:g}")
    add(f"{kind}_seconds", seconds)


def durations(memory: SharedCounters, kind: str) -> tuple[list[tuple[float, float]], float]:
    """The limits of the histogram with how many took no longer, and the sum of seconds."""
    buckets, count = [], 0.0
    for limit in BUCKETS:
        count += memory.total(f"{kind}_within_{limit:g}")
        buckets.append((limit, count))
    return buckets, memory.total(f"{kind}_seconds")


def count_finding(view: str, verdict: str, flags: Sequence[str]) -> None:
    """Count a stored finding."""
    add(f"found_{view}_{verdict}")
    for flag in flags:
        add(f"flag_{flag}")


def count_job_failure(kind: str) -> None:
    """Count a run of a job of this kind that failed."""
    add(f"failed_{kind}")
