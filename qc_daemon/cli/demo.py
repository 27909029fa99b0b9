"""The demo: an exam from C-STORE to reports, with embedded defaults, in one folder.

Starts the service and a small storage SCP standing for the PACS, stores a phantom exam and the real
ultrasound files that pydicom ships, waits for findings and reports, and shows them.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pydicom.data
from PIL import Image
from pydicom import dcmread
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.frame import Frame, Pixels, Region
from model.finding import Finding
from qc_daemon.cli.output import make_table
from qc_daemon.cli.send import send
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.observe import log
from qc_daemon.operations.results import finding_row, table_row
from qc_daemon.operations.shared import open_store
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import exams
from qc_daemon.records.results import findings
from qc_daemon.records.tables import JobKind
from qc_daemon.report.summary.html import PageEntry, exam_page
from qc_daemon.settings import ReceiveSettings, load
from training.phantom import make
from training.phantom.dicom import exam

BANNER = (
    "Not for clinical use. Only NT has learnt from real pictures, all of one data set; other views "
    "know simulations. See the model card."
)
EXAM_SEED = 7
_FRAME_SEED = 52_000
"""The seed of the first of `phantom_frames`."""
CINE_FRAMES = 12
QUIET_SECONDS = 2
START_SECONDS = 120
PATIENCE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Pacs:
    """The storage SCP's address and the folder that it stores to."""

    port: int
    folder: Path


def run_demo(out: Path, console: Console) -> None:
    """Run the demo, which writes findings, SRs, overlays and a page into `out`. Raises QCError."""
    log.quiet_libraries()
    out = _make_folder(out)
    console.print(Panel(BANNER, title="qc-daemon demo", border_style="yellow"))
    source = write_exam(out / "exam")
    with run_storage_scp(out / "pacs") as pacs:
        config = write_settings(out, pacs)
        with run_service(config, out / "service.log"), Progress(console=console) as progress:
            settings = load(config)
            task = progress.add_task("storing over DICOM", total=len(source))
            report = send(
                source,
                f"QCDAEMON@127.0.0.1:{settings.receive.port}",
                progress=lambda completed, _total: progress.update(task, completed=completed),
            )
            if report.failed:
                first = report.failed[0]
                raise QCError(
                    ErrorCode.INTERNAL, f"{first.path.name} was not stored: {first.reason}"
                )
            if report.not_sent:
                raise QCError(ErrorCode.INTERNAL, f"not stored: {report.stop_reason}")
            wait_until_reported(config, progress, out / "service.log")
            with open_store(settings).read() as session:
                objects = findings.query(session)
    names = {str(dcmread(p, stop_before_pixels=True).SOPInstanceUID): p.name for p in source}
    print_findings(objects, names, console)
    write_reports(out, pacs, objects, names)
    console.print(f"report: {out / 'report.html'}", markup=False)
    console.print(
        f"structured reports, exam summaries and overlays: {out / 'results'}", markup=False
    )


def _make_folder(out: Path) -> Path:
    """The folder, or a new one in it where something is in it. Raises UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            out = out / datetime.now().strftime("%Y%m%d-%H%M%S")
            out.mkdir()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise UsageError(
            f"--out {out}: no folder can be made there ({why}); name another"
        ) from None
    return out


def phantom_frames(count: int) -> Iterator[Frame]:
    """So many simulated pictures, always the same: of four views, half of them standard."""
    for seed in range(_FRAME_SEED, _FRAME_SEED + count):
        phantom = make(seed)
        spacing = (phantom.spacing_mm, phantom.spacing_mm)
        yield Frame(1, phantom.pixels, (Region(0, phantom.region, spacing),), simulated=True)


def write_exam(folder: Path) -> list[Path]:
    """A phantom exam (each view standard and not, a cine) and pydicom's own ultrasound files."""
    folder.mkdir()
    paths = []
    for number, dataset in enumerate(exam(EXAM_SEED, cine_frames=CINE_FRAMES), 1):
        path = folder / f"phantom_{number:02d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths + list_real_files()


def list_real_files() -> list[Path]:
    """The ultrasound images that pydicom's wheel holds."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    return [
        path
        for path in sorted(folder.glob("*.dcm"))
        if dcmread(path, stop_before_pixels=True, force=True).get("Modality") == "US"
    ]


@contextmanager
def run_storage_scp(folder: Path) -> Iterator[Pacs]:
    """A DICOM storage SCP on a free loopback port that writes received objects to `folder`."""
    folder.mkdir()

    def handle_store(event: evt.Event) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    entity = AE("DEMOPACS")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle_store)]
    )
    try:
        yield Pacs(server.server_address[1], folder)
    finally:
        server.shutdown()


def write_settings(out: Path, pacs: Pacs) -> Path:
    """Embedded defaults with free ports and a short quiet time; phantoms are of no hospital."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = out / "qc-daemon.toml"
    path.write_text(
        f"""[receive]
port = {port}
quiet_seconds = {QUIET_SECONDS}
[score]
site_calibration = "off"
[jobs]
poll_seconds = 0.2
[[destination]]
name = "pacs"
ae_title = "DEMOPACS"
port = {pacs.port}
objects = ["source", "sr", "overlay", "pdf"]
"""
    )
    return path


