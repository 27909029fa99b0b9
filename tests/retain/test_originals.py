"""An original that has left the spool comes back from where it was delivered to."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from sqlalchemy import update

from detector.errors import ErrorCode, QCError
from qc_daemon.receive import Receiver, listen
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.tables import Revision
from qc_daemon.retain.originals import Originals
from qc_daemon.retain.reconcile import reconcile
from qc_daemon.retain.retrieve import GET, MOVE
from qc_daemon.settings import ReceiveSettings
from tests.support.dicom_objects import US, ultrasound
from tests.support.pacs import Pacs
from tests.support.storage import MONDAY, Storage

BUSY = 0xA701


@dataclass
class Archive:
    """A PACS that gives back what it holds, by C-GET or C-MOVE; `status` instead if not 0."""

    port: int
    models: tuple[str, ...] = (GET,)
    holds: list[Dataset] = field(default_factory=list)
    status: int = 0x0000
    move_to: int = 0
    queried_uids: list[str] = field(default_factory=list)
    _server: Any = None

    def start(self) -> None:
        ae = AE("PACS")
        for model in self.models:
            ae.add_supported_context(model)
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        ae.add_supported_context(US, syntaxes, scu_role=True, scp_role=True)
        # For what it stores itself, as a C-MOVE has it do.
        ae.add_requested_context(US, ExplicitVRLittleEndian)
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_GET, self._get), (evt.EVT_C_MOVE, self._move)],
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()

    def _matches(self, event: Any) -> list[Dataset]:
        uid = event.identifier.SOPInstanceUID
        self.queried_uids.append(str(uid))
        return [each for each in self.holds if each.SOPInstanceUID == uid]

    def _get(self, event: Any) -> Iterator[Any]:
        matches = self._matches(event)
        if self.status:
            yield 1
            yield self.status, None
            return
        yield len(matches)
        for each in matches:
            yield 0xFF00, each

    def _move(self, event: Any) -> Iterator[Any]:
        matches = self._matches(event)
        yield "127.0.0.1", self.move_to, {"ae_title": event.move_destination}
        yield len(matches)
        for each in matches:
            yield 0xFF00, each


@pytest.fixture
def archive(pacs: Pacs) -> Iterator[Archive]:
    pacs_archive = Archive(pacs.port)
    yield pacs_archive
    pacs_archive.stop()


def pixel_hash(path: Path) -> str:
    return hashlib.sha256(dcmread(path).PixelData).hexdigest()


def originals(storage: Storage) -> Originals:
    return Originals(storage.store, storage.settings, pixel_hash, clock=lambda: MONDAY)


def dropped(storage: Storage, dataset: Dataset) -> RevisionFacts:
    """Received, scored, and its file gone again."""
    facts = storage.receive(dataset)
    path = storage.spool.root / facts.path
    with storage.store.begin() as session:
        session.execute(
            update(Revision)
            .where(Revision.id == facts.revision_id)
            .values(pixel_sha256=pixel_hash(path), dropped_at=MONDAY)
        )
    path.unlink()
    return storage.facts(facts.revision_id)


def row(storage: Storage, facts: RevisionFacts) -> Revision:
    with storage.store.read() as session:
        return session.get_one(Revision, facts.revision_id)


def refusal(ask: Callable[[], object]) -> ErrorCode:
    with pytest.raises(QCError) as caught:
        ask()
    return caught.value.code


def test_a_spooled_original_is_returned_without_a_query(storage: Storage, archive: Archive) -> None:
    archive.start()
    facts = storage.receive()
    assert originals(storage)(facts) == storage.spool.root / facts.path
    assert archive.queried_uids == []


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_same_bytes_go_where_they_were(storage: Storage, archive: Archive, syntax: str) -> None:
    dataset = ultrasound(syntax=syntax)
    facts = dropped(storage, dataset)
    archive.holds = [ultrasound(), dataset]
    archive.start()
    path = originals(storage)(facts)
    assert path == storage.spool.root / facts.path
    assert dcmread(path).PixelData == dataset.PixelData
    assert row(storage, facts).dropped_at is None
    assert archive.queried_uids == [facts.sop_instance_uid]
    assert list(storage.spool.incoming.iterdir()) == []


def test_a_coerced_header_with_the_same_pixels_is_accepted(
    storage: Storage, archive: Archive
) -> None:
    dataset = ultrasound()
    facts = dropped(storage, dataset)
    dataset.PatientName = "COERCED"
    archive.holds = [dataset]
    archive.start()
    path = originals(storage)(facts)
    assert dcmread(path).PatientName == "COERCED"
    revision = row(storage, facts)
    assert (revision.sha256, revision.dropped_at) == (facts.sha256, None)
    assert storage.spool.root / revision.path == path
    assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    # The next time it is simply there, and the row still matches its file.
    assert originals(storage)(storage.facts(facts.revision_id)) == path
    assert reconcile(storage.store, storage.spool.root, MONDAY).is_clean


def test_other_pixels_are_not_the_original(storage: Storage, archive: Archive) -> None:
    dataset = ultrasound()
    facts = dropped(storage, dataset)
    dataset.PixelData = bytes(256)
    archive.holds = [dataset]
    archive.start()
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.NOT_AVAILABLE
    assert list(storage.spool.root.rglob("*.dcm")) == []


@pytest.mark.parametrize("status", [0x0000, 0xC000])
def test_an_original_that_nobody_has_is_not_available(
    storage: Storage, archive: Archive, status: int
) -> None:
    facts = dropped(storage, ultrasound())
    archive.status = status
    archive.start()
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.NOT_AVAILABLE
    assert row(storage, facts).unavailable_at == MONDAY


def test_a_file_that_was_never_dropped_is_an_alarm_and_waited_for(
    storage: Storage, archive: Archive
) -> None:
    facts = storage.receive()
    (storage.spool.root / facts.path).unlink()
    archive.start()
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.SPOOL_MISSING
    assert row(storage, facts).unavailable_at == MONDAY


@pytest.mark.parametrize("is_up", [False, True], ids=["away", "without C-GET and C-MOVE"])
def test_a_file_that_was_never_dropped_is_an_alarm_though_a_destination_cannot_be_asked(
    storage: Storage, archive: Archive, is_up: bool
) -> None:
    facts = storage.receive()
    (storage.spool.root / facts.path).unlink()
    if is_up:
        archive.models = ()
        archive.start()
    with pytest.raises(QCError) as error:
        originals(storage)(facts)
    assert error.value.code is ErrorCode.SPOOL_MISSING
    assert "gone from the spool" in error.value.message
    assert row(storage, facts).unavailable_at == MONDAY


def test_an_unreachable_destination_is_queried_again_later(
    storage: Storage, archive: Archive
) -> None:
    facts = dropped(storage, ultrasound())
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.DELIVERY_UNREACHABLE
    assert row(storage, facts).unavailable_at is None


def test_a_busy_destination_is_queried_again_later(storage: Storage, archive: Archive) -> None:
    facts = dropped(storage, ultrasound())
    archive.status = BUSY
    archive.start()
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.DELIVERY_UNREACHABLE


def test_without_c_get_it_is_moved_to_our_own_receiver(
    storage: Storage, archive: Archive, request: pytest.FixtureRequest
) -> None:
    dataset = ultrasound()
    facts = dropped(storage, dataset)
    # MONDAY is long ago, and so is its score job.
    marks = {"soft_queue_minutes": 0}
    receiver = Receiver(ReceiveSettings(pressure=marks), storage.store, storage.spool, "test")
    request.addfinalizer(lambda: receiver.drain(10))
    listener = listen("127.0.0.1", 0)
    archive.models, archive.holds = (MOVE,), [dataset]
    archive.move_to = listener.getsockname()[1]
    archive.start()
    receiver.start(listener)
    assert originals(storage)(facts) == storage.spool.root / facts.path
    assert row(storage, facts).dropped_at is None


def test_neither_c_get_nor_c_move(storage: Storage, archive: Archive) -> None:
    facts = dropped(storage, ultrasound())
    archive.models = ()
    archive.start()
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.DELIVERY_UNREACHABLE


def test_without_the_spool_nothing_is_lost(storage: Storage, archive: Archive) -> None:
    facts = storage.receive()
    storage.spool.root.rename(storage.spool.root.with_name("away"))
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.SPOOL_MISSING
    assert row(storage, facts).unavailable_at is None


def test_a_folder_destination_is_no_place_to_fetch_from(storage: Storage, tmp_path: Path) -> None:
    facts = dropped(storage, ultrasound())
    storage.settings.destination[0].kind = "folder"
    assert refusal(lambda: originals(storage)(facts)) is ErrorCode.NOT_AVAILABLE
