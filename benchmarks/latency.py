"""From the last image of an exam to its report at the PACS, beside what the models alone take.

    make bench-latency        or        .venv/bin/python benchmarks/latency.py [--exams 10]

A machine that sends an exam of 30 stills at its end, one PACS that takes reports, overlays and
summaries. Quiet time is not counted: it is a wait by settings. Figures are of this machine at this
moment; docs/benchmarks.md says on which ours were taken.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydicom import dcmread
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from rich.console import Console
from rich.table import Table

from model.bundle.bundle import Bundle
from model.judge import Judge
from qc_daemon.cli.demo import QUIET_SECONDS, Pacs, run_service, write_settings
from qc_daemon.cli.send import send
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.score.findings import judge_frames
from qc_daemon.settings import load
from training.phantom.dicom import START, Patient, to_dataset, uid
from training.phantom.simulate import make

SR = "1.2.840.10008.5.1.4.1.1.88.34"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
FIRST_SEED = 77_000_000
PATIENCE_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exams", type=int, default=10)
    parser.add_argument("--images", type=int, default=30)
    arguments = parser.parse_args()
    console = Console()
    console.print(f"{os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exams = [
            write_exam(folder / f"exam{number}", number, arguments.images)
            for number in range(arguments.exams + 1)
        ]
        alone = models_alone(exams[1])
        durations = run(folder, exams)
    show(console, durations, alone, arguments.images)


def write_exam(folder: Path, number: int, images: int) -> list[Path]:
    """An exam of simulated stills."""
    folder.mkdir()
    paths = []
    for image in range(images):
        patient = FIRST_SEED + number
        dataset = to_dataset(
            make(1000 * patient + image),
            patient=Patient.of(patient),
            study_uid=uid(patient, "study"),
            series_uid=uid(patient, "series/1"),
            instance_number=image + 1,
            operator="SONOGRAPHER^ONE",
            station="PHANTOM-US1",
            start=START,
        )
        paths.append(folder / f"{image:02d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def models_alone(paths: list[Path]) -> float:
    """Seconds an image that detector, describer and SpatialCLIP take, decoded and warm."""
    judge = Judge.open(Bundle.open("default"), device="cpu")
    with DecodeProcess() as decoder:
        frames = [(path, list(decoder.frames(path))) for path in paths]
    seconds = 0.0
    for round_ in range(2):
        start = time.perf_counter()
        for _, decoded in frames:
            judge_frames(decoded, judge)
        # The first round warms up.
        seconds = time.perf_counter() - start if round_ else 0.0
    return seconds / len(paths)


def run(folder: Path, exams: list[list[Path]]) -> list[tuple[float, float, float]]:
    """Seconds of each exam but the first, which warms up: sending, then from the last image to its
    report, and to its summary, at the PACS."""
    durations = []
    arrived: dict[tuple[str, str], float] = {}
    with pacs(folder / "pacs", arrived) as destination:
        config = write_settings(folder, destination)
        with run_service(config, folder / "service.log"):
            receiver = f"QCDAEMON@127.0.0.1:{load(config).receive.port}"
            for paths in exams:
                study = str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
                start = time.monotonic()
                report = send(paths, receiver)
                if report.failed:
                    raise SystemExit(f"not stored: {report.failed[0].reason}")
                if report.not_sent:
                    raise SystemExit(f"not stored: {report.stop_reason}")
                last = time.monotonic()
                arrivals = [_arrival(arrived, (study, kind), last) for kind in (SR, PDF)]
                waits = (moment - last - QUIET_SECONDS for moment in arrivals)
                durations.append((last - start, *waits))
    return durations[1:]


def _arrival(arrived: dict[tuple[str, str], float], key: tuple[str, str], since: float) -> float:
    while key not in arrived:
        if time.monotonic() - since > PATIENCE_SECONDS:
            raise SystemExit(f"no report after {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.01)
    return arrived[key]


@contextmanager
def pacs(folder: Path, arrived: dict[tuple[str, str], float]) -> Iterator[Pacs]:
    """A storage SCP that keeps nothing but when it got the first object of a study and class."""
    folder.mkdir()

    def handle_store(event: evt.Event) -> int:
        dataset = event.dataset
        key = (str(dataset.StudyInstanceUID), str(dataset.SOPClassUID))
        arrived.setdefault(key, time.monotonic())
        return 0x0000

    entity = AE("DEMOPACS")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle_store)]
    )
    try:
        yield Pacs(server.socket.getsockname()[1], folder)
    finally:
        server.shutdown()


def show(
    console: Console, durations: list[tuple[float, float, float]], alone: float, images: int
) -> None:
    table = Table(title=f"{len(durations)} exams of {images} stills")
    for column in ("seconds", "p50", "p95"):
        table.add_column(column, justify="right" if column != "seconds" else "left")
    sending, to_report, to_summary = (list(column) for column in zip(*durations, strict=True))
    # Scoring begins with the first image: what the service adds is counted from there.
    own = [
        (sent + waited) / images - alone for sent, waited in zip(sending, to_report, strict=True)
    ]
    for name, values in (
        ("storing the exam", sending),
        ("last image to report at the PACS", to_report),
        ("last image to summary at the PACS", to_summary),
        ("ours an image, first image to report", own),
    ):
        table.add_row(name, f"{statistics.median(values):.3f}", f"{quantile(values, 0.95):.3f}")
    table.add_row("the models alone, an image", f"{alone:.3f}", "")
    console.print(table)


def quantile(values: list[float], q: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[math.ceil(q * len(values)) - 1]


if __name__ == "__main__":
    main()
