"""The time of day that records carry: every part of the service takes it from a `Clock`.

A clock is asked at each use. A time read at the start of long work would be old at its end: it
would renew a lease to where the lease already ends, and count back-off from before the work began.
It imports nothing, so that whoever needs the time loads no database.
"""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""The time now, with its zone."""


def utc_now() -> datetime:
    """The time of this machine's clock, in UTC."""
    return datetime.now(UTC)
