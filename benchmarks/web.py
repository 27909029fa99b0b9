"""Readers of the pages beside receiving: does a machine wait longer because people look?

    .venv/bin/python benchmarks/web.py [--quick] [--database URL]

The service runs with the roles `receive` and `web` on an empty store. Senders, each a process with
one association at a time, store JPEG stills as fast as they are answered. Receiving is measured
alone and beside `--readers` people, who each open a page every `--think` seconds, and `--boards`
live boards, in turn, `--rounds` times, and alone once more: what else the machine does meets both.
Printed are ratios: in each round the rate of receiving with readers to the mean of those alone
before and after; processor time of the receiving process for an object, with readers to without;
the pages' p50 and p99; the events that each board got; the memory of the web process over time (its
last quarter to its second). A request that fails ends the run with an error, as does an object that
is not answered with success. What was received is deleted a minute later: half an hour of it would
fill a disk.

Senders and readers share the machine with the service, which elsewhere they do not: on few cores
the rate falls by what readers themselves spend, and the processor time of an object says what they
cost the receiving process. With `--apart` receiving and its senders have one half of the cores, the
web process and its readers the other: what is left between them is the database, the spool and the
disk.
"""

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.receive import jpeg
from qc_daemon.settings import load
from tests.support.accounts import PASSWORD, add_account
from tests.support.peers import association
from tests.support.service import Service

SETTINGS = """
[store]
url = "{url}"
spool = "{folder}/spool"
[receive]
port = 0
processes = 1
max_associations = 64
quiet_seconds = 3600
[web]
port = 0
session_hours = 720
idle_minutes = 43200
"""
PAGES = ("/exams", "/worklist?state=automatic&state=waiting", "/exams/1", "/board", "/account")
_SAMPLE_SECONDS = 1.0
_INSTANCES_PER_STUDY = 20
_CLIENT_SECONDS = 120.0
_KEPT_SECONDS, _PRUNE_SECONDS = 60.0, 20.0


@dataclass
class Answers:
    """What readers got: seconds of each page, and events of each board."""

    seconds: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pace:
    """Objects a second, and processor seconds of the receiving process for one."""

    rate: float
    cost: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Receiving alone, once more than beside readers, in turn; what readers got; bytes of the web
    process, sampled every second while they read, and its processor seconds for a page."""

    alone: list[Pace]
    beside: list[Pace]
    answers: Answers
    memory: list[int]
    page_cost: float

    @property
    def ratios(self) -> list[float]:
        """The rate of receiving with readers to that without, of each round."""
        rates = [pace.rate for pace in self.alone]
        pairs = zip(self.beside, itertools.pairwise(rates), strict=True)
        return sorted(pace.rate / statistics.mean(around) for pace, around in pairs)

    @property
    def cost_ratio(self) -> float:
        """Processor time of receiving an object with readers to that without."""
        with_readers = statistics.median(pace.cost for pace in self.beside)
        return with_readers / statistics.median(pace.cost for pace in self.alone)

    @property
    def p99(self) -> float:
        """Seconds in which 99 of 100 pages came."""
        return percentile(self.answers.seconds, 0.99)

    @property
    def memory_ratio(self) -> float:
        """Memory in the last quarter of the time to that in the second: the first is for what is
        loaded once."""
        quarter = max(1, len(self.memory) // 4)
        second = self.memory[quarter : 2 * quarter] or self.memory
        return statistics.mean(self.memory[-quarter:]) / statistics.mean(second)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def run(
    folder: Path,
    *,
    database: str | None = None,
    senders: int = 4,
    readers: int = 200,
    boards: int = 20,
    think_seconds: float = 5.0,
    rounds: int = 6,
    alone_seconds: float = 60.0,
    beside_seconds: float = 300.0,
    is_apart: bool = False,
) -> Outcome:
    """Measure. Raises RuntimeError where a request or an object fails, and with less than two cores
    where they are halved."""
    cores = sorted(psutil.Process().cpu_affinity())
    of_receiving, of_pages = cores, cores
    if is_apart:
        if len(cores) < 2:
            raise RuntimeError("one core cannot be halved")
        of_receiving, of_pages = cores[: len(cores) // 2], cores[len(cores) // 2 :]
    url = database or f"sqlite:///{folder}/qc.db"
    service = Service(folder, SETTINGS.format(url=url, folder=folder), roles=("receive", "web"))
    service.start()
    try:
        add_account(load(service.config), "lead", "lead")
        origin = f"http://127.0.0.1:{service.events('pages')[0]['port']}"
        cookie = _log_in(origin)
        answers, memory = Answers(), _Memory(service)
        receiver, web = (psutil.Process(service.pid(role)) for role in ("receive", "web"))
        _pin(receiver, of_receiving)
        for process in (web, psutil.Process()):
            _pin(process, of_pages)
        alone: list[Pace] = []
        beside: list[Pace] = []
        sent = sending(service.port, senders, of_receiving)
        with _pruned(folder / "spool"), sent as count:
            before = _cpu_seconds(web)
            for _ in range(rounds):
                with _paced(count, receiver, alone):
                    time.sleep(alone_seconds)
                with _paced(count, receiver, beside), memory.sampled():
                    asyncio.run(
                        _read(
                            *(origin, cookie, readers, boards, think_seconds),
                            *(beside_seconds, answers),
                        )
                    )
            page_cost = (_cpu_seconds(web) - before) / len(answers.seconds)
            with _paced(count, receiver, alone):
                time.sleep(alone_seconds)
        return Outcome(alone, beside, answers, memory.samples, page_cost)
    finally:
        _pin(psutil.Process(), cores)
        service.end()


@contextmanager
def _pruned(spool: Path) -> Iterator[None]:
    """Delete received files a minute after they came: nobody scores them here."""
    stop = threading.Event()

    def prune() -> None:
        while not stop.wait(_PRUNE_SECONDS):
            old = time.time() - _KEPT_SECONDS
            for path in spool.rglob("*.dcm"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < old:
                        path.unlink()

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _log_in(origin: str) -> str:
    """The session's cookie, which all readers share: a log-in is slow by intent."""
    form = {"name": "lead", "password": PASSWORD}
    answer = httpx.post(f"{origin}/login", data=form, headers={"Sec-Fetch-Site": "same-origin"})
    if answer.status_code != 303:
        raise RuntimeError(f"log-in: {answer.status_code}")
    return answer.headers["set-cookie"].partition(";")[0]


