"""Independent pieces of a long run, several at a time, each in a process of its own.

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
class Piece:
    """A function of some module, and what to call it with; its result is left to the disk."""

    name: str
    work: Callable[..., object]
    arguments: tuple[Any, ...] = ()


def side_by_side(pieces: Sequence[Piece], jobs: int, logs: Path) -> None:
    """Do the pieces, `jobs` at a time, which share the cores; what each prints goes to its own file
    in `logs`. One at a time they are done here.

    A piece that fails ends the others that have not begun; its error is raised when those that had
    are through. Raises UsageError where a process was killed, mostly for want of memory.
    """
    if jobs <= 1 or len(pieces) <= 1:
        for piece in pieces:
            piece.work(*piece.arguments)
        return
    console = Console(stderr=True)
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    begun = time.monotonic()
    console.print(f"{len(pieces)} pieces, {jobs} at a time; each tells how it goes in {logs}")
    with ProcessPoolExecutor(
        jobs,
        # Not forked: the libraries' threads are not.
        mp_context=multiprocessing.get_context("spawn"),
        # Each frees its memory with its process.
        max_tasks_per_child=1,
    ) as pool:
        waiting = {pool.submit(_do, p, threads, logs / f"{p.name}.log"): p.name for p in pieces}
        try:
            for count, future in enumerate(as_completed(waiting), 1):
                _result(future, waiting[future])
                minutes = (time.monotonic() - begun) / 60
                console.print(
                    f"{waiting[future]} done ({count} of {len(pieces)}, {minutes:.0f} min)"
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _result(future: Future[None], name: str) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise UsageError(
            f"{name}: a process was killed, perhaps short of memory: try fewer --jobs"
        ) from None


def _do(piece: Piece, threads: int, log: Path) -> None:
    torch.set_num_threads(threads)
    with log.open("ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    piece.work(*piece.arguments)
