"""Half an hour of mixed load: do memory, threads and file handles stay flat, is anything lost?

    .venv/bin/python benchmarks/soak.py                 30 minutes, the whole service, real models
    .venv/bin/python benchmarks/soak.py --minutes 2     a short try
    .venv/bin/python benchmarks/soak.py --minutes 60 --hostile --restarts 600 --database postgresql

Senders store examinations, bursts of JPEG stills and cines, send things again and ask for storage
commitment; others scan the port, fall silent, send rubbish or break off in mid-PDU. `--hostile`
adds callers who mean harm: commands of another SOP class than their context's, requests of many
references, data without end, titles with control characters. `--restarts SECONDS` stops the PACS
(Orthanc) and, with PostgreSQL, the database by turns, each for half a minute.

Originals leave the spool at once, so that all of it goes round. Every second `/health` is asked and
every process measured; the samples go to `samples.csv`, the verdict to `result.txt`. The first
third is left out: caches fill. In the end the queue must drain and every acknowledged object be at
the PACS. Exit status 1 if a probe failed, a process died, anything grew or anything is missing.
"""

import argparse
import contextlib
import copy
import csv
import shutil
import socket
import statistics
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
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE  # noqa: E402
from qc_daemon.records.queue import jobs  # noqa: E402
from qc_daemon.records.received import exams  # noqa: E402
from qc_daemon.records.store import Store  # noqa: E402
from qc_daemon.records.tables import JobKind  # noqa: E402
from tests.support import fuzzing, raw_dimse  # noqa: E402
from tests.support.dicom_objects import US  # noqa: E402
from tests.support.orthanc import Orthanc  # noqa: E402
from tests.support.peers import Modality, association  # noqa: E402
from tests.support.ports import reserve_port  # noqa: E402
from tests.support.postgres import PostgresServer, program  # noqa: E402
from tests.support.service import Service  # noqa: E402
from tests.support.waiting import eventually  # noqa: E402
from training.phantom.dicom import exam  # noqa: E402

