"""Parallel tasks: each runs in its own process with its own log, and its error is raised here."""

import os
import signal
from pathlib import Path

import pytest
import torch

from detector.console import UsageError
from training.crossval.parallel import Task, run_parallel


def write_process(folder: Path, name: str) -> None:
    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    print(f"this is {name}")


def fail(name: str) -> None:
    raise ValueError(f"{name} does not work")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_task_has_a_process_its_share_of_cores_and_a_log(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    tasks = [Task(name, write_process, (tmp_path, name)) for name in names]
    run_parallel(tasks, 2, tmp_path / "logs")
    lines = [(tmp_path / name).read_text().split() for name in names]
    assert len({process for process, _ in lines} | {str(os.getpid())}) == 4
    assert {threads for _, threads in lines} == {str(max(1, (os.cpu_count() or 1) // 2))}
    for name in names:
        assert f"this is {name}" in (tmp_path / "logs" / f"{name}.log").read_text()


def test_with_one_job_tasks_run_in_this_process(tmp_path: Path) -> None:
    run_parallel(
        [Task(name, write_process, (tmp_path, name)) for name in "ab"], 1, tmp_path / "logs"
    )
    assert {(tmp_path / name).read_text().split()[0] for name in "ab"} == {str(os.getpid())}
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_error_of_a_task_is_raised(jobs: int, tmp_path: Path) -> None:
    tasks = [Task("bad", fail, ("bad",)), Task("good", write_process, (tmp_path, "good"))]
    with pytest.raises(ValueError, match="bad does not work"):
        run_parallel(tasks, jobs, tmp_path / "logs")


def test_a_killed_process_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fewer --jobs"):
        run_parallel([Task("dying", kill_itself), Task("next", kill_itself)], 2, tmp_path / "logs")
