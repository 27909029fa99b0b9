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
HOUR, DAY, TICK = timedelta(hours=1), timedelta(days=1), timedelta(minutes=20)
TIMES = (time(0, 0), time(0, 30), time(1, 0), time(2, 0), time(2, 30), time(3, 0), time(23, 59))


# Where APScheduler's cron trigger fires twice, late or not at all: what is due when, by the tables
# of the zones (IANA), in UTC.
CASES = [
    # The hour from 2 to 3 is left out: due at the change.
    ("Europe/Berlin", date(2026, 3, 29), time(2, 0), "2026-03-29T01:00"),
    ("Europe/Berlin", date(2026, 3, 29), time(2, 30), "2026-03-29T01:00"),
    ("Europe/Berlin", date(2026, 3, 29), time(3, 0), "2026-03-29T01:00"),
    # The hour is repeated: the first one counts.
    ("Europe/London", date(2026, 10, 25), time(1, 0), "2026-10-25T00:00"),
    ("Europe/London", date(2026, 10, 25), time(1, 30), "2026-10-25T00:30"),
    ("Europe/Berlin", date(2026, 10, 25), time(2, 0), "2026-10-25T00:00"),
    ("Europe/Berlin", date(2026, 10, 25), time(2, 30), "2026-10-25T00:30"),
    ("Australia/Sydney", date(2026, 4, 5), time(2, 0), "2026-04-04T15:00"),
    ("Pacific/Auckland", date(2026, 4, 5), time(2, 0), "2026-04-04T13:00"),
    ("America/Havana", date(2026, 11, 1), time(0, 0), "2026-11-01T04:00"),
    ("Atlantic/Azores", date(2026, 10, 25), time(0, 0), "2026-10-25T00:00"),
    # Midnight after a change.
    ("America/New_York", date(2026, 3, 9), time(0, 0), "2026-03-09T04:00"),
    ("America/New_York", date(2026, 3, 9), time(0, 30), "2026-03-09T04:30"),
    ("America/Nuuk", date(2026, 3, 29), time(0, 0), "2026-03-29T01:00"),
    ("Pacific/Auckland", date(2026, 9, 28), time(0, 0), "2026-09-27T11:00"),
    ("Australia/Sydney", date(2026, 10, 5), time(0, 0), "2026-10-04T13:00"),
    # The hour that is left out begins at midnight, or ends there.
    ("America/Santiago", date(2026, 9, 6), time(0, 0), "2026-09-06T04:00"),
    ("Africa/Cairo", date(2026, 4, 24), time(0, 0), "2026-04-23T22:00"),
    ("Asia/Beirut", date(2026, 3, 29), time(0, 0), "2026-03-28T22:00"),
    ("America/Havana", date(2026, 3, 8), time(0, 0), "2026-03-08T05:00"),
    ("Atlantic/Azores", date(2026, 3, 29), time(0, 0), "2026-03-29T01:00"),
    ("America/Nuuk", date(2026, 3, 28), time(23, 30), "2026-03-29T01:00"),
]


@pytest.mark.parametrize(("zone", "day", "at", "expected"), CASES)
def test_each_change_of_the_clocks_has_one_moment(zone, day, at, expected):
    moment = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert due_instant(day, at, ZoneInfo(zone)) == moment


@pytest.mark.parametrize("step", [timedelta(0), HOUR, -HOUR, DAY, -DAY], ids=str)
@pytest.mark.parametrize(("zone", "day", "at", "expected"), CASES)
def test_each_date_comes_once_about_a_change_and_a_step_of_the_clock(zone, day, at, expected, step):
    """The clock steps in the very minute that the date is due."""
    moment = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    before = [moment - 3 * DAY + number * TICK for number in range(3 * DAY // TICK + 1)]
    after = [moment + step + number * TICK for number in range(1, 4 * DAY // TICK)]
    done: list[date] = due_dates(None, before[0], at, ZoneInfo(zone))
    first_at = {}
    for now in (*before, *after):
        dates = due_dates(done[-1], now, at, ZoneInfo(zone))
        first_at |= dict.fromkeys(dates, now)
        done += dates
    assert done == [done[0] + number * DAY for number in range(len(done))]
    assert done.count(day) == 1
    assert first_at[day] == moment


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
