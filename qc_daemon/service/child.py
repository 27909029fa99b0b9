"""A role's process as the supervisor knows it: its starts, its end, and when the next is due."""

import os
import subprocess
import time
from dataclasses import dataclass, field

from qc_daemon.service.roles import REASON_BYTES

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
# A receiver is started again after this many seconds at most: it is cheap, and senders wait.
_RECEIVER_DELAY = 4.0


@dataclass
class Child:
    """One role's process, and when the next is due if it has died."""

    role: str
    process: "subprocess.Popen[str] | None" = None
    owner: str = ""
    started: float = 0.0
    starts: int = 0
    quick_deaths: int = 0
    due: float = field(default_factory=time.monotonic)
    # Which settings its process has, and how often it was replaced for newer ones.
    version: int = 0
    is_replaced: bool = False
    replacements: int = 0
    # The process writes a line here when it ends by itself; the last process's line.
    reason_pipe: int | None = None
    reason: str = ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def delay_start(self) -> float:
        """Make the next start due after a back-off; returns its seconds."""
        longest = _RECEIVER_DELAY if self.role == "receive" else _LONGEST_DELAY
        delay = min(_FIRST_DELAY * 2.0 ** min(max(self.quick_deaths - 1, 0), 16), longest)
        self.due = time.monotonic() + delay
        return delay

    def read_reason(self) -> str:
        """The line that the ended process wrote; empty if it was killed."""
        if self.reason_pipe is None:
            return ""
        try:
            return os.read(self.reason_pipe, REASON_BYTES).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(self.reason_pipe)
            self.reason_pipe = None
