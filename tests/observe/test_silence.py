"""A machine has gone quiet: told by day, never at an hour in which it is always quiet."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.observe.silence import FORGET, MIN_WEEKS, Silence, hour_of, silence

MONDAY = datetime(2026, 9, 7)
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)
OFFICE = [(day, hour) for day in range(5) for hour in range(8, 17)]

hours_of_week = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 23)), min_size=1)
week_counts = st.integers(MIN_WEEKS + 1, 10)


def active_hours_of(
    week: list[tuple[int, int]] | set[tuple[int, int]], weeks: int
) -> set[datetime]:
    """The hours of a machine that sends in these hours of every week (day, hour)."""
    return {
        MONDAY + each * WEEK + timedelta(days=day, hours=hour)
        for each in range(weeks)
        for day, hour in week
    }


def at(active: set[datetime], now: datetime) -> Silence:
    result = silence(active, now)
    assert result is not None
    return result


def test_office_hours_that_stay_away_are_told_within_the_day() -> None:
    active = active_hours_of(OFFICE, 6)
    monday = MONDAY + 6 * WEEK
    assert not at(active, monday + timedelta(hours=11, minutes=59)).is_unusual
    unusual_hours = [h for h in range(24) if at(active, monday + timedelta(hours=h)).is_unusual]
    assert unusual_hours[0] == 12
    assert at(active, monday + timedelta(days=2)).is_unusual


@given(st.integers(0, 63))
def test_no_night_and_no_weekend_is_told_when_it_is_always_quiet_then(hours: int) -> None:
    """From Friday's last hour to Monday's first."""
    friday_evening = MONDAY + 5 * WEEK + timedelta(days=4, hours=17)
    assert at(active_hours_of(OFFICE, 6), friday_evening + hours * HOUR).chance == 1.0


@given(hours_of_week, week_counts, st.integers(0, 6 * 168))
def test_a_machine_that_does_as_every_week_is_never_told(
    week: set[tuple[int, int]], weeks: int, hours: int
) -> None:
    active = active_hours_of(week, weeks)
    now = max(active) + hours * HOUR
    goes_on = {hour for hour in active_hours_of(week, weeks + 8) if hour < hour_of(now)}
    assert at(goes_on, now).chance == 1.0


@given(hours_of_week, week_counts, st.integers(0, 600), st.integers(0, 200))
def test_a_longer_silence_is_never_likelier_until_the_machine_is_forgotten(
    week: set[tuple[int, int]], weeks: int, hours: int, more: int
) -> None:
    active = active_hours_of(week, weeks)
    first = at(active, max(active) + hours * HOUR)
    later = at(active, max(active) + (hours + more) * HOUR)
    assert 0 <= first.chance <= 1
    if (hours + more) * HOUR <= FORGET:
        assert later.chance <= first.chance
    else:
        assert later.chance == 1.0


@given(hours_of_week, week_counts, st.integers(0, 600), st.integers(1, 200))
def test_only_the_place_in_the_week_counts(
    week: set[tuple[int, int]], weeks: int, hours: int, later: int
) -> None:
    active = active_hours_of(week, weeks)
    now = max(active) + hours * HOUR
    moved = {hour + later * WEEK for hour in active}
    assert at(moved, now + later * WEEK).chance == at(active, now).chance


@given(hours_of_week, st.integers(1, MIN_WEEKS), st.integers(0, 600))
def test_nothing_is_told_of_a_machine_that_is_hardly_known(
    week: set[tuple[int, int]], weeks: int, hours: int
) -> None:
    active = active_hours_of(week, weeks)
    assert not at(active, max(active) + hours * HOUR).is_unusual


def test_a_week_away_is_no_habit() -> None:
    """What was silent in one of six weeks still counts, less."""
    active = active_hours_of(OFFICE, 6)
    holiday = {hour for hour in active if not MONDAY + WEEK <= hour < MONDAY + 2 * WEEK}
    monday = MONDAY + 6 * WEEK + timedelta(hours=12)
    assert at(active, monday).chance < at(holiday, monday).chance < 0.02


def test_a_machine_that_was_taken_away_is_forgotten() -> None:
    active = active_hours_of(OFFICE, 6)
    assert at(active, max(active) + FORGET).is_unusual
    assert not at(active, max(active) + FORGET + HOUR).is_unusual


def test_a_machine_that_never_sent_has_no_silence() -> None:
    assert silence([], MONDAY) is None