VERIFICATION = "1.2.840.10008.1.1"
SETTINGS = """
[store]
url = "{url}"
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
[[receive.peer]]
ae_title = "HOSTILE"
address = "127.0.0.1/32"
[jobs]
backoff_cap_seconds = 30
[score]
device = "cpu"
[observe]
port = {observe}
[[destination]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs}
objects = ["source", "sr", "overlay"]
"""
AWAY_SECONDS = 30.0
REST_SECONDS = 5
"""How long the service is watched after the load: what a caller had opened is closed by then."""
DRAIN_SECONDS = 1800.0
MPPS = "1.2.840.10008.3.1.2.3.3"
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
    # SOP Instance UIDs that were answered with success.
    acknowledged: set[str] = field(default_factory=set)
    served: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def start(
        self, cine_seconds: float, burst_seconds: float, hostile: bool = False
    ) -> list[threading.Thread]:
        rng = np.random.default_rng(20261122)
        exams = [exam(seed, cine_frames=8) for seed in (1, 2)]
        stills = [jpeg(rng, number) for number in range(10)]
        long = cine(rng, 0)
        work: list[tuple[float, Callable[[], None]]] = [
            (20, lambda: self.examination(exams[self.sent["examination"] // len(exams[0]) % 2])),
            (burst_seconds, lambda: self.burst(stills)),
            (20, lambda: self.again(stills[:3])),
            (cine_seconds, lambda: self.store("cine", [renewed(long)])),
            (10, self.nuisances),
            (5, self.verify),
        ]
        if hostile:
            work += [(7, self.bypass), (30, self.references), (45, self.endless), (11, self.titles)]
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
        proposed = [*sorted(contexts), (PUSH_MODEL, "1.2.840.10008.1.2")] if commit else contexts
        with association(self.port, sorted(proposed)) as assoc:
            if not assoc.is_established:
                self.refused["associations"] += 1
                return
            for each in objects:
                status = assoc.send_c_store(each).get("Status")
                self.sent[name] += status == 0
                self.refused[f"status {status}"] += status != 0
                if status == 0:
                    self.acknowledged.add(str(each.SOPInstanceUID))
            if commit:
                self.commit(assoc, objects)

    def commit(self, assoc: object, objects: list[Dataset]) -> None:
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = [reference(each) for each in objects]
        status, _ = assoc.send_n_action(request, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)  # type: ignore[attr-defined]
        self.sent["commitments"] += status.get("Status") == 0

    def verify(self) -> None:
        with association(self.port, [(VERIFICATION, "1.2.840.10008.1.2")]) as assoc:
            if assoc.is_established:
                self.sent["verifications"] += assoc.send_c_echo().get("Status") == 0

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

    def bypass(self) -> None:
        """A C-STORE, an N-CREATE and an N-ACTION over a context that stands for Verification."""
        for operation, sop_class in (
            ("C-STORE", US), ("N-CREATE", MPPS), ("N-ACTION", PUSH_MODEL),
        ):  # fmt: skip
            request = raw_dimse.command(operation, sop_class, generate_uid(), has_data=True)
            self._hostile([VERIFICATION], request, raw_dimse.encode_dataset(Dataset()))

    def references(self) -> None:
        """Storage commitment of 200,000 objects in one request."""
        data = Dataset()
        data.TransactionUID = generate_uid()
        item = reference_of(US, "1.2.3.4")
        data.ReferencedSOPSequence = [item] * 2_000
        bulk = raw_dimse.encode_dataset(data)
        head = raw_dimse.encode_dataset(_copy_of_element(data, "TransactionUID"))
        # An element's header and its items, the items a hundred times.
        request = raw_dimse.command("N-ACTION", PUSH_MODEL, PUSH_MODEL_INSTANCE, has_data=True)
        sequence = bulk[len(head) :]
        many = sequence[8:-8] * 100 + sequence[-8:]
        self._hostile([PUSH_MODEL], request, head + sequence[:4] + b"\xff" * 4 + many)

    def endless(self) -> None:
        """A C-STORE whose data go on for 64 MiB and are then broken off."""
        request = raw_dimse.command("C-STORE", US, generate_uid(), has_data=True)
        with self._connected() as connection, contextlib.suppress(OSError, raw_dimse.AbortedError):
            peer = raw_dimse.Peer(connection)
            peer.associate(fuzzing.associate([(US, raw_dimse.IMPLICIT)], "HOSTILE"))
            pdus = fuzzing.p_data(1, request, bytes(1 << 20))
            connection.sendall(pdus[0])
            for _ in range(64):
                for each in pdus[1:-1]:
                    connection.sendall(each)
        self.sent["hostile"] += 1

    def titles(self) -> None:
        """Titles that would be markup, escapes or formulas where somebody prints them."""
        for title in ("[/x]EVIL", "\x1b[31mRED", "=1+1", " "):
            with self._connected() as connection, contextlib.suppress(OSError):
                connection.sendall(fuzzing.associate([(VERIFICATION, raw_dimse.IMPLICIT)], title))
                connection.recv(100)
            self.sent["hostile"] += 1

    def _hostile(self, classes: list[str], request: bytes, data: bytes) -> None:
        with self._connected() as connection, contextlib.suppress(OSError, raw_dimse.AbortedError):
            peer = raw_dimse.Peer(connection)
            peer.associate(
                fuzzing.associate([(each, raw_dimse.IMPLICIT) for each in classes], "HOSTILE")
            )
            status = peer.ask(1, request, data)
            self.served[f"{status:04X}H"] += 1
        self.sent["hostile"] += 1

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def _vanish(self) -> None:
        """An association that is aborted in the middle of a PDU."""
        ae = AE("VANISHING")
        ae.add_requested_context(PUSH_MODEL)
        assoc = ae.associate("127.0.0.1", self.port, ae_title="QCDAEMON")
        if assoc.is_established:
            # A P-DATA-TF that says more than will ever come.
            assoc.dul.socket.send(b"\x04\x00\x00\x10\x00\x00\x00\x0f\xff\xfc\x01\x00")
            assoc.abort()


def renewed(dataset: Dataset, study: str | None = None, patient: str | None = None) -> Dataset:
    """The same picture as a new object."""
    # Elements are shared, and to set one that is there would change it for all.
    instance = Dataset()
    instance.update({tag: dataset[tag] for tag in dataset.keys() - _IDENTIFIERS})
    instance.file_meta = copy.deepcopy(dataset.file_meta)
    instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    instance.StudyInstanceUID = study or dataset.StudyInstanceUID
    instance.PatientID = patient or dataset.PatientID
    return instance


def reference(dataset: Dataset) -> Dataset:
    return reference_of(dataset.SOPClassUID, dataset.SOPInstanceUID)


def reference_of(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_instance
    return item


def _copy_of_element(dataset: Dataset, keyword: str) -> Dataset:
    dataset_part = Dataset()
    setattr(dataset_part, keyword, getattr(dataset, keyword))
    return dataset_part


@dataclass
class Site:
    """What stands around the service: a PACS, a database server where one is asked for."""

    pacs: Orthanc
    postgres: PostgresServer | None

    @classmethod
    def start(cls, folder: Path, database: str) -> "Site":
        program_of_pacs = shutil.which("Orthanc")
        if program_of_pacs is None:
            raise SystemExit("Orthanc is not installed; run make bench-soak, or install it")
        postgres = None
        if database == "postgresql":
            initdb, server = program("initdb"), program("postgres")
            if initdb is None or server is None:
                raise SystemExit("PostgreSQL is not installed; install it or leave --database out")
            postgres = PostgresServer(initdb, server, fsync=True)
            postgres.start()
            with postgres.connect() as connection:
                connection.execute("CREATE DATABASE qc")
        return cls(Orthanc(program_of_pacs, folder / "pacs").start(), postgres)

    @property
    def url(self) -> str:
        return "sqlite:///qc.db" if self.postgres is None else f"{self.postgres.url}/qc"

    def restarts(self, stop: threading.Event, seconds: float) -> None:
        """Take the PACS, then the database, away for half a minute, every so many seconds."""
        while not stop.wait(seconds):
            self.pacs.kill()
            stop.wait(AWAY_SECONDS)
            self.pacs.start()
            if self.postgres is not None and not stop.wait(seconds):
                self.postgres.stop()
                stop.wait(AWAY_SECONDS)
                self.postgres.start()

    def end(self) -> None:
        self.pacs.stop()
        if self.postgres is not None:
            self.postgres.remove()


@dataclass
class Watch:
    """Looks at the service once a second, from outside."""

    service: Service
    health: str
    samples: list[Sample] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    def take_sample(self, at: float) -> None:
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
    return command[-1] if "qc_daemon.service.roles" in command else "helper"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cine-seconds", type=float, default=180.0, help="between two cines")
    parser.add_argument(
        "--burst-seconds",
        type=float,
        default=60.0,
        help="between two bursts of 100 stills; what cannot be scored meanwhile waits to the end",
    )
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--hostile", action="store_true", help="callers who mean harm, too")
    parser.add_argument(
        "--restarts", type=float, metavar="SECONDS", help="between restarts of PACS and database"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "soak")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    load, watch, outcome = run(
        arguments.folder,
        arguments.minutes * 60,
        arguments.cine_seconds,
        arguments.burst_seconds,
        database=arguments.database,
        hostile=arguments.hostile,
        restarts=arguments.restarts,
    )
    write_samples(arguments.folder / "samples.csv", watch.samples)
    console = Console(width=120, record=True)
    status = print_result(load, watch, outcome, console)
    console.save_text(str(arguments.folder / "result.txt"))
    return status


@dataclass(frozen=True)
class Outcome:
    """After the load: jobs that never ended or ended badly, acknowledged objects that the PACS has
    not got."""

    unfinished: dict[str, int]
    failed_jobs: dict[str, int]
    missing: int

    @property
    def is_good(self) -> bool:
        return not (self.unfinished or self.missing or self.failed_jobs)


def run(
    folder: Path,
    seconds: float,
    cine_seconds: float,
    burst_seconds: float = 60.0,
    *,
    database: str = "sqlite",
    hostile: bool = False,
    restarts: float | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> tuple[Load, Watch, Outcome]:
    """The load for so long, watched, and what became of it; the service stopped afterwards.

    `drain_seconds` is how long the queue may take to empty once the load has ended.
    """
    observe, modality = reserve_port(), Modality().listen()
    (folder / "site").mkdir()
    site = Site.start(folder, database)
    service = Service(
        folder / "site",
        SETTINGS.format(
            url=site.url, pacs=site.pacs.dicom_port, observe=observe, modality=modality.port
        ),
        ("receive", "work", "deliver", "schedule"),
    )
    try:
        service.start()
        watch = Watch(service, f"http://127.0.0.1:{observe}/health")
        eventually(lambda: healthy(watch.health))
        load = Load(service.port)
        threads = load.start(cine_seconds, burst_seconds, hostile)
        if restarts is not None:
            threads.append(threading.Thread(target=site.restarts, args=(load.stop, restarts)))
            threads[-1].start()
        began = time.monotonic()
        for second in track(range(int(seconds)), "load", console=Console(stderr=True)):
            time.sleep(max(0.0, began + second - time.monotonic()))
            watch.take_sample(time.monotonic() - began)
        load.stop.set()
        for thread in threads:
            thread.join()
        # Until here somebody may have been connected all the time.
        for _ in range(REST_SECONDS):
            time.sleep(1)
            watch.take_sample(time.monotonic() - began)
        store = Store(absolute(site.url, folder / "site"))
        outcome = settle(store, site, load, drain_seconds)
        load.sent["commitment reports"] = len(modality.reports)
    finally:
        service.stop()
        modality.stop()
        site.end()
    return load, watch, outcome


def absolute(url: str, folder: Path) -> str:
    """The URL as it is from here; in the settings it is relative to their file."""
    return url.replace("sqlite:///", f"sqlite:///{folder}/")


def settle(store: Store, site: Site, load: Load, drain_seconds: float) -> Outcome:
    """Wait until nothing is to be done, then compare what was acknowledged with the PACS."""
    until = time.monotonic() + drain_seconds
    while True:
        with store.read() as session:
            states = {(kind, state): n for (kind, state), n in jobs.counts(session).items()}
            is_open = exams.count_open(session)
        unfinished = {
            f"{kind} {state}": n for (kind, state), n in states.items() if state in jobs.PENDING
        }
        if (not unfinished and not is_open) or time.monotonic() > until:
            break
        time.sleep(2)
    store.close()
    return Outcome(
        unfinished,
        {
            f"{kind} {state}": n
            for (kind, state), n in states.items()
            if state in jobs.FAILED_STATES and kind is not JobKind.SCORE
        },
        len(load.acknowledged - set(site.pacs.instances())),
    )


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def write_samples(path: Path, samples: list[Sample]) -> None:
    with path.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(Sample.__dataclass_fields__)
        rows.writerows(
            [f"{s.at:.1f}", s.role, s.pid, f"{s.memory:.1f}", s.threads, s.handles] for s in samples
        )


def print_result(load: Load, watch: Watch, outcome: Outcome, console: Console) -> int:
    """Print what was sent and what grew; the exit status."""
    end = max(sample.at for sample in watch.samples)
    # The first half warms up: each peer and the database have been away once by then.
    steady = [sample for sample in watch.samples if sample.at > end / 2 and sample.role != "helper"]
    by_process: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in steady:
        by_process[sample.role, sample.pid].append(sample)
    table = Table(title=f"{end / 60:.0f} minutes; medians of the thirds of the second half")
    for heading in ("process", "MiB", "", "", "peak", "threads", "", "handles", "", "flat"):
        table.add_column(heading, justify="right")
    flat = True
    for (name, _pid), samples in sorted(by_process.items()):
        first, middle, last = (
            [s for s in samples if low <= (s.at - end / 2) / (end / 2) * 3 < low + 1.001]
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
    console.print(f"hostile requests by status: {dict(load.served)}; 0000H would be one served")
    console.print(
        f"{len(load.acknowledged)} objects acknowledged, {outcome.missing} of them not at the PACS;"
        f" jobs unfinished {outcome.unfinished}, ended badly {outcome.failed_jobs}"
    )
    good = flat and not watch.failed and outcome.is_good and not load.served.get("0000H")
    console.print("passed" if good else "FAILED")
    return 0 if good else 1


def is_flat(first: list[Sample], last: list[Sample]) -> bool:
    """Whether a process needs no more in the end than it did once warm."""
    memory = [statistics.median(s.memory for s in part) for part in (first, last)]
    if memory[1] > memory[0] * (1 + SLACK_SHARE) + SLACK_MEGABYTES:
        return False
    # What is left when nobody is there; the very least is of a moment when the database is away.
    threads = [least_tenth([s.threads for s in part]) for part in (first, last)]
    handles = [least_tenth([s.handles for s in part]) for part in (first, last)]
    return threads[1] <= threads[0] and handles[1] <= handles[0] + 2


def least_tenth(values: list[int]) -> int:
    """The 10th percentile."""
    return sorted(values)[(len(values) - 1) // 10]


if __name__ == "__main__":
    sys.exit(main())
