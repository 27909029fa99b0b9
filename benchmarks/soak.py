"""Half an hour of mixed load: do memory, threads and file handles stay flat, does it stay healthy?

    .venv/bin/python benchmarks/soak.py                 30 minutes, the whole service, real models
    .venv/bin/python benchmarks/soak.py --minutes 2     a look

Senders store examinations, bursts of JPEG stills and cines, send things again and ask for storage
commitment; others scan the port, fall silent, send rubbish or break off in mid-PDU. A PACS takes
originals and results; originals leave the spool at once, so that all of it goes round. Every second
`/health` is asked and every process looked at; the samples go to a CSV file. The first third is
left out: caches fill. Exit status 1 if a probe failed, a process died or anything grew.
"""

import argparse
import copy
import csv
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.receive import cine, jpeg  # noqa: E402
from qc_daemon.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE  # noqa: E402
from tests.modality import Modality  # noqa: E402
from tests.ports import reserve_port  # noqa: E402
from tests.service import Service  # noqa: E402
from tests.wire import association, eventually  # noqa: E402
from training.phantom.dicom import exam  # noqa: E402

VERIFICATION = "1.2.840.10008.1.1"
SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
keep_pixels_days = 0
[receive]
port = 0
quiet_seconds = 10
network_timeout = 10
max_associations_per_ae = 32
[[receive.peer]]
ae_title = "MODALITY"
address = "127.0.0.1/32"
port = {modality}
[[receive.peer]]
ae_title = "VANISHING"
address = "127.0.0.1/32"
[score]
device = "cpu"
[observe]
port = {observe}
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
objects = ["source", "sr", "overlay"]
"""
_IDENTIFIERS = {0x00080018, 0x0020000D, 0x00100020}
# What one more page of a malloc arena, or a buffer of a longer cine, may be worth.
SLACK_MEGABYTES = 16.0
SLACK_SHARE = 0.05


@dataclass(frozen=True)
class Sample:
    """One process at one moment: seconds since the start, resident MiB, threads, file handles."""

    at: float
    role: str
    pid: int
    memory: float
    threads: int
    handles: int


@dataclass
class Load:
    """What is sent to the service, and how often; `errors` are the senders' own."""

    port: int
    stop: threading.Event = field(default_factory=threading.Event)
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def start(self, cine_seconds: float) -> list[threading.Thread]:
        rng = np.random.default_rng(20261122)
        exams = [exam(seed, cine_frames=8) for seed in (1, 2)]
        stills = [jpeg(rng, number) for number in range(10)]
        long = cine(rng, 0)
        work: list[tuple[float, Callable[[], None]]] = [
            (20, lambda: self.examination(exams[self.sent["examination"] // len(exams[0]) % 2])),
            (60, lambda: self.burst(stills)),
            (20, lambda: self.again(stills[:3])),
            (cine_seconds, lambda: self.store("cine", [renewed(long)])),
            (10, self.nuisances),
            (5, self.verify),
        ]
        threads = [threading.Thread(target=self._every, args=each) for each in work]
        for thread in threads:
            thread.start()
        return threads

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                work()
            except OSError:
                self.refused["connections"] += 1
            self.stop.wait(max(0.0, began + seconds - time.monotonic()))

    def examination(self, objects: list[Dataset]) -> None:
        study, patient = generate_uid(), generate_uid()[-12:]
        mine = [renewed(each, study, patient) for each in objects]
        self.store("examination", mine, commit=True)

    def burst(self, stills: list[Dataset]) -> None:
        """Ten senders at once."""
        senders = [
            threading.Thread(target=self.store, args=("burst", [renewed(s) for s in stills]))
            for _ in range(10)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()

    def again(self, objects: list[Dataset]) -> None:
        self.store("again", objects)

    def store(self, name: str, objects: list[Dataset], commit: bool = False) -> None:
        contexts = {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in objects}
        asked = [*sorted(contexts), (PUSH_MODEL, "1.2.840.10008.1.2")] if commit else contexts
        with association(self.port, sorted(asked)) as made:
            if not made.is_established:
                self.refused["associations"] += 1
                return
            for each in objects:
                status = made.send_c_store(each).get("Status")
                self.sent[name] += status == 0
                self.refused[f"status {status}"] += status != 0
            if commit:
                self.commit(made, objects)

    def commit(self, made: object, objects: list[Dataset]) -> None:
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = [reference(each) for each in objects]
        status, _ = made.send_n_action(request, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)  # type: ignore[attr-defined]
        self.sent["commitments"] += status.get("Status") == 0

    def verify(self) -> None:
        with association(self.port, [(VERIFICATION, "1.2.840.10008.1.2")]) as made:
            if made.is_established:
                self.sent["verifications"] += made.send_c_echo().get("Status") == 0

    def nuisances(self) -> None:
        """Silent, half-open, scanning and rubbish-sending peers, and one that vanishes."""
        silent = [self._connected() for _ in range(20)]
        for connection in silent[::2]:
            connection.sendall(b"\x01\x00\x00\x00\x00\xd0half")
        self._connected().close()
        with self._connected() as scanner:
            scanner.sendall(b"GET / HTTP/1.0\r\n\r\n")
        self._vanish()
        self.stop.wait(4)
        for connection in silent:
            connection.close()
        self.sent["nuisances"] += len(silent) + 3

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def _vanish(self) -> None:
        """An association that is aborted in the middle of a PDU."""
        ae = AE("VANISHING")
        ae.add_requested_context(PUSH_MODEL)
        made = ae.associate("127.0.0.1", self.port, ae_title="QCDAEMON")
        if made.is_established:
            # A P-DATA-TF that says more than will ever come.
            made.dul.socket.send(b"\x04\x00\x00\x10\x00\x00\x00\x0f\xff\xfc\x01\x00")
            made.abort()


def renewed(dataset: Dataset, study: str | None = None, patient: str | None = None) -> Dataset:
    """The same picture as a new object."""
    # Elements are shared, and to set one that is there would change it for all.
    made = Dataset()
    made.update({tag: dataset[tag] for tag in dataset.keys() - _IDENTIFIERS})
    made.file_meta = copy.deepcopy(dataset.file_meta)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.StudyInstanceUID = study or dataset.StudyInstanceUID
    made.PatientID = patient or dataset.PatientID
    return made


def reference(dataset: Dataset) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID = dataset.SOPClassUID
    made.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    return made


@dataclass
class Watch:
    """Looks at the service once a second, from outside."""

    service: Service
    health: str
    samples: list[Sample] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    def look(self, at: float) -> None:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(self.health, timeout=10) as answer:
                self.failed += answer.status != 200
        except OSError:
            self.failed += 1
        self.latencies.append(time.monotonic() - began)
        assert self.service.process is not None
        supervisor = psutil.Process(self.service.process.pid)
        for process in [supervisor, *supervisor.children(recursive=True)]:
            try:
                self.samples.append(
                    Sample(
                        at,
                        role(process.cmdline()),
                        process.pid,
                        process.memory_info().rss / 2**20,
                        process.num_threads(),
                        process.num_fds(),
                    )
                )
            except psutil.NoSuchProcess:
                # A decode child that has done its work.
                continue


def role(command: list[str]) -> str:
    """A process's role; what has none is a helper (decode child, resource tracker)."""
    if "serve" in command:
        return "supervisor"
    return command[-1] if "qc_daemon.roles" in command else "helper"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cine-seconds", type=float, default=180.0, help="between two cines")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "soak")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    load, watch = run(arguments.folder, arguments.minutes * 60, arguments.cine_seconds)
    written(arguments.folder / "samples.csv", watch.samples)
    return told(load, watch, Console(width=120))


def run(folder: Path, seconds: float, cine_seconds: float) -> tuple[Load, Watch]:
    """The load for so long, watched; the service stopped afterwards."""
    pacs_port, observe, modality = reserve_port(), reserve_port(), Modality().listen()
    (folder / "site").mkdir()
    pacs = subprocess.Popen(["storescp", "--fork", "--ignore", "+xa", str(pacs_port)])
    service = Service(
        folder / "site",
        SETTINGS.format(pacs=pacs_port, observe=observe, modality=modality.port),
        ("receive", "work", "deliver", "schedule"),
    )
    try:
        service.start()
        watch = Watch(service, f"http://127.0.0.1:{observe}/health")
        eventually(lambda: healthy(watch.health))
        load = Load(service.port)
        threads = load.start(cine_seconds)
        began = time.monotonic()
        for second in track(range(int(seconds)), "load", console=Console(stderr=True)):
            time.sleep(max(0.0, began + second - time.monotonic()))
            watch.look(time.monotonic() - began)
        load.stop.set()
        for thread in threads:
            thread.join()
        load.sent["commitment reports"] = len(modality.reports)
    finally:
        service.stop()
        modality.stop()
        pacs.terminate()
        pacs.wait()
    return load, watch


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def written(path: Path, samples: list[Sample]) -> None:
    with path.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(Sample.__dataclass_fields__)
        rows.writerows(
            [f"{s.at:.1f}", s.role, s.pid, f"{s.memory:.1f}", s.threads, s.handles] for s in samples
        )


def told(load: Load, watch: Watch, console: Console) -> int:
    """Print what was sent and what grew; the exit status."""
    end = max(sample.at for sample in watch.samples)
    steady = [sample for sample in watch.samples if sample.at > end / 3 and sample.role != "helper"]
    by_process: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in steady:
        by_process[sample.role, sample.pid].append(sample)
    table = Table(title=f"{end / 60:.0f} minutes; medians of the second, middle and last third")
    for heading in ("process", "MiB", "", "", "peak", "threads", "", "handles", "", "flat"):
        table.add_column(heading, justify="right")
    flat = True
    for (name, _pid), samples in sorted(by_process.items()):
        first, middle, last = (
            [s for s in samples if low <= (s.at - end / 3) / (end * 2 / 3) * 3 < low + 1.001]
            for low in (0, 1, 2)
        )
        if not (first and middle and last):
            console.print(f"[red]a {name} process did not last[/red]")
            flat = False
            continue
        same = is_flat(first, last)
        flat = flat and same
        memory = [statistics.median(s.memory for s in part) for part in (first, middle, last)]
        table.add_row(
            name,
            *(f"{each:.0f}" for each in memory),
            f"{max(s.memory for s in samples):.0f}",
            *(f"{statistics.median(s.threads for s in part):.0f}" for part in (first, last)),
            *(f"{statistics.median(s.handles for s in part):.0f}" for part in (first, last)),
            "yes" if same else "[red]no[/red]",
        )
    console.print(table)
    console.print(
        "sent:", dict(load.sent), "refused:", {k: v for k, v in load.refused.items() if v}
    )
    console.print(
        f"health: {len(watch.latencies)} probes, {watch.failed} failed, median"
        f" {1000 * statistics.median(watch.latencies):.0f} ms, longest"
        f" {1000 * max(watch.latencies):.0f} ms"
    )
    return 0 if flat and not watch.failed else 1


def is_flat(first: list[Sample], last: list[Sample]) -> bool:
    """Whether a process needs no more in the end than it did once warm."""
    memory = [statistics.median(s.memory for s in part) for part in (first, last)]
    if memory[1] > memory[0] * (1 + SLACK_SHARE) + SLACK_MEGABYTES:
        return False
    # The least of each third: what is left when nobody is there.
    threads = [min(s.threads for s in part) for part in (first, last)]
    handles = [min(s.handles for s in part) for part in (first, last)]
    return threads[1] <= threads[0] and handles[1] <= handles[0] + 2


if __name__ == "__main__":
    sys.exit(main())
