"""Objects a second that a receiver takes: qc-daemon, Orthanc and DCMTK's storescp side by side.

    make bench-receive        or        .venv/bin/python benchmarks/receive.py [--quick]

DCMTK's storescu sends files prepared beforehand, one process and association each; every object has
its own SOP Instance UID and content. The receivers run one at a time, on the same disk. A rate is
objects over the time from the first request to the last response, a C-STORE's time is from its
request to its response; both come from the senders' logs (milliseconds). Senders that fail, and
objects that a receiver does not hold afterwards, end the run with an error.

qc-daemon answers after fsync of file and folder and the commit of its database; Orthanc (Debian's
defaults) after fsync of the file and a commit; storescp never syncs anything.
"""

import argparse
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)
from rich.console import Console
from rich.table import Table

# The tests' helper: a script's own folder is all that Python puts on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.ports import reserve_port

LEVELS = (1, 4, 16)
START_SECONDS = 60.0
LIMIT_SECONDS = 600.0
STATUS = re.compile(r"Received Store Response \((.*)\)")

LOG = """log4cplus.rootLogger = INFO, console
log4cplus.appender.console = log4cplus::ConsoleAppender
log4cplus.appender.console.layout = log4cplus::PatternLayout
log4cplus.appender.console.layout.ConversionPattern = %D{%s.%q} %m%n
"""

SERVICE = """[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
"""


@dataclass(frozen=True)
class Kind:
    """One kind of object: how many are sent in all at each level, and storescu's option for it."""

    name: str
    make: Callable[[np.random.Generator, int], Dataset]
    counts: dict[int, int]
    syntax_option: str = "-xe"


@dataclass(frozen=True)
class Result:
    """What one receiver did with one kind at one level."""

    receiver: str
    kind: str
    level: int
    objects_per_second: float
    megabytes_per_second: float
    p50: float
    p99: float
    peak: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a fifth of the objects, no 16")
    options.add_argument("--folder", type=Path, help="on the disk to measure (default: here)")
    options.add_argument("--only", help="receivers to run, by comma")
    options.add_argument("--levels", help="associations, by comma")
    options.add_argument("--kinds", help="kinds of object, by comma")
    arguments = options.parse_args()
    console = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.folder or Path.cwd()) as folder:
        results, limits = measure(Path(folder), arguments, console)
    show(results, limits, console)