@contextmanager
def _paced(
    count: "multiprocessing.sharedctypes.Synchronized[int]",
    receiver: psutil.Process,
    paces: list[Pace],
) -> Iterator[None]:
    """Add the pace of receiving within."""
    began, objects, used = time.monotonic(), count.value, _cpu_seconds(receiver)
    yield
    objects = count.value - objects
    cost = (_cpu_seconds(receiver) - used) / max(1, objects)
    paces.append(Pace(objects / (time.monotonic() - began), cost))


def _pin(process: psutil.Process, cores: list[int]) -> None:
    """Let all its threads, and those that they start, run on these cores only."""
    for thread in process.threads():
        os.sched_setaffinity(thread.id, cores)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def sending(
    port: int, senders: int, cores: list[int]
) -> Iterator["multiprocessing.sharedctypes.Synchronized[int]"]:
    """Processes on these cores that store until the end; gives the number of objects answered so
    far."""
    spawn = multiprocessing.get_context("spawn")
    count, stop = spawn.Value("q", 0), spawn.Event()
    processes = [
        spawn.Process(target=_send, args=(port, number, count, stop, cores))
        for number in range(senders)
    ]
    for process in processes:
        process.start()
    try:
        _wait_for_first(count, processes)
        yield count
        failed = [process.exitcode for process in processes if not process.is_alive()]
        if failed:
            raise RuntimeError(f"{len(failed)} senders failed")
    finally:
        stop.set()
        for process in processes:
            process.join(60)
            if process.is_alive():
                process.kill()


def _wait_for_first(
    count: "multiprocessing.sharedctypes.Synchronized[int]",
    processes: list[multiprocessing.context.SpawnProcess],
) -> None:
    until = time.monotonic() + 300
    while count.value < 2 * len(processes):
        if time.monotonic() > until or not all(each.is_alive() for each in processes):
            raise RuntimeError("senders store nothing")
        time.sleep(0.1)


