"""Each local date exactly once, in every zone whose clocks change at an awkward hour."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.audit.due_dates import due_dates, due_instant

ZONES = (
    "Europe/Berlin",
    "Europe/London",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "America/Havana",
    "Atlantic/Azores",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Beirut",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "UTC",
)
TIMES = (time(0, 0), time(0, 30), time(1, 0), time(2, 0), time(2, 30), time(3, 0), time(23, 59))


def local(zone, *parts):
    return datetime(*parts, tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("zone", "day", "at", "expected"),
    [
        # The hour from 2 to 3 is left out: due at 3, which is the change.
        ("Europe/Berlin", date(2026, 3, 29), time(2, 30), local("Europe/Berlin", 2026, 3, 29, 3)),
        ("Europe/Berlin", date(2026, 3, 29), time(2, 0), local("Europe/Berlin", 2026, 3, 29, 3)),
        ("Europe/Berlin", date(2026, 3, 29), time(3, 0), local("Europe/Berlin", 2026, 3, 29, 3)),
        # The hour from 0 to 1 is left out.
        ("America/Santiago", date(2026, 9, 6), time(0), local("America/Santiago", 2026, 9, 6, 1)),
        ("America/Havana", date(2026, 3, 8), time(0), local("America/Havana", 2026, 3, 8, 1)),
        ("Asia/Beirut", date(2026, 3, 29), time(0), local("Asia/Beirut", 2026, 3, 29, 1)),
        ("Africa/Cairo", date(2026, 4, 24), time(0), local("Africa/Cairo", 2026, 4, 24, 1)),
        # The day after a change, at midnight.
        ("America/New_York", date(2026, 3, 9), time(0), local("America/New_York", 2026, 3, 9)),
        ("America/Nuuk", date(2026, 3, 29), time(0), local("America/Nuuk", 2026, 3, 29)),
    ],
)
def test_a_time_that_is_left_out_is_due_at_the_change(zone, day, at, expected):
    assert due_instant(day, at, ZoneInfo(zone)) == expected


def test_of_a_repeated_hour_the_first_counts():
    berlin = ZoneInfo("Europe/Berlin")
    due = due_instant(date(2026, 10, 25), time(2, 30), berlin)
    assert due == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    later = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert later.astimezone(berlin).hour == 2
    assert due_dates(date(2026, 10, 25), later, time(2, 30), berlin) == []


def test_a_day_that_a_zone_left_out_is_due_once():
    """Samoa had no 30 December 2011."""
    apia = ZoneInfo("Pacific/Apia")
    due = due_instant(date(2011, 12, 30), time(2), apia)
    assert due == datetime(2011, 12, 30, 10, tzinfo=UTC)
    dates = due_dates(date(2011, 12, 28), datetime(2012, 1, 1, tzinfo=UTC), time(2), apia)
    assert dates == [date(2011, 12, 29), date(2011, 12, 30), date(2011, 12, 31), date(2012, 1, 1)]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("at", TIMES)
def test_a_year_of_ticks_does_each_date_once(zone, at):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    done: list[date] = due_dates(None, now, at, ZoneInfo(zone))
    while now < datetime(2027, 1, 1, tzinfo=UTC):
        now += timedelta(minutes=37 * 7)
        done += due_dates(done[-1], now, at, ZoneInfo(zone))
    days = [done[0] + timedelta(days=number) for number in range(len(done))]
    assert done == days
    assert len(done) in (366, 367)


@given(
    st.sampled_from(ZONES),
    st.sampled_from(TIMES),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),
    st.lists(st.integers(-90_000, 200_000), max_size=30),
)
def test_whatever_the_clock_does_no_date_is_done_twice_or_left_out(zone, at, start, steps):
    now = start.replace(tzinfo=UTC)
    newest = now
    done = due_dates(None, now, at, ZoneInfo(zone))
    for step in steps:
        now += timedelta(seconds=step)
        newest = max(newest, now)
        done += due_dates(done[-1], now, at, ZoneInfo(zone))
    assert done == [done[0] + timedelta(days=number) for number in range(len(done))]
    assert done[-1] == due_dates(None, newest, at, ZoneInfo(zone))[0]


def test_three_nights_without_a_service_are_made_up_for():
    dates = due_dates(
        date(2026, 5, 1), datetime(2026, 5, 4, 3, tzinfo=UTC), time(2), ZoneInfo("UTC")
    )
    assert dates == [date(2026, 5, 2), date(2026, 5, 3), date(2026, 5, 4)]
    with pytest.raises(ValueError, match="no zone"):
        due_dates(None, datetime(2026, 5, 4), time(2), ZoneInfo("UTC"))
