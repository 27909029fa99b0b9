"""kill -9 in mid-exam, ten times at random moments: nothing acknowledged is lost or doubled."""

import io
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import func, select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, Finding, Instance, JobRow, Revision
from tests.conftest import ROOT, require
from tests.service import Service, pause
from tests.wire import US, Pacs, association, eventually, free_port
from training.phantom.dicom import exam

SR = "1.2.840.10008.5.1.4.1.1.88.34"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
ROLES = ("receive", "work", "deliver", "schedule")
CINE_FRAMES = 3
# Scoring on two busy cores, and a restart that loads the models again.
PATIENCE_SECONDS = 1200.0

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


class Modality:
    """Sends every object until it is acknowledged, through whatever happens to the receiver."""

    def __init__(self, port: int, objects: list[Dataset]) -> None:
        self.port = port
        self.objects = objects
        self.acknowledged: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Modality":
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
            with association(self.port, contexts) as made:
                while waiting and made.is_established and not self._stop.is_set():
                    status = made.send_c_store(waiting[0])
                    if status.get("Status") == 0x0000:
                        self.acknowledged.append(str(waiting.pop(0).SOPInstanceUID))
                    # A modality pauses between pictures: the kills fall among them.
                    self._stop.wait(2.0)
            self._stop.wait(0.2)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs(sop_classes=(SR, SECONDARY_CAPTURE)).start()
    yield made
    made.stop()


@pytest.fixture
def service(tmp_path: Path, pacs: Pacs) -> Iterator[Callable[[float], Service]]:
    made = Service(tmp_path, "", ROLES)
    port = free_port()

    def with_quiet(seconds: float) -> Service:
        made.settings = SETTINGS.format(
            port=port, pacs=pacs.port, quiet=seconds, frames=CINE_FRAMES
        )
        return made

    yield with_quiet
    if made.process is not None and made.process.poll() is None:
        made.stop()


def jobs_in(service: Service, kind: str, *states: str) -> int:
    with Store(f"sqlite:///{service.folder / 'qc.db'}").read() as session:
        statement = select(func.count()).where(JobRow.kind == kind, JobRow.state.in_(states))
        return session.scalar(statement.select_from(JobRow)) or 0


def kill_and_restart(service: Service, victim: str) -> None:
    if victim == "daemon":
        service.kill()
        service.start()
    else:
        service.kill_role(victim)


def progress(service: Service) -> None:
    """Wait until another object is scored, or none is left to score.

    Between two kills of the worker: three deaths on one job would rightly quarantine it.
    """
    scored = jobs_in(service, "score", "done")
    eventually(
        lambda: (
            jobs_in(service, "score", "done") > scored
            or not jobs_in(service, "score", "ready", "leased")
        ),
        PATIENCE_SECONDS,
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_kills_in_mid_exam(service: Callable[[float], Service], pacs: Pacs) -> None:
    bundle = ROOT / "model" / "bundles" / "default" / "bundle.json"
    require(bundle.is_file(), "the default bundle")
    rng = random.Random(20261122)
    exams = [exam(seed, cine_frames=CINE_FRAMES) for seed in (9101, 9102)]
    objects = [each for study in exams for each in study]
    victims = ["work", "daemon", "work", "receive", "daemon", "work", "daemon"]
    rng.shuffle(victims)

    running = service(3600).start()
    with Modality(running.port, objects) as modality:
        for victim in victims:
            if victim == "work":
                progress(running)
            pause(rng.uniform(0.0, 3.0))
            kill_and_restart(running, victim)
        eventually(modality.finished, PATIENCE_SECONDS)
        eventually(lambda: not jobs_in(running, "score", "ready", "leased"), PATIENCE_SECONDS)
    acknowledged = modality.acknowledged
    assert running.stop() == 0

    # Now the exams fall quiet: three more kills among closing, reporting and delivering.
    running = service(0).start()
    for victim in ("work", "daemon", "deliver"):
        pause(rng.uniform(0.0, 4.0))
        kill_and_restart(running, victim)
    eventually(lambda: all_told(running), PATIENCE_SECONDS)
    assert running.stop() == 0

    assert sorted(acknowledged) == sorted(str(each.SOPInstanceUID) for each in objects)
    assert_one_finding_set_each(running, objects)
    assert_one_sr_each(pacs, exams)


def all_told(service: Service) -> bool:
    with Store(f"sqlite:///{service.folder / 'qc.db'}").read() as session:
        open_exams = session.scalar(
            select(func.count()).select_from(Exam).where(Exam.state != "closed")
        )
        waiting = session.scalar(
            select(func.count()).select_from(JobRow).where(JobRow.state.in_(("ready", "leased")))
        )
    return not open_exams and not waiting


def assert_one_finding_set_each(service: Service, objects: list[Dataset]) -> None:
    with Store(f"sqlite:///{service.folder / 'qc.db'}").read() as session:
        states = session.execute(
            select(Instance.sop_instance_uid, Revision.number, Revision.state).join(
                Revision, Revision.instance_id == Instance.id
            )
        ).all()
        found = session.execute(
            select(Instance.sop_instance_uid, Finding.frame, Finding.region, Finding.model_id)
            .join(Revision, Revision.instance_id == Instance.id)
            .join(Finding, Finding.revision_id == Revision.id)
        ).all()
        unsettled = session.execute(
            select(JobRow.kind, JobRow.state, JobRow.error_code).where(JobRow.state != "done")
        ).all()
    assert unsettled == []
    assert sorted(tuple(row) for row in states) == sorted(
        (str(each.SOPInstanceUID), 1, "scored") for each in objects
    )
    assert max(Counter(tuple(row) for row in found).values()) == 1
    assert len({row.model_id for row in found}) == 1
    frames = defaultdict(set)
    for row in found:
        frames[row.sop_instance_uid].add(row.frame)
    for each in objects:
        expected = set(range(1, int(each.get("NumberOfFrames", 1)) + 1))
        assert frames[str(each.SOPInstanceUID)] == expected


def assert_one_sr_each(pacs: Pacs, exams: list[list[Dataset]]) -> None:
    """One SR per study; the same object may come twice (killed before it was ticked off)."""
    contents: dict[str, set[bytes]] = defaultdict(set)
    reports: dict[str, set[str]] = defaultdict(set)
    for uid, syntax, data in pacs.received:
        contents[uid].add(data)
        header = pydicom.filereader.read_dataset(
            io.BytesIO(data), syntax == "1.2.840.10008.1.2", True
        )
        if header.SOPClassUID == SR:
            reports[str(header.StudyInstanceUID)].add(uid)
    assert all(len(variants) == 1 for variants in contents.values())
    studies = {str(study[0].StudyInstanceUID) for study in exams}
    assert set(reports) == studies
    assert all(len(uids) == 1 for uids in reports.values())
