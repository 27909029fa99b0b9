"""What was altered in the spool goes nowhere; what was acknowledged does, once it is back."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt

from detector.errors import ErrorCode
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.job_runner import JobRunner
from qc_daemon.observe import counters
from qc_daemon.settings import DestinationSettings
from qc_daemon.spool import verification
from tests.support.delivery import Delivery
from tests.support.dicom_objects import CANARY, part10, ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.pacs import Pacs
from tests.support.stow_server import StowServer, stored_response

GET = "1.2.840.10008.5.1.4.1.2.2.3"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def rename_patient(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"CANARYID4711", b"CANARYID4712"))


def replace_by_another(path: Path) -> None:
    path.write_bytes(part10(ultrasound()))


ALTERED: dict[str, Callable[[Path], None]] = {
    "bit flip": flip,
    "truncated": truncate,
    "another Patient ID": rename_patient,
    "another object": replace_by_another,
}


@pytest.fixture
def server() -> Iterator[StowServer]:
    peer = StowServer().start()
    yield peer
    peer.stop()


def run(deliverer: JobRunner) -> None:
    while deliverer.run_once():
        pass
    deliverer.close()


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_with_the_pacs_down_then_up_only_what_was_received_arrives(
    delivery: Delivery,
    pacs: Pacs,
    alter: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sound, wrong = ultrasound(), ultrasound()
    delivery.admit(sound)
    path = delivery.admit(wrong)
    original = path.read_bytes()
    run(delivery.deliverer())
    alter(path)
    altered = path.read_bytes()
    counted = counters.shared().total("spool_damaged")
    pacs.start()
    for _ in range(2):
        delivery.now += timedelta(hours=2)
        run(delivery.deliverer())
    assert pacs.uids() == [sound.SOPInstanceUID]
    assert delivery.states()[0] == ("done", None)
    assert delivery.states()[1] == ("ready", ErrorCode.SPOOL_DAMAGED)
    (damaged,) = verification.damaged_files(delivery.spool, path.stem)
    assert damaged.read_bytes() == altered
    assert counters.shared().total("spool_damaged") == counted + 1
    assert CANARY not in "".join(capsys.readouterr())
    # The right bytes come back, from a backup or from the modality.
    path.write_bytes(original)
    delivery.now += timedelta(hours=2)
    run(delivery.deliverer())
    assert sorted(pacs.uids()) == sorted([sound.SOPInstanceUID, wrong.SOPInstanceUID])
    assert delivery.states() == [("done", None)] * 2


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
@pytest.mark.parametrize("kind", ["pacs", "web", "share"])
def test_a_file_altered_between_the_check_and_the_sending_does_not_arrive(
    delivery: Delivery, pacs: Pacs, server: StowServer, kind: str, alter: Callable[[Path], None]
) -> None:
    """Whatever carries it: the receiver never has the whole of it."""
    dataset = ultrasound()
    pacs.start()
    server.body = stored_response(dataset.SOPInstanceUID)
    delivery.settings.destination.append(
        DestinationSettings(name="web", kind="dicomweb", url=server.url, timeout=20)
    )
    path = delivery.admit(dataset, destination=kind)
    original = path.read_bytes()

    def checked(_facts: Any) -> Path:
        verification.verify(path, path.stem)
        alter(path)
        return path

    deliverer = deliver_runner(
        delivery.store, delivery.settings, "test", clock=delivery.clock, originals=checked
    )
    run(deliverer)
    assert delivery.states() == [("ready", ErrorCode.SPOOL_DAMAGED)]
    assert (pacs.received, server.requests) == ([], [])
    folder = delivery.settings.destination[1].folder
    assert folder is not None
    assert not folder.exists() or list(folder.iterdir()) == []
    path.write_bytes(original)
    delivery.now += timedelta(hours=2)
    run(delivery.deliverer())
    assert delivery.states() == [("done", None)]


def test_a_file_replaced_between_the_check_and_the_sending_does_not_arrive(
    delivery: Delivery, pacs: Pacs
) -> None:
    pacs.start()
    dataset = ultrasound()
    path = delivery.admit(dataset)
    other = delivery.spool / "other"
    other.write_bytes(part10(ultrasound()))

    def checked(_facts: Any) -> Path:
        verification.verify(path, path.stem)
        shutil.copy(path, delivery.spool / "saved")
        other.replace(path)
        return path

    run(
        deliver_runner(
            delivery.store, delivery.settings, "test", clock=delivery.clock, originals=checked
        )
    )
    assert pacs.received == []
    assert delivery.states() == [("ready", ErrorCode.SPOOL_DAMAGED)]


def test_after_an_aborted_object_the_next_ones_arrive(delivery: Delivery, pacs: Pacs) -> None:
    pacs.start()
    first, second = ultrasound(), ultrasound()
    wrong = delivery.admit(first)
    delivery.admit(second)

    def checked(facts: Any) -> Path:
        path = delivery.spool / str(facts.path)
        if path == wrong:
            flip(path)
        return path

    run(
        deliver_runner(
            delivery.store, delivery.settings, "test", clock=delivery.clock, originals=checked
        )
    )
    assert pacs.uids() == [second.SOPInstanceUID]
    assert delivery.states() == [("ready", ErrorCode.SPOOL_DAMAGED), ("done", None)]


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_an_altered_file_is_not_encoded_anew(
    delivery: Delivery, pacs: Pacs, alter: Callable[[Path], None]
) -> None:
    pacs.syntaxes = (ImplicitVRLittleEndian,)
    pacs.start()
    path = delivery.admit(ultrasound())
    deliverer = delivery.deliverer()

    def checked(_facts: Any) -> Path:
        alter(path)
        return path

    deliverer.handlers[0].fallback._originals = checked
    run(deliverer)
    assert pacs.received == []
    assert delivery.states() == [("ready", ErrorCode.SPOOL_DAMAGED)]


def test_it_is_fetched_again_from_a_destination_that_holds_it(
    delivery: Delivery, pacs: Pacs
) -> None:
    """One archive has it already, byte for byte; the other one gets those bytes."""
    dataset = ultrasound()
    # The meta group that our receiver writes.
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    archive = Holding(dataset)
    delivery.settings.destination += [
        DestinationSettings(name="vna", host="127.0.0.1", port=archive.port, objects=["source"])
    ]
    path = delivery.admit(dataset)
    original = path.read_bytes()
    flip(path)
    pacs.start()
    try:
        run(delivery.deliverer())
        assert delivery.states() == [("done", None)]
        ((uid, _, data),) = pacs.received
        assert uid == dataset.SOPInstanceUID
        assert original.endswith(data)
        assert path.read_bytes() == original
    finally:
        archive.stop()


def test_other_bytes_of_the_same_object_are_not_sent_in_its_place(
    delivery: Delivery, pacs: Pacs
) -> None:
    dataset = ultrasound()
    path = delivery.admit(dataset)
    flip(path)
    dataset.PatientName = "COERCED"
    archive = Holding(dataset)
    delivery.settings.destination += [
        DestinationSettings(name="vna", host="127.0.0.1", port=archive.port, objects=["source"])
    ]
    pacs.start()
    try:
        run(delivery.deliverer())
        assert delivery.states() == [("ready", ErrorCode.SPOOL_DAMAGED)]
        assert pacs.received == []
    finally:
        archive.stop()


class Holding:
    """An archive that holds one object and gives it back by C-GET."""

    def __init__(self, dataset: Dataset) -> None:
        ae = AE("VNA")
        ae.add_supported_context(GET)
        syntax = dataset.file_meta.TransferSyntaxUID
        ae.add_supported_context(dataset.SOPClassUID, syntax, scu_role=True, scp_role=True)
        self._dataset = dataset
        self._server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_GET, self._get)]
        )
        self.port: int = self._server.server_address[1]

    def _get(self, _event: Any) -> Iterator[Any]:
        yield 1
        yield 0xFF00, self._dataset

    def stop(self) -> None:
        self._server.shutdown()
