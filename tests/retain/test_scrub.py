"""The spool is read through each night, slowly; what has changed is told and set aside."""

import json
import threading
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import ErrorCode, QCError
from qc_daemon.observe import counters
from qc_daemon.operations.doctor import examine
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.retain import scrub
from qc_daemon.retain.scrub import Pace, Pass, Scrub, is_due, read_progress
from tests.support.storage import Storage


class Night:
    """A scrub whose time is the test's."""

    def __init__(self, storage: Storage) -> None:
        self.now = datetime(2026, 11, 29, 3, tzinfo=UTC)
        self.stop = threading.Event()
        storage.settings.store.scrub_megabytes_per_second = 10_000
        self.scrub = Scrub(storage.store, storage.settings, self.stop, lambda: self.now)

    def step(self) -> Pass | None:
        return self.scrub.step()


@pytest.fixture
def night(storage: Storage) -> Night:
    return Night(storage)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_PAGE", 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_whole_files_are_in_order(storage: Storage, night: Night) -> None:
    for _ in range(3):
        storage.receive()
    result = night.step()
    assert result is not None
    assert (result.files, result.faults, result.finished is not None) == (3, 0, True)
    # Once a night.
    assert night.step() is None
    night.now += timedelta(days=1)
    again = night.step()
    assert again is not None
    assert again.files == 3


def test_a_flipped_bit_is_an_alarm_and_the_file_is_moved_to_damaged(
    storage: Storage, night: Night
) -> None:
    whole, damaged = storage.receive(), storage.receive()
    flip(storage.spool.root / damaged.path)
    before = counters.shared().total("spool_damaged")
    result = night.step()
    assert result is not None
    assert (result.files, result.damaged, result.missing) == (2, 1, 0)
    assert counters.shared().total("spool_damaged") == before + 1
    assert counters.shared().maximum("scrub_faults") == 1
    assert not (storage.spool.root / damaged.path).exists()
    assert (storage.spool.root / whole.path).exists()
    (damaged_file,) = (storage.spool.root / "damaged").iterdir()
    assert damaged_file.stat().st_size == damaged.size
    report = next(each for each in examine(storage.settings) if each.name == "scrub")
    assert report.word == "warn"
    assert "1 damaged (set aside in damaged)" in report.message
    # It is still damaged the night after, and no second alarm is given for it.
    night.now += timedelta(days=1)
    later = night.step()
    assert later is not None
    assert (later.damaged, later.missing, later.fetched) == (1, 0, 0)
    assert counters.shared().total("spool_damaged") == before + 1


def test_a_file_fetched_from_a_destination_replaces_the_damaged_one(
    storage: Storage, night: Night
) -> None:
    first, second = storage.receive(), storage.receive()
    content = (storage.spool.root / first.path).read_bytes()
    second_content = (storage.spool.root / second.path).read_bytes()

    def give_second(facts: RevisionFacts) -> Path:
        assert facts.revision_id == second.revision_id
        path = storage.spool.root / facts.path
        path.write_bytes(second_content)
        return path

    def give_back(facts: RevisionFacts) -> Path:
        path = storage.spool.root / facts.path
        if facts.revision_id != first.revision_id:
            raise QCError(ErrorCode.SPOOL_DAMAGED, "no destination gives it back")
        path.write_bytes(content)
        return path

    night.scrub.originals = give_back
    for each in (first, second):
        flip(storage.spool.root / each.path)
    result = night.step()
    assert result is not None
    assert (result.damaged, result.fetched) == (2, 1)
    assert (storage.spool.root / first.path).read_bytes() == content
    # A destination that was away is asked again the night after.
    night.scrub.originals = give_second
    night.now += timedelta(days=1)
    later = night.step()
    assert later is not None
    assert (later.damaged, later.fetched) == (1, 1)
    assert (storage.spool.root / second.path).read_bytes() == second_content


def test_a_missing_file_is_counted(storage: Storage, night: Night) -> None:
    missing = storage.receive()
    (storage.spool.root / missing.path).unlink()
    result = night.step()
    assert result is not None
    assert (result.missing, result.damaged) == (1, 0)


@pytest.mark.usefixtures("small_pages")
def test_a_pass_goes_on_where_a_restart_cut_it_short(storage: Storage, night: Night) -> None:
    for _ in range(7):
        storage.receive()
    checks = 0

    def stop_at_the_fourth(_count: int) -> None:
        nonlocal checks
        checks += 1
        if checks == 4:
            night.stop.set()

    night.scrub.pace = stop_at_the_fourth  # type: ignore[assignment]
    partial = night.step()
    assert partial is not None
    assert (partial.files, partial.finished) == (3, None)
    start = partial.begun
    # Days later, and with what came meanwhile: still the same pass.
    night.stop.clear()
    night.scrub.pace = None
    night.now += timedelta(days=3)
    storage.receive()
    result = night.step()
    assert result is not None
    assert (result.files, result.begun, result.finished is not None) == (8, start, True)


def test_a_broken_note_begins_anew(storage: Storage, night: Night) -> None:
    storage.receive()
    for content in ("", "[]", json.dumps({"current": {"begun": 1, "other": 2}, "previous": None})):
        (storage.spool.root / scrub.NAME).write_text(content)
        assert read_progress(storage.spool.root) == scrub.Progress()
        assert night.step() is not None


@given(st.floats(1, 1e6), st.lists(st.integers(0, 10_000), min_size=1, max_size=30))
def test_the_read_rate_is_limited(rate: float, counts: list[int]) -> None:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(rate, wait, lambda: now)
    for count in counts:
        pace(count)
    assert now == pytest.approx(sum(counts) / rate)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
    st.times(),
)
def test_a_pass_is_due_once_between_two_nights(now: datetime, at: time) -> None:
    assert is_due(now, None, at)
    assert not is_due(now, now, at)
    # Also where the clocks were changed in between.
    assert is_due(now + timedelta(hours=25), now, at)
