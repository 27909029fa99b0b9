"""What a check of `doctor` ends with."""

from collections.abc import Iterable
from dataclasses import dataclass

# So many reasons or destinations are named in one line.
MAX_PARTS = 6


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `warning`: it works, but someone should know."""

    name: str
    is_healthy: bool
    message: str
    warning: bool = False

    @property
    def word(self) -> str:
        """The result as printed: ok, warn or FAIL."""
        return ("warn" if self.warning else "ok") if self.is_healthy else "FAIL"


class NoticeError(Exception):
    """Raised by a check for something that works, but that someone should know."""


def first_of(parts: Iterable[str]) -> str:
    """The first parts of a list, and how many more there are."""
    every = list(parts)
    more = len(every) - MAX_PARTS
    return ", ".join(every[:MAX_PARTS] + ([f"{more} more kinds"] if more > 0 else []))
