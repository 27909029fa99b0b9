"""Whether a machine is silent for longer than it ever is, learnt from its own weeks.

A machine that scans from Monday to Friday is silent each night. So each hour of its week has a
share: in how many of its last weeks it sent something in that hour. Hours in which it never sends
say nothing; an hour in which it sent in k of n weeks passes in silence with chance 1 - k / (n + 1).
The chance of the whole silence is their product, as if hours were independent. A public holiday
looks the same as a machine that is off: both are told.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

WEEKS = 6
"""How many of a machine's weeks before its silence are learnt from."""
MIN_WEEKS = 3
"""With fewer weeks nothing is known of a machine."""
FORGET = timedelta(weeks=4)
"""After so long without an object a machine counts as taken away."""
HISTORY = timedelta(weeks=WEEKS) + FORGET
"""How far back activity is needed."""
LEAST_CHANCE = 0.001
"""A silence less likely than this is told: with six weeks, four hours in which it always sends."""

_HOUR, _WEEK = timedelta(hours=1), timedelta(weeks=1)


@dataclass(frozen=True, slots=True)
class Silence:
    """The last hour with an object, and how likely it is that a working machine is silent so long;
    `chance` is 1 where nothing is known."""

    last: datetime
    chance: float

    @property
    def is_unusual(self) -> bool:
        return self.chance < LEAST_CHANCE


def hour_of(moment: datetime) -> datetime:
    """The start of the moment's hour on the wall clock, without a zone."""
    return moment.replace(minute=0, second=0, microsecond=0, tzinfo=None)


def silence(active_hours: Collection[datetime], now: datetime) -> Silence | None:
    """A machine's silence until `now`; None where it never sent.

    `active_hours` are the hours (`hour_of`) in which it sent, `now` is the same wall clock: night
    and weekend are those of the place, whatever daylight saving does.
    """
    active = set(active_hours)
    if not active:
        return None
    first, last = min(active), max(active)
    weeks = min(WEEKS, (last - first) // _WEEK)
    # The current hour is not over: it may still bring something.
    end = hour_of(now)
    if weeks < MIN_WEEKS or end - last > FORGET:
        return Silence(last, 1.0)
    chance = 1.0
    hour = last + _HOUR
    while hour < end:
        # The same hour of the week, in the weeks that ended with the last object.
        latest = hour - _WEEK * -((last - hour) // _WEEK)
        times = sum(latest - _WEEK * week in active for week in range(weeks))
        chance *= 1.0 - times / (weeks + 1)
        hour += _HOUR
    return Silence(last, chance)
