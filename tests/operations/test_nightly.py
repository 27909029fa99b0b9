"""The nightly audit: each local date once, whatever the clock does and however many daemons ask."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from qc_daemon.operations import nightly
from qc_daemon.operations.audits import list_audits
from qc_daemon.operations.result_import import import_findings
from qc_daemon.records.results import audits
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AuditState
from qc_daemon.settings import Settings, load
from tests.support.databases import migrate
from training.phantom.history import write_history

# 09:00 in Berlin.
NOW = datetime(2026, 10, 1, 7, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def prepare(url: str, monkeypatch: pytest.MonkeyPatch, zone: str = "Europe/Berlin") -> Settings:
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    monkeypatch.setenv("QC_DAEMON_SCHEDULE__TIMEZONE", zone)
    migrate(url)
    return load(None)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return prepare(f"sqlite:///{tmp_path / 'qc.db'}", monkeypatch)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store.url)


def queue(settings: Settings, store: Store, now: datetime) -> list[str]:
    return [day.isoformat() for day in nightly.queue_due(settings, store, lambda: now)]


def test_the_first_audit_is_of_the_day_before(settings: Settings, store: Store) -> None:
    assert queue(settings, store, NOW) == ["2026-09-30"]
    assert queue(settings, store, NOW) == []


def test_a_day_is_due_from_the_named_time_on(settings: Settings, store: Store) -> None:
    assert queue(settings, store, NOW) == ["2026-09-30"]
    # 02:00 in Berlin is midnight UTC in summer.
    assert queue(settings, store, datetime(2026, 10, 1, 23, 59, 59, tzinfo=UTC)) == []
    assert queue(settings, store, datetime(2026, 10, 2, 0, 0, tzinfo=UTC)) == ["2026-10-01"]


def test_three_missed_nights_are_made_up_for(settings: Settings, store: Store) -> None:
    queue(settings, store, NOW)
    missed = queue(settings, store, NOW + 4 * DAY)
    assert missed == ["2026-10-01", "2026-10-02", "2026-10-03", "2026-10-04"]
    assert queue(settings, store, NOW + 4 * DAY) == []


def test_of_a_long_absence_the_last_week_is_made_up_for(settings: Settings, store: Store) -> None:
    queue(settings, store, NOW)
    missed = queue(settings, store, NOW + 40 * DAY)
    assert len(missed) == nightly.CATCH_UP_DAYS
    assert missed[-1] == "2026-11-09"


def test_a_clock_that_steps_makes_no_date_twice(settings: Settings, store: Store) -> None:
    steps = (0 * HOUR, HOUR, -HOUR, DAY, -DAY, 0 * HOUR, DAY, 2 * DAY, DAY - HOUR, 3 * DAY)
    queued = [day for step in steps for day in queue(settings, store, NOW + step)]
    assert queued == ["2026-09-30", "2026-10-01", "2026-10-02", "2026-10-03"]


def test_what_is_switched_off_is_not_due(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QC_DAEMON_SCHEDULE__AUDIT", "off")
    assert queue(load(None), store, NOW) == []


@pytest.mark.parametrize(
    ("zone", "change", "at"),
    [
        ("Europe/Berlin", "2026-03-29", "02:30"),
        ("Europe/Berlin", "2026-10-25", "02:30"),
        ("Europe/London", "2026-10-25", "01:30"),
        ("Australia/Sydney", "2026-04-05", "02:00"),
        ("Pacific/Auckland", "2026-04-05", "02:00"),
        ("America/New_York", "2026-03-08", "00:00"),
        ("America/Santiago", "2026-09-06", "00:00"),
        ("Africa/Cairo", "2026-04-24", "00:00"),
        ("Asia/Beirut", "2026-03-29", "00:00"),
        ("America/Havana", "2026-03-08", "00:00"),
        ("America/Havana", "2026-11-01", "00:00"),
        ("Atlantic/Azores", "2026-03-29", "00:00"),
        ("America/Nuuk", "2026-03-28", "23:30"),
    ],
)
def test_each_local_date_comes_once_about_a_change_of_the_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, change: str, at: str
) -> None:
    monkeypatch.setenv("QC_DAEMON_SCHEDULE__AUDIT", at)
    settings = prepare(f"sqlite:///{tmp_path / 'qc.db'}", monkeypatch, zone)
    store, day = Store(settings.store.url), date.fromisoformat(change)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - 2 * DAY
    # Some 100 hours: the change, and a day and a half before and after it.
    queued = [each for tick in range(100) for each in queue(settings, store, start + tick * HOUR)]
    days = [date.fromisoformat(each) for each in queued]
    assert days == [days[0] + number * DAY for number in range(len(days))]
    # An audit is of the day before the one that it is due on.
    assert {day - 2 * DAY, day - DAY, day} <= set(days)


def test_audits_that_wait_are_done_in_the_order_of_their_dates(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    import_findings(settings, [write_history(tmp_path / "history", 504, 300)])
    queue(settings, store, NOW)
    queue(settings, store, NOW + DAY)
    assert nightly.has_work(store, lambda: NOW)
    assert nightly.work(settings, store, lambda: NOW + DAY) == 2
    assert not nightly.has_work(store, lambda: NOW + DAY)
    assert [(each["date"], each["state"]) for each in list_audits(settings)] == [
        ("2026-10-01", "done"),
        ("2026-09-30", "done"),
    ]


def test_an_audit_that_fails_is_no_reason_to_leave_the_next(
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from qc_daemon.operations import audits as operation

    own, calls = operation.make_audit, []

    def make_audit(*arguments: object, **keywords: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("DOE^JANE")
        return own(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(operation, "make_audit", make_audit)
    queue(settings, store, NOW)
    queue(settings, store, NOW + DAY)
    assert nightly.work(settings, store, lambda: NOW + DAY) == 1
    assert {each["date"]: each["state"] for each in list_audits(settings)} == {
        "2026-09-30": "failed",
        "2026-10-01": "done",
    }
    assert "DOE" not in "".join(capfd.readouterr())


def test_an_audit_that_its_processes_die_of_is_given_up(settings: Settings, store: Store) -> None:
    queue(settings, store, NOW)
    now = NOW
    for _ in range(nightly.MAX_ATTEMPTS):
        assert nightly.has_work(store, lambda: now)  # noqa: B023
        with store.begin() as session:
            assert audits.claim(session, "one that is killed", now, 60) is not None
        now += timedelta(seconds=61)
    assert not nightly.has_work(store, lambda: now)
    [listed] = list_audits(settings)
    assert listed["state"] == AuditState.FAILED


_DAEMON = """
import json, sys
from datetime import datetime
from qc_daemon.operations import nightly
from qc_daemon.records.store import Store
from qc_daemon.settings import load
settings, done, queued = load(None), 0, []
store = Store(settings.store.url)
sys.stdin.readline()
for moment in sys.argv[1:]:
    now = datetime.fromisoformat(moment)
    queued += [day.isoformat() for day in nightly.queue_due(settings, store, lambda: now)]
    done += nightly.work(settings, store, lambda: now)
print(json.dumps([queued, done]))
"""


def test_two_daemons_on_one_postgresql_do_each_date_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = prepare(postgres_url, monkeypatch)
    # Three nights are missed in between, and the clock steps back and forth.
    steps = (0 * DAY, DAY, DAY - HOUR, 4 * DAY, 3 * DAY, 4 * DAY + HOUR)
    moments = [(NOW + step).isoformat() for step in steps]
    daemons = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", _DAEMON, *moments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for daemon in daemons:
        assert daemon.stdin is not None
        daemon.stdin.write("go\n")
        daemon.stdin.flush()
    # A daemon whose clock is ahead takes an audit over: who had it is interrupted, and says so.
    outputs = [daemon.communicate(timeout=120)[0] for daemon in daemons]
    answers = [json.loads(output.splitlines()[-1]) for output in outputs]
    dates = [f"2026-{day}" for day in ("09-30", "10-01", "10-02", "10-03", "10-04")]
    assert sorted(day for queued, _ in answers for day in queued) == dates
    assert sum(done for _, done in answers) == len(dates)
    assert {each["date"]: each["state"] for each in list_audits(settings)} == dict.fromkeys(
        dates, "done"
    )
