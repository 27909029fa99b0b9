"""Destinations that take no request for storage commitment, as they have shown."""

import time
from collections.abc import Callable

# What was learnt so is tried again after some time.
_SECONDS = 3600.0


class Capability:
    """What the threads of a process have learnt of the destinations."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def lacks(self, name: str) -> bool:
        """Whether the destination takes no requests, as far as we know."""
        return self._until.get(name, 0.0) > self._monotonic()

    def not_offered(self, name: str) -> None:
        """It accepted no presentation context for a request, and never took one."""
        self._until[name] = self._monotonic() + _SECONDS

    def taken(self, name: str) -> None:
        """It took a request."""
        self._until.pop(name, None)
