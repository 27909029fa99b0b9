"""The places for associations, shared by all receiving processes: so many in all, and for one AE.

A table in memory that the supervisor makes and its receivers inherit: one slot for each place, with
the process that holds it and the calling AE title. What a dead process held is freed by `clear`.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

# Process id (0: free) and AE title; 16 characters at most (PS3.5 6.2), but a liar may send others.
_SLOT = struct.Struct("<I20s")


class Places:
    """The table behind a descriptor that `make` gave; `most_of_ae` 0 means no cap."""

    def __init__(self, descriptor: int, most: int, most_of_ae: int) -> None:
        self.descriptor = descriptor
        self.most = most
        self.most_of_ae = most_of_ae
        self._table = mmap.mmap(descriptor, most * _SLOT.size)
        self._lock = threading.Lock()

    @classmethod
    def make(cls, most: int, most_of_ae: int) -> "Places":
        """An empty table that child processes can be given."""
        descriptor = os.memfd_create("places")
        os.ftruncate(descriptor, most * _SLOT.size)
        return cls(descriptor, most, most_of_ae)

    def take(self, ae_title: str) -> int | None:
        """A place for an association of this process; None if there is none left for the AE."""
        title = _encoded(ae_title)
        with self._alone():
            slots = list(self._slots())
            of_ae = sum(1 for pid, name in slots if pid and name == title)
            if self.most_of_ae and of_ae >= self.most_of_ae:
                return None
            for place, (pid, _) in enumerate(slots):
                if not pid:
                    self._write(place, os.getpid(), title)
                    return place
        return None

    def leave(self, place: int) -> None:
        """The association is over."""
        with self._alone():
            self._write(place, 0, b"")

    def clear(self, pid: int) -> int:
        """Free what a process held that has died; returns how many places."""
        with self._alone():
            held = [place for place, (holder, _) in enumerate(self._slots()) if holder == pid]
            for place in held:
                self._write(place, 0, b"")
        return len(held)

    def held(self) -> Counter[int]:
        """How many places each process holds, by its id."""
        # Without the lock: a slot that changes meanwhile makes the figure one too high or too low.
        return Counter(pid for pid, _ in self._slots() if pid)

    def close(self) -> None:
        self._table.close()
        os.close(self.descriptor)

    def _slots(self) -> Iterator[tuple[int, bytes]]:
        for pid, title in _SLOT.iter_unpack(self._table[:]):
            yield pid, title.rstrip(b"\0")

    def _write(self, place: int, pid: int, title: bytes) -> None:
        _SLOT.pack_into(self._table, place * _SLOT.size, pid, title)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Neither a thread of ours nor another process in the table; a dead one's lock is gone."""
        with self._lock:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


def _encoded(ae_title: str) -> bytes:
    return ae_title.strip().encode("utf-8", "replace")[: _SLOT.size - 4]
