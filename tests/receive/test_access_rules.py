"""A request is served for the SOP class of its presentation context only, whoever asks."""

import itertools
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from qc_daemon.dicom.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.receive.mpps import MPPS
from qc_daemon.records.tables import Commitment, PerformedStep
from qc_daemon.settings import DestinationSettings, PeerSettings
from tests.support import raw_dimse
from tests.support.dicom_objects import US, ultrasound
from tests.support.running_receiver import RunningReceiver

CT = "1.2.840.10008.5.1.4.1.1.2"
CLASSES = (VERIFICATION, US, CT, MPPS, PUSH_MODEL)
CONTEXTS = (VERIFICATION, US, MPPS, PUSH_MODEL)
SERVED = {
    "C-ECHO": VERIFICATION,
    "C-STORE": US,
    "N-CREATE": MPPS,
    "N-SET": MPPS,
    "N-ACTION": PUSH_MODEL,
    "N-EVENT-REPORT": PUSH_MODEL,
}
PERMITTED = {"MODALITY": set(SERVED), "PACS": {"C-ECHO", "N-EVENT-REPORT"}}
# SOP class not supported, not authorised, unrecognised operation (PS3.7 annex C).
REFUSED = {0x0122, 0x0124, 0x0211}


@pytest.fixture
def guarded(start_receiver: Callable[..., RunningReceiver]) -> RunningReceiver:
    """One peer; a destination of the same machine may only report."""
    pacs = DestinationSettings(
        name="pacs", kind="dicom", ae_title="PACS", host="127.0.0.1", port=104
    )
    peers = [PeerSettings(ae_title="MODALITY", address="127.0.0.1")]
    return start_receiver(destinations=[pacs], peer=peers)


def _request(operation: str, sop_class: str) -> tuple[bytes, bytes]:
    """A whole request of the operation, as for an instance of its own SOP class."""
    dataset = ultrasound()
    del dataset.file_meta
    instance = str(dataset.SOPInstanceUID)
    if operation == "N-CREATE":
        dataset = Dataset()
        dataset.PerformedProcedureStepStatus = "IN PROGRESS"
        dataset.ScheduledStepAttributesSequence = [Dataset()]
        dataset.ScheduledStepAttributesSequence[0].StudyInstanceUID = "1.2.3"
    elif operation == "N-SET":
        dataset = Dataset()
        dataset.PerformedProcedureStepStatus = "COMPLETED"
    elif operation in ("N-ACTION", "N-EVENT-REPORT"):
        instance = PUSH_MODEL_INSTANCE
        dataset = Dataset()
        dataset.TransactionUID = generate_uid()
        dataset.ReferencedSOPSequence = [Dataset()]
        dataset.ReferencedSOPSequence[0].ReferencedSOPClassUID = US
        dataset.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"
    data = (
        b"" if operation in ("C-ECHO", "N-GET", "N-DELETE") else raw_dimse.encode_dataset(dataset)
    )
    return raw_dimse.command(operation, sop_class, instance, has_data=bool(data)), data


def _written(receiver: RunningReceiver) -> tuple[int, int, int]:
    return len(receiver.files()), len(receiver.rows(PerformedStep)), len(receiver.rows(Commitment))


@pytest.mark.parametrize("caller", PERMITTED)
@pytest.mark.parametrize("context", CONTEXTS)
def test_command_by_context_by_caller(guarded: RunningReceiver, caller: str, context: str) -> None:
    with raw_dimse.association(guarded.port, [context], calling=caller) as peer:
        if peer.results[1] != 0:
            assert caller == "PACS"
            assert context in (US, MPPS)
            return
        for operation, sop_class in itertools.product(raw_dimse.COMMANDS, CLASSES):
            before = _written(guarded)
            status = peer.ask(1, *_request(operation, sop_class))
            is_served = SERVED.get(operation) == sop_class == context
            if is_served and operation in PERMITTED[caller]:
                assert status not in REFUSED, (operation, sop_class)
            else:
                assert status in REFUSED, (operation, sop_class, f"{status:04X}")
                assert _written(guarded) == before
    # What is served is served: the product above does not pass for want of any service.
    if caller == "MODALITY" and context != VERIFICATION:
        assert guarded.files() or guarded.rows(PerformedStep) or guarded.rows(Commitment)


@pytest.mark.parametrize("has_data", [True, False])
def test_an_object_on_a_verification_context_is_0122_and_leaves_nothing(
    receiver: RunningReceiver, has_data: bool
) -> None:
    dataset = ultrasound()
    del dataset.file_meta
    data = raw_dimse.encode_dataset(dataset) if has_data else b""
    with raw_dimse.association(receiver.port, [VERIFICATION]) as peer:
        request = raw_dimse.command("C-STORE", US, str(dataset.SOPInstanceUID), has_data=has_data)
        assert peer.ask(1, request, data) == 0x0122
        # The association goes on.
        assert peer.ask(1, raw_dimse.command("C-ECHO", VERIFICATION, None)) == 0x0000
    assert receiver.nothing_recorded()
    assert receiver.files() == []


def test_an_action_that_names_two_classes_is_0122(receiver: RunningReceiver) -> None:
    """pynetdicom would choose the service by the Affected SOP Class UID, which N-ACTION has not."""
    request = raw_dimse.command("N-ACTION", PUSH_MODEL, PUSH_MODEL_INSTANCE)
    body = raw_dimse.uid(0x0002, MPPS) + request[12:]
    whole = raw_dimse.element(0x0000, len(body).to_bytes(4, "little")) + body
    with raw_dimse.association(receiver.port, [PUSH_MODEL]) as peer:
        assert peer.ask(1, whole) == 0x0122


@pytest.mark.parametrize("lacking", ["class", "instance", "both"])
def test_a_request_that_is_not_whole_is_answered(receiver: RunningReceiver, lacking: str) -> None:
    for operation in raw_dimse.COMMANDS:
        context = SERVED.get(operation, VERIFICATION)
        sop_class = None if lacking in ("class", "both") else context
        instance = None if lacking in ("instance", "both") else "1.2.3.4"
        with raw_dimse.association(receiver.port, [context]) as peer:
            status = peer.ask(1, raw_dimse.command(operation, sop_class, instance))
            if sop_class is None:
                assert status == 0x0212
            elif operation != "C-ECHO":
                assert status != 0x0000
    assert receiver.nothing_recorded()


def test_a_request_without_message_id_ends_the_association_at_once(
    receiver: RunningReceiver,
) -> None:
    with (
        raw_dimse.association(receiver.port, [VERIFICATION]) as peer,
        pytest.raises(raw_dimse.AbortedError),
    ):
        peer.ask(1, raw_dimse.command("C-ECHO", VERIFICATION, None, message=None))


def test_a_request_over_a_context_that_was_not_accepted_ends_the_association(
    receiver: RunningReceiver,
) -> None:
    with (
        raw_dimse.association(receiver.port, [VERIFICATION]) as peer,
        pytest.raises(raw_dimse.AbortedError),
    ):
        peer.ask(9, raw_dimse.command("C-ECHO", VERIFICATION, None))
