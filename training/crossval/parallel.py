"""Runs independent tasks of a long run, several at a time, each in a process of its own.

Small networks gain little from a second thread: two processes of one train faster than one of two.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from detector.console import UsageError


@dataclass(frozen=True, slots=True)
class Task:
    """A function of some module and its arguments; its results go to the disk. `name` is that of
    its log file."""

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...] = ()


def run_parallel(tasks: Sequence[Task], jobs: int, logs: Path) -> None:
    """Run the tasks, `jobs` at a time, which share the cores; what each prints goes to its own file
    in `logs`. With one job, or one task, they run in this process.

    A task that fails cancels those that have not begun; its error is raised when those that had
    have ended. Raises UsageError where a process was killed, mostly for want of memory.
    """
    if jobs <= 1 or len(tasks) <= 1:
        for task in tasks:
            task.function(*task.arguments)
        return
    console = Console(stderr=True)
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    start = time.monotonic()
    console.print(f"{len(tasks)} pieces, {jobs} at a time; each tells how it goes in {logs}")
    with ProcessPoolExecutor(
        jobs,
        # Not forked: the libraries' threads are not.
        mp_context=multiprocessing.get_context("spawn"),
        # A process that ends frees all its memory.
        max_tasks_per_child=1,
    ) as pool:
        names = {
            pool.submit(_run_task, task, threads, logs / f"{task.name}.log"): task.name
            for task in tasks
        }
        try:
            for count, future in enumerate(as_completed(names), 1):
                _raise_error_of(future, names[future])
                minutes = (time.monotonic() - start) / 60
                console.print(f"{names[future]} done ({count} of {len(tasks)}, {minutes:.0f} min)")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _raise_error_of(future: Future[None], name: str) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise UsageError(
            f"{name}: a process was killed, perhaps short of memory: try fewer --jobs"
        ) from None


def _run_task(task: Task, threads: int, log: Path) -> None:
    torch.set_num_threads(threads)
    with log.open("ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    task.function(*task.arguments)
