"""Peers that were just found unreachable."""

import time
from collections.abc import Callable

from detector.errors import ErrorCode, QCError

# After a failed connection a destination's other jobs fail at once instead of each waiting for the
# same timeout, which would keep healthy destinations waiting too.
_MIN_COOLDOWN, _MAX_COOLDOWN = 5.0, 60.0


class Outages:
    """Which destinations were just found unreachable; shared by the threads of a process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def check(self, name: str) -> None:
        """Raises QCError DELIVERY_UNREACHABLE while the destination is left alone."""
        if self._until.get(name, 0.0) > self._monotonic():
            raise QCError(
                ErrorCode.DELIVERY_UNREACHABLE, f"destination {name} was just found unreachable"
            )

    def away(self) -> list[str]:
        """The destinations that are left alone now."""
        now = self._monotonic()
        return [name for name, until in self._until.items() if until > now]

    def record(self, name: str, took_seconds: float) -> None:
        cooldown = min(max(2 * took_seconds, _MIN_COOLDOWN), _MAX_COOLDOWN)
        self._until[name] = self._monotonic() + cooldown
