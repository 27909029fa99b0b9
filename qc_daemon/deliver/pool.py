"""Per-destination connection pool: at most `max_associations` at once, `objects_per_minute`."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.fhir import FhirTransport
from qc_daemon.deliver.folder import FolderTransport
from qc_daemon.deliver.stow_rs import StowRS
from qc_daemon.deliver.transport import Convert, Transport
from qc_daemon.settings import DestinationSettings

# An idle association stays open for the next object this long.
_IDLE_SECONDS = 2.0


def create_transport(
    destination: DestinationSettings, calling_ae: str, convert: Convert | None = None
) -> Transport:
    """A new transport to a destination, by its kind."""
    match destination.kind:
        case "dicom":
            return StoreSCU(destination, calling_ae, convert)
        case "dicomweb":
            return StowRS(destination)
        case "folder":
            return FolderTransport(destination)
        case "fhir":
            return FhirTransport(destination)


@dataclass
class _ConnectionPool:
    """One destination: its active jobs, when the next may start, and idle transports by age."""

    destination: DestinationSettings
    active: int = 0
    next_at: float = 0.0
    idle: list[tuple[float, Transport]] = field(default_factory=list)


class DestinationPool:
    """Shared by the threads of a process: no more associations than each destination allows.

    A worker holds `claim_lock` from `busy` to `acquire`, so that no two take the last connection.
    """

    def __init__(
        self,
        destinations: Collection[DestinationSettings],
        calling_ae: str,
        monotonic: Callable[[], float] = time.monotonic,
        convert: Convert | None = None,
    ) -> None:
        self.claim_lock = threading.Lock()
        self._calling_ae = calling_ae
        self._convert = convert
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pools = {each.name: _ConnectionPool(each) for each in destinations}

    def busy(self) -> list[str]:
        """Destinations that nothing may be sent to now: all connections in use, or too soon."""
        now = self._monotonic()
        with self._lock:
            return [
                name
                for name, pool in self._pools.items()
                if pool.active >= pool.destination.max_associations or pool.next_at > now
            ]

    def seconds_to_wait(self) -> float | None:
        """Seconds until `objects_per_minute` of a destination allows the next object, or None."""
        now = self._monotonic()
        with self._lock:
            ahead = [pool.next_at - now for pool in self._pools.values() if pool.next_at > now]
        return min(ahead, default=None)

    def acquire(self, name: str) -> None:
        """A job for the destination has begun; `release` ends it."""
        with self._lock:
            pool = self._pools.get(name)
            if pool is None:
                return
            pool.active += 1
            per_minute = pool.destination.objects_per_minute
            if per_minute is not None:
                pool.next_at = self._monotonic() + 60.0 / per_minute

    def release(self, name: str) -> None:
        """A job for the destination has ended."""
        with self._lock:
            if name in self._pools:
                self._pools[name].active -= 1

    @contextlib.contextmanager
    def transport(self, name: str) -> Iterator[Transport]:
        """A transport for this thread alone. Raises QCError DELIVERY_REFUSED: unknown name."""
        pool = self._pools.get(name)
        if pool is None:
            raise QCError(ErrorCode.DELIVERY_REFUSED, f"destination {name} is not in the settings")
        with self._lock:
            transport = pool.idle.pop()[1] if pool.idle else None
        transport = transport or create_transport(pool.destination, self._calling_ae, self._convert)
        try:
            yield transport
        finally:
            with self._lock:
                pool.idle.append((self._monotonic(), transport))

    def close_idle(self, *, at_once: bool = False) -> None:
        """Close connections that nothing has been sent on for a while."""
        before = self._monotonic() - (0.0 if at_once else _IDLE_SECONDS)
        idle: list[Transport] = []
        with self._lock:
            for pool in self._pools.values():
                idle += [each for since, each in pool.idle if since <= before]
                pool.idle = [each for each in pool.idle if each[0] > before]
        for each in idle:
            each.close()
