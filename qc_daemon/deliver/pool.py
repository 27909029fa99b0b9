"""The ways to the destinations: how many objects go at once, and how fast one after the other."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.folder import FolderCarrier
from qc_daemon.deliver.stow_rs import StowRS
from qc_daemon.deliver.transport import Carrier, Convert
from qc_daemon.settings import DestinationSettings

# An association is kept this long for the next object.
_REST_SECONDS = 2.0


def carrier(
    destination: DestinationSettings, calling_ae: str, convert: Convert | None = None
) -> Carrier:
    """The way to a destination, by its kind."""
    match destination.kind:
        case "dicom":
            return StoreSCU(destination, calling_ae, convert)
        case "dicomweb":
            return StowRS(destination)
        case "folder":
            return FolderCarrier(destination)


@dataclass
class _Lane:
    """One destination: jobs on their way, when the next may start, carriers at rest (since)."""

    destination: DestinationSettings
    going: int = 0
    next_at: float = 0.0
    resting: list[tuple[float, Carrier]] = field(default_factory=list)


class Lanes:
    """What the threads of a process share: no more associations than each destination allows.

    Who looks for a job holds `turn` from `closed` to `enter`, so that no two take the last place.
    """

    def __init__(
        self,
        destinations: Collection[DestinationSettings],
        calling_ae: str,
        monotonic: Callable[[], float] = time.monotonic,
        convert: Convert | None = None,
    ) -> None:
        self.turn = threading.Lock()
        self._calling_ae = calling_ae
        self._convert = convert
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._lanes = {each.name: _Lane(each) for each in destinations}

    def closed(self) -> list[str]:
        """Destinations that may be sent nothing more just now."""
        now = self._monotonic()
        with self._lock:
            return [
                name
                for name, lane in self._lanes.items()
                if lane.going >= lane.destination.max_associations or lane.next_at > now
            ]

    def wait(self) -> float | None:
        """Seconds until the pace of a destination lets the next object go; None if none waits."""
        now = self._monotonic()
        with self._lock:
            ahead = [lane.next_at - now for lane in self._lanes.values() if lane.next_at > now]
        return min(ahead, default=None)

    def enter(self, name: str) -> None:
        """A job for the destination has begun; `leave` ends it."""
        with self._lock:
            lane = self._lanes.get(name)
            if lane is None:
                return
            lane.going += 1
            per_minute = lane.destination.objects_per_minute
            if per_minute is not None:
                lane.next_at = self._monotonic() + 60.0 / per_minute

    def leave(self, name: str) -> None:
        """A job for the destination has ended."""
        with self._lock:
            if name in self._lanes:
                self._lanes[name].going -= 1

    @contextlib.contextmanager
    def carrier(self, name: str) -> Iterator[Carrier]:
        """A carrier to the destination, for this thread alone. Raises QCError DELIVERY_REFUSED."""
        lane = self._lanes.get(name)
        if lane is None:
            raise QCError(ErrorCode.DELIVERY_REFUSED, f"destination {name} is not in the settings")
        with self._lock:
            found = lane.resting.pop()[1] if lane.resting else None
        found = found or carrier(lane.destination, self._calling_ae, self._convert)
        try:
            yield found
        finally:
            with self._lock:
                lane.resting.append((self._monotonic(), found))

    def rest(self, *, at_once: bool = False) -> None:
        """Let go of connections that nothing has been sent on for a while."""
        before = self._monotonic() - (0.0 if at_once else _REST_SECONDS)
        idle: list[Carrier] = []
        with self._lock:
            for lane in self._lanes.values():
                idle += [each for since, each in lane.resting if since <= before]
                lane.resting = [kept for kept in lane.resting if kept[0] > before]
        for each in idle:
            each.close()
