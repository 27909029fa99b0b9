"""A real Orthanc as destination, by C-STORE and by STOW-RS, on bad days: away for hours, killed in
the middle, its disk full, a class that it does not know. In the end it has each object once."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from detector.errors import ErrorCode
from model.finding import Finding
from qc_daemon.deliver.circuit_breaker import CircuitBreaker
from qc_daemon.operations.destinations import list_destinations, retry_destination
from qc_daemon.records.received import receipts
from qc_daemon.records.results import reports
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobRow, ObjectKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.renditions import render_report
from qc_daemon.report.source import InstanceReference, SourceInstance
from qc_daemon.report.sr.document import build_sr
from qc_daemon.settings import Settings
from tests.support.databases import migrate
from tests.support.dicom_objects import part10, ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.orthanc import Orthanc
from tests.support.peers import store
from tests.support.receipts import receipt_of, write_file
from tests.support.service import Service
from tests.support.waiting import eventually

MONDAY = datetime(2026, 11, 2, 8, tzinfo=UTC)
KINDS = ("dicom", "dicomweb")
BINARY = ("OB", "OW", "UN", "US", "SS", "UL", "SL", "FL", "FD", "AT")
LARGEST = 350_000
"""Bytes of a real file that is taken: many encodings, quickly sent."""


@dataclass
class ArchiveDelivery:
    """What we have to deliver, our records of it, and the archive."""

    settings: Settings
    store: Store
    archive: Orthanc
    now: datetime = MONDAY
    sent: dict[str, bytes] = field(default_factory=dict)

    def admit(self, content: bytes) -> int:
        """The file as if received; the id of its exam."""
        header = dcmread(BytesIO(content), stop_before_pixels=True, force=True)
        path = write_file(content, self.settings.store.spool)
        receipt = receipt_of(header, path, self.settings.store.spool)
        with self.store.begin() as session:
            admission = receipts.admit(
                session, receipt, source_destinations=["pacs"], bundle_id=None, now=self.now
            )
        self.sent[receipt.sop_instance_uid] = content
        return admission.exam_id

    def publish(self, report: Dataset, exam_id: int, revision: int) -> str:
        """The SR, for the archive; its SOP Instance UID."""
        uid, content = str(report.SOPInstanceUID), to_bytes(report)
        report_object = ReportObject(ObjectKind.SR, uid, str(report.SOPClassUID), content)
        with self.store.begin() as session:
            reports.store_object(
                session,
                report_object,
                ["pacs"],
                self.now,
                exam_id=exam_id,
                report_revision=revision,
            )
        self.sent[uid] = content
        return uid

    def deliver(self) -> int:
        """Try all that is due, by a process of its own; how often."""
        tries = 0
        deliverer = deliver_runner(
            self.store,
            self.settings,
            "test",
            breaker=CircuitBreaker(lambda: self.now.timestamp()),
            clock=lambda: self.now,
            render=render_report,
        )
        while deliverer.run_once():
            tries += 1
        deliverer.close()
        return tries

    def pass_time(self, hours: float) -> None:
        """Try every half hour."""
        until = self.now + timedelta(hours=hours)
        while self.now < until:
            self.now += timedelta(minutes=30)
            self.deliver()

    def states(self) -> list[tuple[str, str | None]]:
        with self.store.read() as session:
            rows = session.scalars(
                select(JobRow).where(JobRow.kind == JobKind.DELIVER).order_by(JobRow.id)
            )
            return [(row.state, row.error_code) for row in rows]

    def expect_all_there_once(self) -> None:
        """Each object once, as it was sent, and the state says so."""
        stored = self.archive.instances()
        assert set(stored) == set(self.sent)
        assert sorted(self.archive.arrivals()) == sorted(self.sent)
        by_web = self.settings.destination[0].kind == "dicomweb"
        for uid, content in self.sent.items():
            arrived = self.archive.received(stored[uid])
            assert encoded(arrived.dataset) == encoded(dcmread(BytesIO(content), force=True))
            # What comes by C-STORE DCMTK encodes anew, with other lengths of sequences.
            assert not by_web or arrived.content == content
        assert self.states() == [("done", None)] * len(self.sent)


@pytest.fixture
def make_delivery(
    tmp_path: Path, orthanc_program: str, dicomweb_plugin: str
) -> Iterator[Callable[..., ArchiveDelivery]]:
    """One whose archive is not started yet."""
    deliveries: list[ArchiveDelivery] = []

    def make(kind: str, **options: Any) -> ArchiveDelivery:
        archive = Orthanc(
            orthanc_program,
            tmp_path / "orthanc",
            options={"Plugins": [dicomweb_plugin], "DicomWeb": {"Enable": True}, **options},
        )
        to = (
            {"host": "127.0.0.1", "port": archive.dicom_port, "commitment": "off"}
            if kind == "dicom"
            else {"url": archive.web}
        )
        spool = tmp_path / "spool"
        spool.mkdir()
        settings = Settings(
            store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": spool},
            destination=[{"name": "pacs", "kind": kind, "ae_title": "ORTHANC", **to}],
        )
        migrate(settings.store.url)
        deliveries.append(ArchiveDelivery(settings, Store(settings.store.url), archive))
        return deliveries[-1]

    yield make
    for delivery in deliveries:
        delivery.store.close()
        delivery.archive.kill()


def encoded(dataset: Dataset) -> dict[int, Any]:
    """Values by tag as they are encoded, of items too; without what DCMTK drops as it reads: group
    lengths, and the padding of texts."""
    # As they were read: iterating over a Dataset, or asking it for a sequence, converts elements.
    tags = [tag for tag in dataset.keys() if tag.element != 0]  # noqa: SIM118
    raw = {tag: dataset.get_item(tag) for tag in tags}
    values: dict[int, Any] = {}
    for tag, element in raw.items():
        assert element is not None
        vr, value = element.VR or dataset[tag].VR, element.value
        if vr == "SQ":
            value = [encoded(item) for item in dataset[tag].value]
        elif isinstance(value, bytes) and vr not in BINARY:
            value = value.rstrip(b" \0")
        values[int(tag)] = value
    return values


def report_of(image: Dataset, revision: int, amends: Dataset | None = None) -> Dataset:
    """An SR with one finding of the image."""
    source = SourceInstance.of(image, "aa" * 32)
    finding = Finding.from_json(
        {
            "source": None,
            "study_instance_uid": source.study_instance_uid,
            "series_instance_uid": source.series_instance_uid,
            "sop_instance_uid": source.sop_instance_uid,
            "revision": revision,
            "frame": 1,
            "region": {"index": 0, "bbox": [0.0, 0.0, 16.0, 16.0]},
            "bundle": {"name": "default", "version": "0", "model_id": "ab" * 32},
            "view": {"code": "NT", "probability": 0.9},
            "quality": {"label": "standard", "probability": 0.8, "raw_probability": 0.8},
            "gates": {"image": 0.3, "text": 0.2, "spatial": 0.5},
            "detections": [],
            "description": "a picture",
            "criteria": [],
            "flags": [],
            "created": "2026-11-02T08:00:00.000Z",
        }
    )
    previous = []
    if amends is not None:
        previous = [
            InstanceReference(
                str(amends.StudyInstanceUID),
                str(amends.SeriesInstanceUID),
                str(amends.SOPClassUID),
                str(amends.SOPInstanceUID),
            )
        ]
    return build_sr([source], [finding], revision=revision, created=MONDAY, previous=previous)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_down_for_hours_and_killed_in_mid_transfer_has_each_object_once(
    make_delivery: Callable[..., ArchiveDelivery], shared_data: Path, kind: str
) -> None:
    delivery = make_delivery(kind)
    for path in sorted((shared_data / "us_dicom").glob("*.dcm")):
        content = path.read_bytes()
        if len(content) <= LARGEST and dcm_uid(content) not in delivery.sent:
            delivery.admit(content)
    image = ultrasound(study="1.2.826.0.1.3680043.10.1.77")
    exam = delivery.admit(part10(image))
    first = report_of(image, 1)
    report_uids = [delivery.publish(first, exam, 1)]
    delivery.pass_time(4)
    # An amendment comes while the first report still waits.
    report_uids.append(delivery.publish(report_of(image, 2, amends=first), exam, 2))
    delivery.pass_time(2)
    assert {state for state, _ in delivery.states()} == {"ready"}
    assert {code for _, code in delivery.states()} <= {ErrorCode.DELIVERY_UNREACHABLE, None}

    delivery.archive.start()
    thread = threading.Thread(target=delivery.pass_time, args=(1.5,))
    thread.start()
    eventually(lambda: len(delivery.archive.instances()) >= 3)
    delivery.archive.kill()
    thread.join(300)
    assert "ready" in {state for state, _ in delivery.states()}
    delivery.archive.start()
    delivery.pass_time(3)

    delivery.expect_all_there_once()
    came = delivery.archive.arrivals()
    assert [uid for uid in came if uid in report_uids] == report_uids


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_with_a_full_disk_is_tried_again(
    make_delivery: Callable[..., ArchiveDelivery], small_disk: Path, kind: str
) -> None:
    delivery = make_delivery(kind, StorageDirectory=str(small_disk / "storage"))
    delivery.archive.start()
    for _ in range(5):
        megabyte = ultrasound(pixels=os.urandom(1 << 20), Rows=1024, Columns=1024)
        delivery.admit(part10(megabyte))
    delivery.deliver()
    delivery.pass_time(1)
    delivered = sum(state == "done" for state, _ in delivery.states())
    assert 1 <= delivered <= 2
    waiting = [each for each in delivery.states() if each[0] != "done"]
    assert waiting == [("ready", ErrorCode.DELIVERY_RESOURCES)] * (5 - delivered)

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    delivery.pass_time(3)
    delivery.expect_all_there_once()


def test_a_file_cut_short_holds_up_nothing_else(
    make_delivery: Callable[..., ArchiveDelivery],
) -> None:
    """Orthanc never answers its C-STORE."""
    delivery = make_delivery("dicom")
    delivery.settings.destination[0].timeout = 2
    delivery.settings.jobs.max_attempts = 4
    delivery.archive.start()
    picture = ultrasound(pixels=bytes(1 << 16), Rows=256, Columns=256)
    exam = delivery.admit(part10(picture)[:20_000])
    delivery.sent.clear()
    delivery.admit(part10(ultrasound()))
    delivery.publish(report_of(ultrasound(), 1), exam, 1)
    delivery.deliver()
    aborted = ("ready", ErrorCode.DELIVERY_ABORTED)
    assert delivery.states() == [aborted, ("done", None), ("ready", None)]
    assert list_destinations(delivery.settings)[0]["state"] == "ok"
    # The report of its exam goes too, once it has failed three times.
    delivery.pass_time(1)
    assert delivery.states() == [aborted, ("done", None), ("done", None)]
    assert set(delivery.archive.instances()) == set(delivery.sent)
    delivery.pass_time(1)
    assert delivery.states()[0] == ("dead", ErrorCode.DELIVERY_ABORTED)
    assert list_destinations(delivery.settings)[0]["state"] == "ok"


def test_an_unsupported_sop_class_is_quarantined_until_retried(
    make_delivery: Callable[..., ArchiveDelivery],
) -> None:
    delivery = make_delivery("dicom", UnknownSopClassAccepted=False)
    delivery.archive.start()
    strange = "1.2.826.0.1.3680043.10.1.99"
    delivery.admit(part10(ultrasound(sop_class=strange)))
    delivery.admit(part10(ultrasound()))
    delivery.deliver()
    assert delivery.states() == [("quarantined", ErrorCode.DELIVERY_REFUSED), ("done", None)]
    assert strange in list_destinations(delivery.settings)[0]["does not take"]
    # Its administrator fixes that; the dead letter is sent by command.
    delivery.archive.stop()
    delivery.archive.options["UnknownSopClassAccepted"] = True
    delivery.archive.start()
    assert retry_destination(delivery.settings, "pacs") == 1
    delivery.now = datetime.now(UTC) + timedelta(minutes=1)
    delivery.deliver()
    delivery.expect_all_there_once()
    assert list_destinations(delivery.settings)[0]["does not take"] == ""


SERVICE = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
[jobs]
poll_seconds = 0.1
[[destination]]
name = "vna"
kind = "dicomweb"
url = "{url}"
user = "qc"
password = "file:password"
objects = ["source"]
max_associations = 1
"""


def test_the_service_stores_by_stow(
    tmp_path: Path, orthanc_program: str, dicomweb_plugin: str
) -> None:
    archive = Orthanc(
        orthanc_program,
        tmp_path / "orthanc",
        options={
            "Plugins": [dicomweb_plugin],
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"qc": "sesame", "test": "test"},
        },
        login=("test", "test"),
    )
    (tmp_path / "password").write_text("sesame\n")
    service = Service(tmp_path, SERVICE.format(url=archive.web), roles=("receive", "deliver"))
    try:
        archive.start()
        service.start()
        datasets = [ultrasound() for _ in range(5)]
        assert store(service.port, *datasets) == [0x0000] * 5
        eventually(lambda: len(service.events("delivered")) == 5, 120)
        assert set(archive.instances()) == {str(each.SOPInstanceUID) for each in datasets}
        assert "sesame" not in service.log_file.read_text()
    finally:
        service.end()
        archive.kill()


def dcm_uid(content: bytes) -> str:
    return str(dcmread(BytesIO(content), stop_before_pixels=True, force=True).SOPInstanceUID)
