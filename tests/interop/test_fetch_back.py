"""What retention dropped comes back from a real Orthanc, byte for byte, and is scored again."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from sqlalchemy import select, update

from detector.errors import ErrorCode, QCError
from qc_daemon.receive import Receiver, Spool, listen
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import revisions
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, ExamState, JobRow, Revision, RevisionState
from qc_daemon.retain import Originals
from qc_daemon.retain.retention import RetentionRule, drop_due
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import ReceiveSettings, Settings
from tests.support.databases import migrate
from tests.support.dicom_objects import ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.orthanc import Orthanc
from tests.support.peers import store as send

NOW = datetime.now(UTC)


@pytest.fixture
def pacs(orthanc_program: str, dicomweb_plugin: str, tmp_path: Path) -> Iterator[Orthanc]:
    options = {"Plugins": [dicomweb_plugin], "DicomWeb": {"Enable": True}}
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", options=options).start()
    yield orthanc
    orthanc.kill()


def no_pixels(_path: Path) -> str:
    raise AssertionError("the bytes are the same: nothing to decode")


@pytest.mark.parametrize("kind", ["dicom", "dicomweb"])
def test_a_dropped_original_is_fetched_back_unchanged(
    pacs: Orthanc, tmp_path: Path, kind: str
) -> None:
    peer = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs.dicom_port}
    if kind == "dicomweb":
        # Stored by STOW-RS, fetched back by WADO-RS.
        peer = {"url": pacs.web, "retrieve": True}
    settings = Settings(
        store={
            "url": f"sqlite:///{tmp_path / 'qc.db'}",
            "spool": tmp_path / "spool",
            "keep_pixels_days": 0,
        },
        destination=[{"name": "pacs", "kind": kind, "objects": ["source"], **peer}],
    )
    migrate(settings.store.url)
    store, spool = Store(settings.store.url), Spool(settings.store.spool)
    spool.prepare()
    receiver = Receiver(
        ReceiveSettings(), store, spool, "test", routes=Routes(own={SOURCE: ("pacs",)})
    )
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    receiver.start(listener)
    try:
        plain = ultrasound()
        # Encapsulated, so that nobody may re-encode it on the way.
        packed = ultrasound(syntax=JPEGBaseline8Bit)
        packed["PixelData"].VR = "OB"
        packed["PixelData"].is_undefined_length = True
        packed.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        assert send(port, plain, packed) == [0, 0]
    finally:
        receiver.drain(10)
    deliverer = deliver_runner(store, settings, "test")
    while deliverer.run_once():
        pass
    deliverer.close()
    assert len(pacs.instances()) == 2
    _close_and_report(store)
    rule = RetentionRule.of(settings)
    assert rule is not None
    before = {path: path.read_bytes() for path in spool.root.rglob("*.dcm")}
    assert drop_due(store, spool.root, rule, NOW + timedelta(hours=1)) == 2
    assert list(spool.root.rglob("*.dcm")) == []

    originals = Originals(store, settings, no_pixels)
    for facts in _facts(store):
        path = originals(facts)
        assert path.read_bytes() == before[path]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == facts.sha256

    # One that was altered in the spool comes back too.
    altered, _ = _facts(store)
    file = spool.root / altered.path
    file.write_bytes(before[file][:-1] + bytes([before[file][-1] ^ 1]))
    assert originals(altered).read_bytes() == before[file]
    (damaged,) = (spool.root / "damaged").iterdir()
    assert damaged.read_bytes() != before[file]

    # And one that even the PACS has lost.
    assert drop_due(store, spool.root, rule, NOW + timedelta(hours=1)) == 2
    (lost, _) = _facts(store)
    pacs.delete(pacs.instances()[lost.sop_instance_uid])
    with pytest.raises(QCError) as caught:
        originals(lost)
    assert caught.value.code is ErrorCode.NOT_AVAILABLE
    store.close()


def _close_and_report(store: Store) -> None:
    """As if scored and the exam closed with nothing to tell."""
    with store.begin() as session:
        session.execute(update(Revision).values(state=RevisionState.SCORED))
        session.execute(update(Exam).values(state=ExamState.CLOSED))
        session.execute(update(JobRow).values(state=jobs.JobState.DONE))


def _facts(store: Store) -> list[RevisionFacts]:
    with store.read() as session:
        ids = session.scalars(select(Revision.id).order_by(Revision.id)).all()
        return [revisions.facts(session, id) for id in ids]
