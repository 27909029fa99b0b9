"""What killing under load needs: a sender that never gives up, and the count afterwards."""

import contextlib
import hashlib
import io
import os
import random
import signal
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import func, select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, Finding, Instance, JobRow, Revision
from tests.support.dicom_objects import US
from tests.support.pacs import Pacs
from tests.support.peers import association
from tests.support.service import START_SECONDS, Service
from tests.support.waiting import eventually

SR = "1.2.840.10008.5.1.4.1.1.88.34"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
ROLES = ("receive", "work", "deliver", "schedule")

# While exams are sent they stay open however long a restart takes; the quiet time comes afterwards.
SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = {port}
quiet_seconds = {quiet}
[score]
device = "cpu"
cine_frames = {frames}
[jobs]
poll_seconds = 0.2
backoff_seconds = 0.5
backoff_cap_seconds = 2.0
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {pacs}
objects = ["sr", "overlay"]
timeout = 30
"""


class PersistentSender:
    """Sends every object until it is acknowledged, through whatever happens to the receiver.

    With `again` it then sends them all once more, over and over, until it is stopped: the same
    objects, which must change nothing.
    """

    def __init__(
        self, port: int, objects: list[Dataset], pause: float = 2.0, again: bool = False
    ) -> None:
        self.port = port
        self.objects = objects
        self.pause = pause
        self.again = again
        self.acknowledged: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "PersistentSender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def finished(self) -> bool:
        return not self._thread.is_alive()

    def _send(self) -> None:
        waiting = list(self.objects)
        contexts = [(sop, ExplicitVRLittleEndian) for sop in (US, US_MULTI_FRAME)]
        while waiting and not self._stop.is_set():
            # pynetdicom raises where the association ends between the look and the send.
            with association(self.port, contexts) as peer, contextlib.suppress(RuntimeError):
                while waiting and peer.is_established and not self._stop.is_set():
                    status = peer.send_c_store(waiting[0])
                    if status.get("Status") == 0x0000:
                        acknowledged = waiting.pop(0)
                        self.acknowledged.append(str(acknowledged.SOPInstanceUID))
                        if self.again:
                            waiting.append(acknowledged)
                    # A modality pauses between pictures: the kills fall among them.
                    self._stop.wait(self.pause)
            self._stop.wait(0.2)


def receiver_pids(service: Service) -> list[int]:
    """The receiving processes: children of the supervisor."""
    assert service.process is not None
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    pids = []
    for pid in map(int, children.read_text().split()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"receive" in command:
            pids.append(pid)
    return pids


def kill_receiver(service: Service, rng: random.Random) -> None:
    """kill -9 of one of them; waits for its successor."""
    before = ready_count(service)
    os.kill(rng.choice(receiver_pids(service)), signal.SIGKILL)
    eventually(lambda: ready_count(service) > before, START_SECONDS)


def ready_count(service: Service) -> int:
    """How often a receiver has said that it is ready."""
    return len([line for line in service.events("ready") if line["role"] == "receive"])


@dataclass(frozen=True)
class Count:
    """What became of the objects that senders know to be acknowledged."""

    acknowledged: int
    lost: list[str] = field(default_factory=list)
    findings: int = 0
    duplicate_findings: int = 0
    reports: int = 0
    missing_reports: int = 0
    duplicate_reports: int = 0

    @property
    def clean(self) -> bool:
        wrong = (self.duplicate_findings, self.missing_reports, self.duplicate_reports)
        return not self.lost and not any(wrong)


def count(service: Service, pacs: Pacs, acknowledged: set[str], studies: set[str]) -> Count:
    """Senders' logs against database, spool and PACS; a lost one has no row or not its bytes."""
    with Store(url(service)).read() as session:
        rows = session.execute(
            select(Instance.sop_instance_uid, Revision.path, Revision.size).join(
                Revision, Revision.instance_id == Instance.id
            )
        ).all()
        findings = session.execute(
            select(Finding.revision_id, Finding.frame, Finding.region, Finding.model_id)
        ).all()
    spool = service.folder / "spool"
    stored = {row[0] for row in rows if _whole(spool / row.path, row.size)}
    reports_by_study = reports(pacs)
    return Count(
        acknowledged=len(acknowledged),
        lost=sorted(acknowledged - stored),
        findings=len(findings),
        duplicate_findings=len(findings) - len({tuple(row) for row in findings}),
        reports=sum(map(len, reports_by_study.values())),
        missing_reports=len(studies - set(reports_by_study)),
        duplicate_reports=sum(len(uids) - 1 for uids in reports_by_study.values()),
    )


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size and _sha256(path) == path.stem


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reports(pacs: Pacs) -> dict[str, set[str]]:
    """SOP Instance UIDs of the SRs of each study; one that came with two contents fails."""
    contents: dict[str, set[bytes]] = defaultdict(set)
    uids: dict[str, set[str]] = defaultdict(set)
    for uid, syntax, data in pacs.received:
        contents[uid].add(data)
        header = pydicom.filereader.read_dataset(
            io.BytesIO(data), syntax == "1.2.840.10008.1.2", True
        )
        if header.SOPClassUID == SR:
            uids[str(header.StudyInstanceUID)].add(uid)
    assert Counter(len(variants) for variants in contents.values()).keys() <= {1}
    return uids


def count_jobs(service: Service, kind: str, *states: str) -> int:
    with Store(url(service)).read() as session:
        statement = select(func.count()).where(JobRow.kind == kind, JobRow.state.in_(states))
        return session.scalar(statement.select_from(JobRow)) or 0


def all_reported(service: Service) -> bool:
    with Store(url(service)).read() as session:
        open_exams = session.scalar(
            select(func.count()).select_from(Exam).where(Exam.state != "closed")
        )
        waiting = session.scalar(
            select(func.count()).select_from(JobRow).where(JobRow.state.in_(("ready", "leased")))
        )
    return not open_exams and not waiting


def url(service: Service) -> str:
    return f"sqlite:///{service.folder / 'qc.db'}"
