"""A patient is found nowhere outside database, spool and DICOM: every file that a service writes.

All processes with real models receive, score, report, deliver, save and watch; among the objects is
a damaged one, and among the destinations one that is away, so that errors are logged too.
"""

import gzip
import io
import random
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from qc_daemon.backup.series import list_backups
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, ExamState, JobKind
from tests.support.command_line import qc_daemon_here
from tests.support.dicom_objects import ultrasound
from tests.support.peers import store
from tests.support.ports import reserve_port
from tests.support.service import Service
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAMES = ("CANARYNAME", "CanaryFirst", "19871231", "1987-12-31", "CANARYACC", "CANARYTEXT")
PATIENT_ID = "CANARYID-4711"
# PS3.15 A.5 asks for the Patient ID in audit messages; names it has not.
MAY_HAVE_THE_ID = ("audit-log/",)
DATABASES = ("qc.db", "qc.db-wal", "qc.db-shm")
NOISE = random.Random(4711).randbytes(128 * 160)
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
cine_frames = 1
[jobs]
poll_seconds = 0.1
[observe]
port = {metrics}
log_level = "debug"
[backup]
folder = "backups"
[audit_log]
folder = "audit-log"
[worklist]
host = "127.0.0.1"
port = {away}
[[destination]]
name = "shelf"
kind = "folder"
folder = "shelf"
layout = "study"
objects = ["source", "sr", "overlay", "pdf"]
[[destination]]
name = "away"
port = {away}
objects = ["sr"]
commitment = "off"
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    for name in ("shelf", "backups"):
        (tmp_path / name).mkdir()
    settings = SETTINGS.format(metrics=reserve_port(), away=reserve_port())
    roles = ("receive", "work", "deliver", "schedule", "web")
    settings += "[web]\nport = 0\n"
    service = Service(tmp_path, settings, roles=roles)
    yield service.start()
    service.end()


def canary(dataset: Dataset) -> Dataset:
    dataset.PatientName = "CANARYNAME^CanaryFirst"
    dataset.PatientID = PATIENT_ID
    dataset.PatientBirthDate = "19871231"
    dataset.AccessionNumber = "CANARYACC"
    dataset.StudyDescription = "CANARYTEXT of a study"
    dataset.ImageComments = "CANARYTEXT in a comment"
    return dataset


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """A file, and what is packed in it."""
    content = path.read_bytes()
    yield str(path), content
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
        yield f"{path} (unpacked)", content
    if tarfile.is_tarfile(io.BytesIO(content)):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member)
                if file is not None:
                    yield f"{path}/{member.name}", file.read()
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for name in packed.namelist():
                yield f"{path}/{name}", packed.read(name)


def is_place_of_patients(path: str) -> bool:
    """The database, the spool and DICOM, with their backups, and what people read of an exam."""
    parts = path.split("/")
    if parts[0] == "backups" and len(parts) > 2:
        return parts[2] == "spool" or parts[2] == "qc.db"
    if parts[0] == "spool":
        return path.endswith(".dcm")
    return path in DATABASES or parts[0] == "shelf"


def test_a_patient_is_in_no_other_file(service: Service) -> None:
    *pictures, broken = (canary(ultrasound(pixels=NOISE, Rows=128, Columns=160)) for _ in range(3))
    broken.PixelData = broken.PixelData[: len(broken.PixelData) // 2]
    assert set(store(service.port, *pictures, broken)) == {0}
    records = Store(f"sqlite:///{service.folder / 'qc.db'}")

    def settled() -> bool:
        with records.read() as session:
            is_open = session.scalars(select(Exam.id).where(Exam.state == ExamState.OPEN)).all()
            pending = jobs.listing(session, states=jobs.PENDING)
        return not is_open and not [each for each in pending if each.kind is not JobKind.DELIVER]

    eventually(settled, 1200)
    eventually(lambda: list((service.folder / "shelf").rglob("summary-*.pdf")), 600)
    eventually(lambda: list_backups(service.folder / "backups"), 600)
    eventually(lambda: list_backups(service.folder / "backups")[0].is_good, 600)
    port = service.events("metrics")[0]["port"]
    for page in ("metrics", "live"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=60) as answer:
            (service.folder / f"{page}.txt").write_bytes(answer.read())
    log = f"--log={service.log_file}"
    for name, *words in (
        ("support", "doctor", *(f"--support={service.folder / 'support.tar.gz'}", log)),
        ("backup", "backup", "create"),
        ("doctor", "doctor"),
        ("queue", "queue", "list", "--format", "json"),
        ("quarantine", "quarantine", "list", "--format", "json"),
        ("destination", "destination", "list"),
        ("spool", "spool", "check"),
    ):
        done = qc_daemon_here(*words, "--config", service.config)
        (service.folder / f"command-{name}.txt").write_text(done.stdout + done.stderr)
    assert service.stop() == 0

    files = [each for each in service.folder.rglob("*") if each.is_file()]
    received = b"".join(each.read_bytes() for each in files if each.suffix == ".dcm")
    for each in (*NAMES, PATIENT_ID):
        # They were sent: of a patient whom nobody sent all this would say nothing.
        assert each.replace("1987-12-31", "19871231").encode() in received, each
    looked_at = 0
    for file in files:
        path = file.relative_to(service.folder).as_posix()
        assert not [each for each in (*NAMES, PATIENT_ID) if each.lower() in path.lower()], path
        if is_place_of_patients(path):
            continue
        for name, content in contents(file):
            looked_at += 1
            for each in NAMES if path.startswith(MAY_HAVE_THE_ID) else (*NAMES, PATIENT_ID):
                for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
                    assert each.encode(encoding) not in content, (each, name)
    assert looked_at > 10
    assert (service.folder / "support.tar.gz").is_file()
