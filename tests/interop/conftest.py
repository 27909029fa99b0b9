"""The service between real peers: DCMTK's dcmsend before it, an Orthanc behind it."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, ExamState, Instance, Revision
from qc_daemon.report.objects.overlay import SERIES_DESCRIPTION as OVERLAYS
from qc_daemon.report.sr.document import SERIES_DESCRIPTION as REPORTS
from tests.support.command_line import qc_daemon
from tests.support.dcmtk import SendResult, dcmsend
from tests.support.environment import require
from tests.support.orthanc import Orthanc, StoredObject
from tests.support.service import Service
from tests.support.socket_guard import SocketGuard
from tests.support.waiting import eventually
from tests.support.wrapped_pictures import nuchal_pictures, ultrasound_image
from training.phantom.dicom import exam

SEED = 4711
WRAPPED, A_WOMAN = 10, 5
SETTLE_SECONDS = 1500.0
"""A bound for a machine that is busy with something else; idle, all is done in two minutes."""

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
quiet_seconds = 2
[score]
device = "cpu"
cine_frames = 4
[jobs]
poll_seconds = 0.1
backoff_seconds = 0.5
backoff_cap_seconds = 2.0
max_attempts = {attempts}
[[destination]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs}
objects = ["source", "sr", "overlay"]
"""


@dataclass
class Deployment:
    """The service, its PACS and the guard it runs under."""

    service: Service
    pacs: Orthanc
    guard: SocketGuard

    @property
    def store(self) -> Store:
        return Store(f"sqlite:///{self.service.folder / 'qc.db'}")

    def pending(self) -> list[jobs.Job]:
        with self.store.read() as session:
            return jobs.listing(session, states=jobs.PENDING)

    def settled(self) -> bool:
        """Whether every exam is closed and every job has ended, one way or the other."""
        assert self.service.process is not None
        assert self.service.process.poll() is None, self.service.log_file.read_text()
        with self.store.read() as session:
            open_exams = session.scalars(select(Exam.id).where(Exam.state == ExamState.OPEN)).all()
        return not open_exams and not self.pending()

    def first_received(self) -> dict[str, Path]:
        """The file of each instance's first content, by SOP Instance UID."""
        rows = (
            select(Instance.sop_instance_uid, Revision.path)
            .join(Revision, Revision.instance_id == Instance.id)
            .where(Revision.number == 1)
        )
        with self.store.read() as session:
            paths = session.execute(rows).all()
        return {uid: self.service.folder / "spool" / path for uid, path in paths}

    def results(self) -> list[dict[str, Any]]:
        """What `qc-daemon results` says."""
        command = qc_daemon("results", "--config", self.service.config, "--format", "jsonl")
        assert command.returncode == 0, command.stderr
        return [json.loads(line) for line in command.stdout.splitlines()]


@pytest.fixture(scope="session")
def orthanc_program() -> str:
    # Debian keeps it where only root's PATH looks.
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    require(program is not None, "Orthanc")
    assert program is not None
    return program


@pytest.fixture(scope="session")
def dicomweb_plugin() -> str:
    """Debian's orthanc-dicomweb."""
    plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    require(plugin.exists(), "Orthanc's DICOMweb plugin (orthanc-dicomweb)")
    return str(plugin)


@pytest.fixture(scope="session")
def dcmsend_program() -> str:
    program = shutil.which("dcmsend")
    require(program is not None, "dcmsend (DCMTK)")
    assert program is not None
    return program


@pytest.fixture(scope="session")
def make_deployment(
    tmp_path_factory: pytest.TempPathFactory, orthanc_program: str
) -> Iterator[Callable[..., Deployment]]:
    """Sites, neither service nor PACS started; stopped at the end."""
    deployments: list[Deployment] = []

    def make(attempts: int = 5) -> Deployment:
        folder = tmp_path_factory.mktemp("deployment")
        pacs = Orthanc(orthanc_program, folder / "orthanc")
        guard = SocketGuard(folder)
        service = Service(
            folder,
            SETTINGS.format(pacs=pacs.dicom_port, attempts=attempts),
            roles=("receive", "work", "deliver", "schedule"),
            environment=guard.environment,
        )
        deployments.append(Deployment(service, pacs, guard))
        return deployments[-1]

    yield make
    for deployment in deployments:
        deployment.service.end()
        deployment.pacs.kill()


@dataclass
class Outcome:
    """What was stored, and what came of it."""

    deployment: Deployment
    sent: list[SendResult]
    results: list[dict[str, Any]]
    reports: list[StoredObject]
    overlays: list[StoredObject]
    headers: dict[Path, Dataset]

    def findings(self) -> list[dict[str, Any]]:
        return [each for each in self.results if "error" not in each]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> list[Path]:
    """A phantom exam with a cine, the real ultrasound files, and real NT pictures wrapped."""
    folder = tmp_path_factory.mktemp("files")
    phantoms = _written(exam(SEED, cine_frames=6), folder / "phantom")
    real = sorted((shared_data / "us_dicom").glob("*.dcm"))
    assert len(real) == 26
    with zipfile.ZipFile(shared_data / "us_dicom" / "deid_GREYSCALE_CINE.zip") as archive:
        archive.extractall(folder / "zip")
    (cine,) = (path for path in (folder / "zip").rglob("*") if _is_dicom(path))
    pictures = nuchal_pictures(shared_data / "fetus_framework", WRAPPED)
    wrapped = [
        ultrasound_image(picture, index // A_WOMAN + 1, index % A_WOMAN + 1)
        for index, picture in enumerate(pictures)
    ]
    return [*phantoms, *real, cine, *_written(wrapped, folder / "wrapped")]


@pytest.fixture(scope="session")
def outcome(
    make_deployment: Callable[..., Deployment],
    files: list[Path],
    dcmsend_program: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    """All of it stored by dcmsend, scored, told and delivered."""
    deployment = make_deployment()
    deployment.pacs.start()
    port = deployment.service.spawn().port
    report = tmp_path_factory.mktemp("dcmsend") / "report.txt"
    sent = dcmsend(dcmsend_program, port, files, report)
    eventually(deployment.settled, SETTLE_SECONDS)
    headers = {path: dcmread(path, stop_before_pixels=True) for path in files}
    return Outcome(
        deployment,
        sent,
        results=deployment.results(),
        reports=deployment.pacs.of_series(REPORTS),
        overlays=deployment.pacs.of_series(OVERLAYS),
        headers=headers,
    )


def _written(datasets: list[Dataset], folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:02d}.dcm" for number, _ in enumerate(datasets, 1)]
    for path, dataset in zip(paths, datasets, strict=True):
        dataset.save_as(path, enforce_file_format=True)
    return paths


def _is_dicom(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[128:132] == b"DICM"
