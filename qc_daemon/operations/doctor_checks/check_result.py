"""What a check of `doctor` ends with."""

from dataclasses import dataclass


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
