"""Pieces of a long run side by side: all done, each heard, errors told."""

import os
import signal
from pathlib import Path

import pytest
import torch

from detector.console import UsageError
from training.crossval.parallel import Piece, side_by_side


def note(folder: Path, name: str) -> None:
    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    print(f"this is {name}")


def fail(name: str) -> None:
    raise ValueError(f"{name} does not work")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_piece_has_a_process_its_share_of_cores_and_a_log(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    pieces = [Piece(name, note, (tmp_path, name)) for name in names]
    side_by_side(pieces, 2, tmp_path / "logs")
    told = [(tmp_path / name).read_text().split() for name in names]
    assert len({process for process, _ in told} | {str(os.getpid())}) == 4
    assert {threads for _, threads in told} == {str(max(1, (os.cpu_count() or 1) // 2))}
    for name in names:
        assert f"this is {name}" in (tmp_path / "logs" / f"{name}.log").read_text()


def test_one_at_a_time_stays_here(tmp_path: Path) -> None:
    side_by_side([Piece(name, note, (tmp_path, name)) for name in "ab"], 1, tmp_path / "logs")
    assert {(tmp_path / name).read_text().split()[0] for name in "ab"} == {str(os.getpid())}
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_piece_that_fails_is_told(jobs: int, tmp_path: Path) -> None:
    pieces = [Piece("bad", fail, ("bad",)), Piece("good", note, (tmp_path, "good"))]
    with pytest.raises(ValueError, match="bad does not work"):
        side_by_side(pieces, jobs, tmp_path / "logs")


def test_a_process_that_was_killed_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fewer --jobs"):
        side_by_side([Piece("dying", die), Piece("next", die)], 2, tmp_path / "logs")
