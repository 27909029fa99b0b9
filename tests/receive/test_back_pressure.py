"""Back-pressure: the marks as arithmetic, then a real small disk and a real queue."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from qc_daemon.observe import counters
from qc_daemon.receive.back_pressure import BackPressure, Level, Reading, level
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobRow
from qc_daemon.settings import PressureSettings
from tests.support.databases import migrate
from tests.support.dicom_objects import ultrasound
from tests.support.peers import association, store
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

RESOURCES = 0xA700
GIB = 2**30
DEFAULT = PressureSettings()
NO_DISK = {
    "soft_free_percent": 0,
    "hard_free_percent": 0,
    "soft_free_megabytes": 0,
    "hard_free_megabytes": 0,
}


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        (1000 * GIB, 11 * GIB, Level.CLEAR),  # megabytes decide on a large disk
        (1000 * GIB, 9 * GIB, Level.SOFT),
        (1000 * GIB, 1 * GIB, Level.HARD),
        (20 * GIB, 3 * GIB, Level.CLEAR),  # percentages on a small one
        (20 * GIB, 1.5 * GIB, Level.SOFT),
        (20 * GIB, 0.5 * GIB, Level.HARD),
    ],
)
def test_default_marks(total: int, free: float, expected: Level) -> None:
    assert level(DEFAULT, Reading(total, int(free)), Level.CLEAR) is expected


def test_queue_marks() -> None:
    marks = PressureSettings(soft_queue_minutes=10, hard_queue_minutes=20)
    room = 100 * GIB
    assert level(marks, Reading(room, room, 599), Level.CLEAR) is Level.CLEAR
    assert level(marks, Reading(room, room, 601), Level.CLEAR) is Level.SOFT
    assert level(marks, Reading(room, room, 1201), Level.CLEAR) is Level.HARD
    off = PressureSettings(soft_queue_minutes=0, hard_queue_minutes=0)
    assert level(off, Reading(room, room, 1e9), Level.CLEAR) is Level.CLEAR


def test_it_clears_later_than_it_came() -> None:
    mark = 10 * GIB
    just_above = Reading(1000 * GIB, int(mark * 1.05))
    assert level(DEFAULT, just_above, Level.CLEAR) is Level.CLEAR
    assert level(DEFAULT, just_above, Level.SOFT) is Level.SOFT
    assert level(DEFAULT, Reading(1000 * GIB, int(mark * 1.11)), Level.HARD) is Level.CLEAR


READINGS = st.builds(
    Reading, st.just(1000 * GIB), st.integers(0, 1000 * GIB), st.floats(0, 1e6, allow_nan=False)
)


@given(READINGS, st.integers(0, GIB), st.sampled_from(Level))
def test_less_room_never_presses_less(reading: Reading, less: int, before: Level) -> None:
    marks = PressureSettings(hard_queue_minutes=3000)
    smaller = Reading(reading.total_bytes, max(0, reading.free_bytes - less), reading.queue_seconds)
    assert level(marks, smaller, before) >= level(marks, reading, before)


@given(READINGS)
def test_the_level_is_stable_for_the_same_reading(reading: Reading) -> None:
    first_level = level(DEFAULT, reading, Level.CLEAR)
    assert level(DEFAULT, reading, first_level) is first_level


def test_disk_and_database_are_read_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    migrate(url)
    queries: list[str] = []
    now = [0.0]
    back_pressure = BackPressure(DEFAULT, tmp_path, Store(url), monotonic=lambda: now[0])
    statvfs, queue_age = os.statvfs, back_pressure._queue_age
    monkeypatch.setattr(
        "qc_daemon.receive.back_pressure.os.statvfs",
        lambda path: (queries.append("disk"), statvfs(path))[1],
    )
    monkeypatch.setattr(
        back_pressure, "_queue_age", lambda: (queries.append("queue"), queue_age())[1]
    )
    for step in range(100):
        now[0] = step / 10
        back_pressure.level()
    assert queries.count("disk") == 10
    assert queries.count("queue") == 2


def test_neither_a_missing_disk_nor_database_raises(tmp_path: Path) -> None:
    back_pressure = BackPressure(
        DEFAULT, tmp_path / "none", Store(f"sqlite:///{tmp_path}/none/qc.db")
    )
    assert back_pressure.level() is Level.CLEAR


def test_a_full_disk_is_a700_until_there_is_room_again(
    start_receiver: Callable[..., RunningReceiver], small_disk: Path
) -> None:
    marks = {"soft_free_percent": 40, "hard_free_percent": 30}
    receiver = start_receiver(spool=small_disk / "spool", pressure=marks)
    dataset = ultrasound()
    assert store(receiver.port, dataset) == [0x0000]
    with association(receiver.port) as assoc:
        assert assoc.is_established
        ballast = small_disk / "ballast"
        disk = os.statvfs(small_disk)
        # There is room for the object still, but the hard mark is passed.
        ballast.write_bytes(bytes((disk.f_bavail - disk.f_blocks // 5) * disk.f_frsize))
        refused = counters.shared().total("refused_A700")
        eventually(lambda: assoc.send_c_store(dataset).Status == RESOURCES)
        assert counters.shared().total("refused_A700") == refused + 1
        assert counters.shared().maximum("pressure") == Level.HARD
        with association(receiver.port) as another:
            assert another.is_rejected
        ballast.unlink()
        assert assoc.send_c_store(dataset).Status == 0x0000
    with association(receiver.port) as another:
        assert another.is_established
    assert counters.shared().maximum("pressure") == Level.CLEAR


def test_beyond_the_soft_mark_an_open_association_may_finish(
    start_receiver: Callable[..., RunningReceiver], small_disk: Path
) -> None:
    receiver = start_receiver(
        spool=small_disk / "spool",
        pressure={"soft_free_percent": 60, "hard_free_percent": 1},
    )
    with association(receiver.port) as assoc:
        assert assoc.is_established
        (small_disk / "ballast").write_bytes(bytes(128 * 1024))
        eventually(lambda: _rejected(receiver.port) == (0x02, 0x03, 0x01))
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
        (small_disk / "ballast").unlink()
        eventually(lambda: _rejected(receiver.port) is None)


def _rejected(port: int) -> tuple[int, int, int] | None:
    """Result, source and reason of an association's rejection."""
    with association(port) as assoc:
        if not assoc.is_rejected:
            return None
        primitive = assoc.acceptor.primitive
        return (primitive.result, primitive.result_source, primitive.diagnostic)


def test_an_old_queue_rejects_associations(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    receiver = start_receiver(
        pressure=NO_DISK | {"soft_queue_minutes": 10, "hard_queue_minutes": 60}
    )
    receiver.scp.back_pressure.monotonic = _strides()
    assert store(receiver.port, ultrasound()) == [0x0000]
    with association(receiver.port) as assoc:
        _wait_since(receiver, minutes=11)
        assert _rejected(receiver.port) == (0x02, 0x03, 0x01)
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
        _wait_since(receiver, minutes=61)
        assert assoc.send_c_store(ultrasound()).Status == RESOURCES
        _wait_since(receiver, minutes=0)
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
    assert _rejected(receiver.port) is None


def _strides() -> Callable[[], float]:
    """A clock on which every look comes long after the last."""
    seconds = iter(range(0, 1_000_000, 60))
    return lambda: float(next(seconds))


def _wait_since(receiver: RunningReceiver, minutes: int) -> None:
    with receiver.store.begin() as session:
        since = datetime.now(UTC) - timedelta(minutes=minutes)
        session.execute(update(JobRow).where(JobRow.kind == "score").values(not_before=since))
