"""Seconds per image by stage, and peak memory of each process of the service.

    make bench        or        .venv/bin/python benchmarks/stages.py [--repeat 3]

With `--bundle default --bundle FOLDER`, or `--runtime torch --runtime openvino`, the stages of
several, image by image in turn.

Figures are of this machine at this moment; docs/benchmarks.md says on which ours were taken.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from model.bundle.bundle import Bundle
from model.judge import Judge
from model.runtime.bench import run_stages
from model.runtime.runtime import AUTO
from model.runtime.runtime import NAMES as RUNTIMES
from qc_daemon.cli.demo import (
    run_service,
    run_storage_scp,
    wait_until_reported,
    write_exam,
    write_settings,
)
from qc_daemon.cli.send import send
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.overlay import build_overlay
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.document import build_sr
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.score.findings import judge_frames
from qc_daemon.settings import load


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument(
        "--bundle", action="append", help="name or folder, repeatable; without it the default one"
    )
    arguments.add_argument(
        "--runtime", action="append", choices=RUNTIMES, help="repeatable; without it auto"
    )
    options = arguments.parse_args()
    judges = {
        f"{name}, {runtime}": Judge.open(Bundle.open(name), device="cpu", runtime=runtime)
        for name in options.bundle or ["default"]
        for runtime in options.runtime or [AUTO]
    }
    console = Console()
    threads = torch.get_num_threads()
    console.print(f"{os.cpu_count()} cores, torch {torch.__version__}, {threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_exam(Path(folder) / "exam")
        phantoms = [p for p in paths if p.name.startswith("phantom")][:8]
        stages = time_stages(judges, phantoms, options.repeat)
        show("seconds an image, median", stages, console, "{:.4f}")
        memory = {"figure": peak_memory(Path(folder), paths, console)}
        show("peak resident memory, MiB", memory, console, "{:.0f}")


def time_stages(
    judges: dict[str, Judge], paths: list[Path], repeat: int
) -> dict[str, dict[str, float]]:
    """Median wall seconds of each stage by bundle, over phantom stills, one image at a time."""
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in judges}
    with DecodeProcess(megabytes=4096, seconds=120, max_pixels=64_000_000) as decoder:
        for path in paths * (repeat + 1):
            for name, judge in judges.items():
                time_image(path, judge, decoder, seconds[name])
    # The first round warms up.
    return {
        name: {stage: statistics.median(values[len(paths) :]) for stage, values in stages.items()}
        for name, stages in seconds.items()
    }


def time_image(
    path: Path, judge: Judge, decoder: DecodeProcess, seconds: dict[str, list[float]]
) -> None:
    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[stage].append(time.perf_counter() - started)

    with timed("decode: summary and hash"):
        decoder.summary(path)
    with timed("decode: frames"):
        (frame,) = decoder.frames(path)
    run_stages(judge, frame, timed)
    findings = judge_frames([frame], judge, **uids(path))
    source = SourceInstance.of(header(path), "00" * 32)
    now = datetime.now(UTC)
    with timed("SR"):
        to_bytes(build_sr([source], findings, revision=1, created=now))
    with timed("overlay"):
        to_bytes(build_overlay(source, frame.pixels, findings[0], revision=1, created=now))


def header(path: Path) -> Any:
    from pydicom import dcmread

    return dcmread(path, stop_before_pixels=True)


def uids(path: Path) -> dict[str, Any]:
    dataset = header(path)
    return {
        "study_instance_uid": str(dataset.StudyInstanceUID),
        "series_instance_uid": str(dataset.SeriesInstanceUID),
        "sop_instance_uid": str(dataset.SOPInstanceUID),
    }


def peak_memory(folder: Path, paths: list[Path], console: Console) -> dict[str, float]:
    """VmHWM of each process of the service while it does the demo's exam."""
    from rich.progress import Progress

    with run_storage_scp(folder / "pacs") as pacs:
        config = write_settings(folder, pacs)
        with run_service(config, folder / "service.log"):
            send(paths, f"QCDAEMON@127.0.0.1:{load(config).receive.port}")
            with Progress(console=console) as progress:
                wait_until_reported(config, progress, folder / "service.log")
            return dict(_processes(str(config)))


def _processes(config: str) -> list[tuple[str, float]]:
    """(name, VmHWM in MiB) of the supervisor and everything below it."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    pids = {int(pid) for pid, _, command in rows if config in command and "serve" in command}
    while more := {int(p) for p, parent, _ in rows if int(parent) in pids} - pids:
        pids |= more
    peaks = []
    for pid, _, command in rows:
        if int(pid) in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            peak = re.search(r"VmHWM:\s+(\d+)", status)
            peaks.append((_name(command), int(peak.group(1)) / 1024 if peak else 0.0))
    return peaks


def _name(command: str) -> str:
    for name in ("decode_child", "roles receive", "roles work", "roles deliver", "roles schedule"):
        if name in command:
            return name.removeprefix("roles ")
    return "supervisor"


def show(title: str, columns: dict[str, dict[str, float]], console: Console, form: str) -> None:
    table = Table(title=title)
    table.add_column("what")
    for name in columns:
        table.add_column(name, justify="right")
    for what in next(iter(columns.values())):
        table.add_row(what, *(form.format(figures[what]) for figures in columns.values()))
    console.print(table)


if __name__ == "__main__":
    main()