def measure(
    folder: Path, arguments: argparse.Namespace, console: Console
) -> tuple[list[Result], dict[str, tuple[float, float]]]:
    """All results, and the disk's own (objects, megabytes) a second for each kind."""
    levels = [int(each) for each in (arguments.levels or "").split(",") if each]
    levels = levels or [each for each in LEVELS if each < 16 or not arguments.quick]
    names = (arguments.only or ",".join(RECEIVERS)).split(",")
    divide = 5 if arguments.quick else 1
    results: list[Result] = []
    limits: dict[str, tuple[float, float]] = {}
    for kind in KINDS:
        if arguments.kinds and kind.name not in arguments.kinds.split(","):
            continue
        for level in [each for each in levels if each in kind.counts]:
            count = max(kind.counts[level] // divide, level)
            with prepared(folder / "files", kind, count, level) as shares:
                size = sum(path.stat().st_size for share in shares for path in share) / count
                if kind.name not in limits:
                    rate = disk_limit(folder / "disk", shares)
                    limits[kind.name] = (rate, rate * size / 1e6)
                for name in names:
                    results.append(measure_one(folder, name, kind, level, shares, size))
                    console.print(
                        f"{kind.name} at {level}: {name}"
                        f" {results[-1].objects_per_second:.1f} objects/s"
                    )
    return results, limits


# Objects.


def still(rng: np.random.Generator, number: int) -> Dataset:
    """An uncompressed RGB still of 2.36 MB."""
    dataset = _image(UltrasoundImageStorage, number, 768, 1024)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = rng.bytes(768 * 1024 * 3)
    return dataset


def jpeg(rng: np.random.Generator, number: int) -> Dataset:
    """A JPEG baseline still of about 200 kB."""
    dataset = _image(UltrasoundImageStorage, number, 768, 1024)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    coarse = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    noise = rng.integers(0, 48, (768, 1024, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((1024, 768))) // 2 + noise
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=72, subsampling="4:2:2")
    dataset.PixelData = encapsulate([out.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def cine(rng: np.random.Generator, number: int) -> Dataset:
    """An uncompressed RGB cine of 200 MB."""
    frames = 85
    dataset = _image(UltrasoundMultiFrameImageStorage, number, 768, 1024)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.NumberOfFrames, dataset.FrameTime = frames, 40
    dataset.PixelData = rng.bytes(768 * 1024 * 3) * frames
    return dataset


def _image(sop_class: str, number: int, rows: int, columns: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20261122", "120000", ""
    dataset.Modality, dataset.Manufacturer, dataset.ReferringPhysicianName = "US", "", ""
    dataset.PatientName, dataset.PatientID = "BENCH", "BENCH"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = ""
    # Twenty pictures an examination, as they come.
    dataset.StudyInstanceUID = f"2.25.{number // 20 + 1}"
    dataset.SeriesInstanceUID = f"2.25.{number // 20 + 1}.1"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    return dataset


KINDS = (
    Kind("RGB", still, {1: 100, 4: 300, 16: 320}),
    Kind("JPEG", jpeg, {1: 300, 4: 800, 16: 960}, "-xy"),
    Kind("cine", cine, {1: 3}),
)


@contextmanager
def prepared(folder: Path, kind: Kind, count: int, level: int) -> Iterator[list[list[Path]]]:
    """The files, dealt out to as many senders; removed afterwards."""
    rng = np.random.default_rng(20261122)
    shares: list[list[Path]] = [[] for _ in range(level)]
    for number in range(count):
        sender = number * level // count
        path = folder / str(sender) / f"{number:06d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind.make(rng, number).save_as(path, enforce_file_format=True)
        shares[sender].append(path)
    os.sync()
    try:
        yield shares
    finally:
        shutil.rmtree(folder)


def disk_limit(folder: Path, shares: list[list[Path]]) -> float:
    """Objects a second that the machine itself can keep: copy and fsync, four threads."""
    folder.mkdir()
    paths = [path for share in shares for path in share][:100]

    def keep(mine: list[Path]) -> None:
        for path in mine:
            with (folder / path.name).open("wb") as out:
                out.write(path.read_bytes())
                out.flush()
                os.fsync(out.fileno())

    threads = [threading.Thread(target=keep, args=(paths[n::4],)) for n in range(4)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return len(paths) / seconds


# Receivers.


@dataclass
class Receiver:
    """A receiver's process in a folder of its own."""

    folder: Path
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    peaks: dict[int, float] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    title = "ANY"

    def command(self) -> list[str]:
        raise NotImplementedError

    def count_objects(self) -> int:
        """How many objects it holds."""
        raise NotImplementedError

    def ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> "Receiver":
        self.folder.mkdir()
        self.port = self.port or reserve_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QC_DAEMON_")}
        command = self.command()
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env=environment
            )
        until = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.1)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)

    def _watch(self) -> None:
        assert self.process is not None
        while not self._over.wait(0.2):
            self.read_peaks()

    def read_peaks(self) -> None:
        """Take the peak resident memory of every process of it that handles associations."""
        assert self.process is not None
        for each in self.receivers(psutil.Process(self.process.pid)):
            try:
                status = Path(f"/proc/{each.pid}/status").read_text()
            except OSError:
                continue
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
            if peak:
                self.peaks[each.pid] = max(self.peaks.get(each.pid, 0), int(peak[1]) / 1024)

    def receivers(self, process: psutil.Process) -> list[psutil.Process]:
        return [process, *process.children(recursive=True)]


class QCDaemon(Receiver):
    title = "QCDAEMON"

    def command(self) -> list[str]:
        (self.folder / "qc.toml").write_text(SERVICE)
        serve = [sys.executable, "-P", "-m", "qc_daemon", "serve", "--config", "qc.toml"]
        return [*serve, "--role", "receive"]

    def ready(self) -> bool:
        events = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        self.port = next((each["port"] for each in events if each["event"] == "listening"), 0)
        # All processes of the role, or as many as came within the first's second.
        if not any(each["event"] == "ready" for each in events):
            return False
        time.sleep(2.0)
        return True

    def count_objects(self) -> int:
        with sqlite3.connect(self.folder / "qc.db") as database:
            rows: int = database.execute("SELECT COUNT(*) FROM revision").fetchone()[0]
        files = len(list((self.folder / "spool").rglob("*.dcm")))
        if rows != files:
            raise SystemExit(f"qc-daemon has {rows} rows but {files} files")
        return rows

    def receivers(self, process: psutil.Process) -> list[psutil.Process]:
        return process.children(recursive=True)


class Orthanc(Receiver):
    title = "ORTHANC"

    def command(self) -> list[str]:
        self.http = reserve_port()
        settings = {
            "StorageDirectory": "storage",
            "IndexDirectory": "storage",
            "Plugins": [],
            "DicomAet": self.title,
            "DicomPort": self.port,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
        }
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
        return [program, "orthanc.json"]

    def count_objects(self) -> int:
        url = f"http://127.0.0.1:{self.http}/statistics"
        with urllib.request.urlopen(url, timeout=60) as reply:
            count: int = json.load(reply)["CountInstances"]
        return count


class StoreSCP(Receiver):
    title = "STORESCP"

    def command(self) -> list[str]:
        (self.folder / "received").mkdir()
        return ["storescp", "--fork", "+xa", "-od", "received", "-aet", self.title, str(self.port)]

    def count_objects(self) -> int:
        return len(list((self.folder / "received").iterdir()))


RECEIVERS = {"qc-daemon": QCDaemon, "Orthanc": Orthanc, "storescp": StoreSCP}


# Sending.


def measure_one(
    folder: Path, name: str, kind: Kind, level: int, shares: list[list[Path]], size: float
) -> Result:
    """Send all shares to a fresh receiver at once, one association each; returns its rates."""
    count = sum(map(len, shares))
    with RECEIVERS[name](folder / "receiver") as receiver:
        times = send(folder, receiver, kind, shares)
        receiver.read_peaks()
        if receiver.count_objects() != count or len(times) != count:
            raise SystemExit(
                f"{name} holds {receiver.count_objects()} of {count}, {len(times)} answered"
            )
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    each = sorted(1000 * (end - start) for start, end in times)
    return Result(
        name,
        kind.name,
        level,
        count / seconds,
        count * size / seconds / 1e6,
        statistics.median(each),
        each[min(int(0.99 * len(each)), len(each) - 1)],
        max(receiver.peaks.values()),
    )


def send(
    folder: Path, receiver: Receiver, kind: Kind, shares: list[list[Path]]
) -> list[tuple[float, float]]:
    """Request and response times of every object, seconds since 1970."""
    config = folder / "log.cfg"
    config.write_text(LOG)
    base = ["storescu", "--log-config", str(config), "-R", kind.syntax_option]
    base += ["--max-send-pdu", "131072", "-aet", "BENCH", "-aec", receiver.title]
    logs = [folder / f"sender-{number}" for number in range(len(shares))]
    senders = []
    for log, share in zip(logs, shares, strict=True):
        with log.open("wb") as out:
            command = [*base, "127.0.0.1", str(receiver.port), *map(str, share)]
            senders.append(subprocess.Popen(command, stdout=out, stderr=out))
    times: list[tuple[float, float]] = []
    for sender, log in zip(senders, logs, strict=True):
        status = sender.wait(LIMIT_SECONDS)
        output = log.read_text(errors="replace")
        log.unlink()
        if status != 0:
            raise SystemExit(f"storescu ended with {status}:\n{output[-2000:]}")
        times += _times(output)
    return times


def _times(output: str) -> list[tuple[float, float]]:
    pairs = []
    started = 0.0
    for line in output.splitlines():
        moment, _, text = line.partition(" ")
        if text.startswith("Sending Store Request"):
            started = float(moment)
        elif answer := STATUS.match(text):
            if answer[1] != "Success":
                raise SystemExit(f"an object was answered with {answer[1]}")
            pairs.append((started, float(moment)))
    return pairs


# Telling.


def show(results: list[Result], limits: dict[str, tuple[float, float]], console: Console) -> None:
    table = Table(title="Receiving: DCMTK senders, one machine, one run")
    for heading in ("object", "associations", "receiver"):
        table.add_column(heading)
    for heading in ("objects/s", "MB/s", "p50 ms", "p99 ms", "peak MiB", "ours is x"):
        table.add_column(heading, justify="right")
    ours = {(r.kind, r.level): r for r in results if r.receiver == "qc-daemon"}
    for result in results:
        mine = ours.get((result.kind, result.level))
        ratio = mine.objects_per_second / result.objects_per_second if mine else None
        table.add_row(
            result.kind,
            str(result.level),
            result.receiver,
            f"{result.objects_per_second:.1f}",
            f"{result.megabytes_per_second:.0f}",
            f"{result.p50:.0f}",
            f"{result.p99:.0f}",
            f"{result.peak:.0f}",
            "" if ratio is None or result is mine else f"{ratio:.2f}",
        )
    console.print(table)
    for name, (rate, megabytes) in limits.items():
        console.print(f"{name}: copy + fsync alone {rate:.0f} objects/s, {megabytes:.0f} MB/s")
    console.print("storescp does not sync: what it has acknowledged, a power cut may take.")


if __name__ == "__main__":
    main()