@contextmanager
def run_service(config: Path, journal: Path) -> Iterator[None]:
    """`qc-daemon serve` as a user would start it; stopped at the end."""
    with journal.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "qc_daemon", "serve", "--config", str(config)],
            stdout=output,
            stderr=output,
            env=os.environ | {"QC_DAEMON_SCORE__BUNDLE": "default"},
        )
        try:
            _wait_for_echo(load(config).receive, process, journal)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_echo(
    receive: ReceiveSettings, process: "subprocess.Popen[bytes]", journal: Path
) -> None:
    """Until the service answers a C-ECHO: its port is open some time before, on a busy machine."""
    entity = AE("DEMO")
    entity.add_requested_context(VERIFICATION)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 5
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        association = entity.associate("127.0.0.1", receive.port, ae_title=receive.ae_title)
        if association.is_established:
            status = association.send_c_echo()
            association.release()
            if "Status" in status and status.Status == 0x0000:
                return
        time.sleep(0.1)
    raise QCError(ErrorCode.INTERNAL, f"the service did not start; see {journal}")


def wait_until_reported(config: Path, progress: Progress, journal: Path) -> None:
    """Wait until every exam is closed and no job is pending. Raises QCError after some minutes."""
    store = open_store(load(config))
    scoring = progress.add_task("scoring", total=None)
    reporting = progress.add_task("reporting, delivering", total=None)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with store.read() as session:
            all_jobs = jobs.listing(session)
            open_exams = exams.count_open(session)
        for task, kinds in (
            (scoring, (JobKind.SCORE,)),
            (reporting, (JobKind.REPORT, JobKind.DELIVER)),
        ):
            task_jobs = [job for job in all_jobs if job.kind in kinds]
            ended_jobs = [job for job in task_jobs if job.state not in jobs.PENDING]
            progress.update(task, total=len(task_jobs), completed=len(ended_jobs))
        pending_jobs = [job for job in all_jobs if job.state in jobs.PENDING]
        if not pending_jobs and not open_exams:
            return
        time.sleep(0.3)
    raise QCError(ErrorCode.INTERNAL, f"not done after {PATIENCE_SECONDS} seconds; see {journal}")


def print_findings(
    objects: list[dict[str, Any]], names: Mapping[str, str], console: Console
) -> None:
    """Print one row per object; of a cine the frame with the most probable view."""
    rows = []
    for uid, group in groupby(objects, key=lambda finding: str(finding["sop_instance_uid"])):
        frames = list(group)
        best = max(frames, key=_view_probability)
        row = table_row(finding_row(best))
        frame = f"{row['frame']}; {len(frames)} scored" if len(frames) > 1 else row["frame"]
        rows.append(row | {"file": names.get(uid, uid), "frame": frame, "at": _clock(best)})
    # A pipe has no width; 160 columns hold the table without cutting any.
    table = make_table("findings", _COLUMNS, rows)
    (console if console.is_terminal else Console(width=160)).print(table)


_COLUMNS = (
    "file",
    "frame",
    "view",
    "verdict",
    "probability",
    "reasons",
    "flags",
    "error",
    "at",
)


def _view_probability(finding: dict[str, Any]) -> float:
    return float(finding["view"]["probability"]) if "view" in finding else 0.0


def _clock(finding: dict[str, Any]) -> str:
    """Hours, minutes, seconds (UTC) at which the finding was made."""
    return str(finding.get("created", ""))[11:19]


def write_reports(
    out: Path, pacs: Pacs, objects: list[dict[str, Any]], names: Mapping[str, str]
) -> None:
    """Write the SRs, summaries and overlays (as PNG) that the PACS holds, and one HTML page."""
    results = out / "results"
    results.mkdir()
    overlays: dict[tuple[str, int], Pixels] = {}
    for path in sorted(pacs.folder.glob("*.dcm")):
        dataset = dcmread(path, stop_before_pixels=True)
        if dataset.get("Modality") == "SR" and _is_ours(dataset):
            (results / f"sr_{path.name}").write_bytes(path.read_bytes())
        elif dataset.SOPClassUID == EncapsulatedPDFStorage and _is_ours(dataset):
            whole = dcmread(path)
            document = whole.EncapsulatedDocument[: whole.EncapsulatedDocumentLength]
            (results / f"summary_{path.stem}.pdf").write_bytes(document)
        elif dataset.SOPClassUID == SecondaryCaptureImageStorage and _is_ours(dataset):
            reference = dataset.SourceImageSequence[0]
            key = (
                str(reference.ReferencedSOPInstanceUID),
                int(reference.get("ReferencedFrameNumber", 1)),
            )
            overlays[key] = dcmread(path).pixel_array
            Image.fromarray(overlays[key]).save(results / f"overlay_{path.stem}.png")
    exam_findings = [Finding.from_json(each) for each in objects if "error" not in each]
    # Of a cine the page shows the frames that an overlay was made of.
    page_findings = [
        f for f in exam_findings if f.frame == 1 or (f.sop_instance_uid, f.frame) in overlays
    ]
    entries = [
        PageEntry(
            finding,
            name=names.get(finding.sop_instance_uid or "", str(finding.sop_instance_uid)),
            picture=overlays.get((finding.sop_instance_uid or "", finding.frame)),
        )
        for finding in page_findings
    ]
    (out / "report.html").write_text(
        exam_page(entries, title="qc-daemon demo", banner=BANNER), encoding="utf-8"
    )


def _is_ours(dataset: pydicom.Dataset) -> bool:
    return "qc-daemon" in str(dataset.get("ManufacturerModelName", "")).lower()
