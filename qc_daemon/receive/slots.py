"""Association slots shared by all receiving processes: a limit in all, and one for each AE.

A table in memory that the supervisor creates and its receivers inherit: one entry for each slot,
with the process that has it and the calling AE title. `clear` frees the slots of a dead process.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

# Process ID (0: free) and AE title. A title has 16 characters at most (PS3.5 6.2); one that is not
# ASCII takes more bytes, and is cut off.
_SLOT = struct.Struct("<I20s")


class AssociationSlots:
    """The table behind a descriptor; `limit` slots in all, `limit_per_ae` for each AE (0: any)."""

    def __init__(self, descriptor: int, limit: int, limit_per_ae: int) -> None:
        self.descriptor = descriptor
        self.limit = limit
        self.limit_per_ae = limit_per_ae
        self._table = mmap.mmap(descriptor, limit * _SLOT.size)
        self._lock = threading.Lock()

    @classmethod
    def create(cls, limit: int, limit_per_ae: int) -> "AssociationSlots":
        """An empty table, whose `descriptor` child processes can inherit."""
        descriptor = os.memfd_create("association-slots")
        os.ftruncate(descriptor, limit * _SLOT.size)
        return cls(descriptor, limit, limit_per_ae)

    def reserve(self, ae_title: str) -> int | None:
        """Reserve a slot for an association of this process; None if none is free for the AE."""
        title = _encode(ae_title)
        with self._locked():
            slots = list(self._slots())
            of_ae = sum(1 for pid, name in slots if pid and name == title)
            if self.limit_per_ae and of_ae >= self.limit_per_ae:
                return None
            for slot, (pid, _) in enumerate(slots):
                if not pid:
                    self._write(slot, os.getpid(), title)
                    return slot
        return None

    def release(self, slot: int) -> None:
        """Free the slot of an association that has ended."""
        with self._locked():
            self._write(slot, 0, b"")

    def clear(self, pid: int) -> int:
        """Free the slots of a process that has died; returns how many."""
        with self._locked():
            slots = [slot for slot, (owner, _) in enumerate(self._slots()) if owner == pid]
            for slot in slots:
                self._write(slot, 0, b"")
        return len(slots)

    def count_by_process(self) -> Counter[int]:
        """How many slots each process has, by process ID."""
        # Without the lock: a slot that changes meanwhile makes the figure one too high or too low.
        return Counter(pid for pid, _ in self._slots() if pid)

    def close(self) -> None:
        """Close the table in this process; others keep theirs."""
        self._table.close()
        os.close(self.descriptor)

    def _slots(self) -> Iterator[tuple[int, bytes]]:
        for pid, title in _SLOT.iter_unpack(self._table[:]):
            yield pid, title.rstrip(b"\0")

    def _write(self, slot: int, pid: int, title: bytes) -> None:
        _SLOT.pack_into(self._table, slot * _SLOT.size, pid, title)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads and processes; the kernel frees the lock of a process that dies."""
        with self._lock:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


def _encode(ae_title: str) -> bytes:
    return ae_title.strip().encode("utf-8", "replace")[: _SLOT.size - 4]