def _send(
    port: int,
    number: int,
    count: "multiprocessing.sharedctypes.Synchronized[int]",
    stop: "multiprocessing.synchronize.Event",
    cores: list[int],
) -> None:
    """Store stills, each with a UID of its own, a study's over one association."""
    _pin(psutil.Process(), cores)
    image: Dataset = jpeg(np.random.default_rng(number), number)
    contexts = [(str(image.SOPClassUID), str(image.file_meta.TransferSyntaxUID))]
    while not stop.is_set():
        image.StudyInstanceUID = generate_uid()
        with association(port, contexts) as peer:
            for _ in range(_INSTANCES_PER_STUDY):
                if stop.is_set():
                    break
                image.SOPInstanceUID = generate_uid()
                image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
                if peer.send_c_store(image).Status != 0:
                    raise RuntimeError("an object was refused")
                with count.get_lock():
                    count.value += 1


async def _read(
    origin: str,
    cookie: str,
    readers: int,
    boards: int,
    think_seconds: float,
    seconds: float,
    answers: Answers,
) -> None:
    """Read pages and boards for so long."""
    limits = httpx.Limits(max_connections=readers + boards)
    until = time.monotonic() + seconds
    headers = {"cookie": cookie}
    async with httpx.AsyncClient(
        base_url=origin, headers=headers, limits=limits, timeout=_CLIENT_SECONDS
    ) as client:
        tasks = [
            _read_pages(client, number, think_seconds, until, answers) for number in range(readers)
        ]
        tasks += [_watch_board(client, until, answers) for _ in range(boards)]
        await asyncio.gather(*tasks)


async def _read_pages(
    client: httpx.AsyncClient, number: int, think_seconds: float, until: float, answers: Answers
) -> None:
    """A person: opens a page, reads it, opens the next."""
    chance = random.Random(number)
    pages = itertools.cycle(chance.sample(PAGES, len(PAGES)))
    await asyncio.sleep(chance.uniform(0, think_seconds))
    while time.monotonic() < until:
        path, began = next(pages), time.monotonic()
        answer = await client.get(path)
        answers.seconds.append(time.monotonic() - began)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code}")
        await asyncio.sleep(chance.expovariate(1 / think_seconds))


async def _watch_board(client: httpx.AsyncClient, until: float, answers: Answers) -> None:
    """A screen with the live board."""
    events = 0
    async with client.stream("GET", "/board/events") as stream:
        if stream.status_code != 200:
            raise RuntimeError(f"/board/events: {stream.status_code}")
        async for line in stream.aiter_lines():
            events += line.startswith("event:")
            if time.monotonic() >= until:
                break
    answers.events.append(events)


class _Memory:
    """Proportional memory of the process that serves the pages."""

    def __init__(self, service: Service) -> None:
        self.samples: list[int] = []
        self._process = psutil.Process(service.pid("web"))
        self._stop = threading.Event()

    @contextmanager
    def sampled(self) -> Iterator[None]:
        self._stop.clear()
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.samples.append(self._process.memory_full_info().pss)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="six minutes instead of half an hour")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--database", help="URL of an empty PostgreSQL database; else SQLite")
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--boards", type=int, default=20)
    parser.add_argument("--think", type=float, default=5.0, help="seconds between two pages")
    parser.add_argument("--apart", action="store_true", help="half of the cores for each side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-web-") as folder:
        outcome = run(
            Path(folder),
            database=arguments.database,
            senders=arguments.senders,
            readers=arguments.readers,
            boards=arguments.boards,
            think_seconds=arguments.think,
            rounds=arguments.rounds,
            alone_seconds=20.0 if arguments.quick else 60.0,
            beside_seconds=40.0 if arguments.quick else 300.0,
            is_apart=arguments.apart,
        )
    seconds, ratios = outcome.answers.seconds, outcome.ratios
    rates = [pace.rate for pace in outcome.alone]
    table = Table(title=f"{arguments.readers} readers, {arguments.boards} live boards")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in (
        (
            "rate of receiving with readers to without, median (least to most)",
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
        ),
        (
            "processor time of receiving an object, with readers to without",
            f"{outcome.cost_ratio:.3f}",
        ),
        ("objects a second without readers, median", f"{statistics.median(rates):.0f}"),
        ("pages", f"{len(seconds):,}"),
        ("processor time of the web process for a page", f"{1000 * outcome.page_cost:.1f} ms"),
        ("a page, p50", f"{percentile(seconds, 0.5):.3f} s"),
        ("a page, p99", f"{outcome.p99:.3f} s"),
        ("events of a board, least", f"{min(outcome.answers.events, default=0):,}"),
        ("memory of the web process, last quarter to second", f"{outcome.memory_ratio:.3f}"),
        ("memory of the web process, most", f"{max(outcome.memory) / 2**20:.0f} MiB"),
    ):
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    main()
