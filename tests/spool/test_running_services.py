"""Which services run on a spool is known while they live, and not a moment longer."""

import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from detector.errors import ErrorCode, QCError
from qc_daemon.spool.running_services import FOLDER, announce, list_running

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _run(spool: Path) -> None:
    with announce(spool, "1.2", "abc", ["receive", "work"], NOW):
        time.sleep(60)


def test_a_service_is_listed_while_it_runs(tmp_path: Path) -> None:
    assert list_running(tmp_path) == []
    with announce(tmp_path, "1.2", "abc", ["receive", "work"], NOW):
        (service,) = list_running(tmp_path)
        assert (service.version, service.code, service.pid) == ("1.2", "abc", os.getpid())
        assert service.roles == ("receive", "work")
        assert service.started == "2026-01-02T03:04:05+00:00"
        (file,) = (tmp_path / FOLDER).iterdir()
        assert file.stat().st_mode & 0o077 == 0
    assert list_running(tmp_path) == []
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_killed_service_is_not_listed_and_its_file_goes(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_run, args=(tmp_path,))
    child.start()
    until = time.monotonic() + 30
    while not list_running(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    assert [each.pid for each in list_running(tmp_path)] == [child.pid]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert list_running(tmp_path) == []
    with announce(tmp_path, "1.2", "abc", ["web"], NOW):
        assert [each.name for each in (tmp_path / FOLDER).iterdir()] == [
            path.name for path in (tmp_path / FOLDER).glob(f"*-{os.getpid()}.json")
        ]


def test_garbage_is_no_service(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "x.json").write_text("[1")
    assert list_running(tmp_path) == []


def test_a_spool_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("")
    with (
        pytest.raises(QCError, match="cannot be written") as caught,
        announce(tmp_path, "1", "a", ["web"], NOW),
    ):
        pass
    assert caught.value.code is ErrorCode.STORAGE


def test_what_the_block_raises_is_what_comes_out(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the block"), announce(tmp_path, "1", "a", ["web"], NOW):
        raise OSError(5, "of the block")
