"""Destinations that take no request for storage commitment, as they have shown."""

import time
from collections.abc import Callable

# So many refusals in a row are no accident; what was learnt so is tried again after some time.
_ENOUGH = 3
_SECONDS = 3600.0


class Capability:
    """What the threads of a process have learnt of the destinations."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._refusals: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def lacks(self, name: str) -> bool:
        """Whether the destination takes no requests, as far as we know."""
        return self._until.get(name, 0.0) > self._monotonic()

    def refused(self, name: str, *, is_offered: bool) -> None:
        """One that never took a request refused one; not `is_offered` by accepting no presentation
        context for it, which says all at once."""
        count = self._refusals[name] = self._refusals.get(name, 0) + 1
        if not is_offered or count >= _ENOUGH:
            self._until[name] = self._monotonic() + _SECONDS

    def taken(self, name: str) -> None:
        """It took a request."""
        self._refusals.pop(name, None)
        self._until.pop(name, None)
