"""The clock is set an hour forwards or back while the service runs (libfaketime)."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, JobKind, JobRow, JobState
from tests.support.dicom_objects import ultrasound
from tests.support.environment import require
from tests.support.pacs import Pacs
from tests.support.peers import association, store
from tests.support.ports import reserve_port
from tests.support.receive_service import count_rows, receive_service, stored_uids
from tests.support.service import Service
from tests.support.waiting import eventually

HOUR = timedelta(hours=1)

MORE = """quiet_seconds = 2
[jobs]
poll_seconds = 0.1
backoff_seconds = 0.5
backoff_cap_seconds = 1.0
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
objects = ["source"]
timeout = 10
"""


@pytest.fixture
def faketime() -> str:
    program = shutil.which("faketime")
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    require(program is not None and bool(libraries), "faketime (libfaketime)")
    return str(libraries[0])


@pytest.fixture
def clock(tmp_path: Path, faketime: str) -> tuple[dict[str, str], Callable[[timedelta], None]]:
    """The environment of processes whose wall clock can be set, and how to set it.

    Their monotonic clock is left alone, as the kernel does when the time is set.
    """
    file = tmp_path / "clock"
    file.write_text("+0s")

    def jump(by: timedelta) -> None:
        staged = file.with_suffix(".new")
        staged.write_text(f"{by.total_seconds():+.0f}s")
        staged.replace(file)

    environment = {
        "LD_PRELOAD": faketime,
        "PYTHONPATH": str(Path(__file__).parent / "faketime"),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return environment, jump


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs(port=reserve_port())
    yield pacs
    pacs.stop()


@pytest.mark.slow
@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forwards", "back"])
def test_a_clock_set_by_an_hour_loses_and_duplicates_nothing(
    tmp_path: Path,
    clock: tuple[dict[str, str], Callable[[timedelta], None]],
    pacs: Pacs,
    by: timedelta,
) -> None:
    """Deliveries that back off go out, exams close, associations go on and hold their exam."""
    environment, jump = clock
    service = receive_service(
        tmp_path,
        roles=("receive", "deliver", "schedule"),
        more=MORE.format(pacs=pacs.port),
        environment=environment,
    ).start()
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    before, during, after = (ultrasound(study=f"1.2.{n}") for n in range(3))
    uids = [str(each.SOPInstanceUID) for each in (before, during, after)]
    try:
        assert store(service.port, before) == [0x0000]
        # Nobody listens at the destination: the delivery has failed and waits.
        eventually(lambda: count_rows(url, JobRow, JobRow.kind == "deliver", JobRow.alarms > 0))
        with association(service.port) as peer:
            assert peer.send_c_store(during).Status == 0x0000
            jump(by)
            assert peer.send_c_store(after).Status == 0x0000
        pacs.start()
        eventually(lambda: set(pacs.uids()) >= set(uids), 120)
        unscored(url)
        eventually(lambda: not count_rows(url, Exam, Exam.state != "closed"), 120)
        assert stored_uids(url) == uids
        assert service.events("process died") == []
        assert_times_are_of(service, url, by)
    finally:
        service.end()


def unscored(url: str) -> None:
    """Tick the score jobs off: no worker runs here, and an exam waits for them."""
    with Store(url).begin() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.kind == JobKind.SCORE)
            .values(state=JobState.DONE)
            .execution_options(synchronize_session=False)
        )


def assert_times_are_of(service: Service, url: str, by: timedelta) -> None:
    """That the service did live in the changed time."""
    with Store(url).read() as session:
        (last, *_) = sorted(
            (job.updated_at for job in jobs.listing(session)), reverse=by > timedelta()
        )
    assert abs(last - (datetime.now(UTC) + by)) < HOUR / 2
    assert service.process is not None
    assert service.process.poll() is None
