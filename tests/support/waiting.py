"""Bounded waits: a test waits for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import Any


def eventually(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `what`; fails if none comes. A bound on waiting, not on speed."""
    until = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
