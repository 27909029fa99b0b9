"""Which local dates of a nightly audit are due: a function of the clock and of what was done.

A cron trigger fires twice where an hour is repeated, late where one is left out, and loses the day
where that is midnight. A date here is due once the first moment of it at or after the named time
has passed, whatever the clock did on the way; what is done is asked of the database.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def due_instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The moment (UTC) from which the date is due: the first valid one at or after `at`.

    Of a repeated hour the first counts; of one that is left out, the moment of the change.
    """
    local = datetime.combine(day, at.replace(tzinfo=None), zone)
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    if first.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return first
    # The time is left out: the clocks change between the two readings of it.
    low, high = min(first, second), max(first, second)
    before = low.astimezone(zone).utcoffset()
    while high - low > _SECOND:
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    # Changes happen at whole seconds.
    return (high + timedelta(milliseconds=500)).replace(microsecond=0)


def due_dates(last: date | None, now: datetime, at: time, zone: ZoneInfo) -> list[date]:
    """The local dates after `last` that are due at `now` (with a zone), oldest first.

    Without a `last`, the newest one only: an audit that is new does not begin in the past. A clock
    that was set back makes nothing due that `last` has passed. Raises ValueError without a zone.
    """
    if now.tzinfo is None:
        raise ValueError("the current time has no zone")
    newest = now.astimezone(zone).date() + _DAY
    while due_instant(newest, at, zone) > now:
        newest -= _DAY
    if last is None:
        return [newest]
    return [last + (number + 1) * _DAY for number in range((newest - last).days)]
