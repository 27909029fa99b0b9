"""A PACS that answers each failure there is: what follows is right each time."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydicom.uid import JPEGBaseline8Bit
from pynetdicom import AE, evt

from detector.errors import FAILURE_CLASS, ErrorCode, FailureClass, QCError
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.transport import ClassRefusedError, OutgoingObject
from qc_daemon.settings import DestinationSettings
from tests.support.dicom_objects import US, part10, ultrasound
from tests.support.pacs import Pacs
from tests.support.ports import reserve_port

RETRY, QUARANTINE, ALARM = FailureClass.RETRY, FailureClass.QUARANTINE, FailureClass.ALARM
# PS3.4 table B.2-1 and PS3.7 9.1.1.1.9, Annex C: every status that can answer a C-STORE.
STATUSES: dict[int, FailureClass | None] = {
    0x0000: None,
    0xB000: None,
    0xB006: None,
    0xB007: None,
    0x0001: None,
    0x0107: None,
    0x0116: None,
    0x0111: None,
    0xA700: ALARM,
    0xA701: ALARM,
    0xA702: ALARM,
    0xA7FF: ALARM,
    0x0110: RETRY,
    0x0210: RETRY,
    0x0213: ALARM,
    0x0124: ALARM,
    0xA900: QUARANTINE,
    0xA9FF: QUARANTINE,
    0xC000: QUARANTINE,
    0xC100: QUARANTINE,
    0xC211: QUARANTINE,
    0xCFFF: QUARANTINE,
    0x0105: QUARANTINE,
    0x0106: QUARANTINE,
    0x0112: QUARANTINE,
    0x0115: QUARANTINE,
    0x0117: QUARANTINE,
    0x0118: QUARANTINE,
    0x0119: QUARANTINE,
    0x0120: QUARANTINE,
    0x0121: QUARANTINE,
    0x0122: QUARANTINE,
    0x0211: QUARANTINE,
    0x0212: QUARANTINE,
}


def outgoing(**values: Any) -> OutgoingObject:
    dataset = ultrasound(**values)
    return OutgoingObject(
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
        name=dataset.SOPInstanceUID,
        payload=part10(dataset),
    )


def scu(port: int, timeout: float = 20) -> StoreSCU:
    return StoreSCU(
        DestinationSettings(name="pacs", host="127.0.0.1", port=port, timeout=timeout), "QCDAEMON"
    )


def failure(transport: StoreSCU, sent: OutgoingObject) -> QCError:
    try:
        with pytest.raises(QCError) as caught:
            transport.send(sent)
    finally:
        transport.close()
    return caught.value


def test_each_status_has_its_class(pacs: Pacs) -> None:
    pacs.start()
    transport = scu(pacs.port)
    errors: dict[int, QCError] = {}
    for status in STATUSES:
        pacs.status = status
        try:
            transport.send(outgoing())
        except QCError as error:
            errors[status] = error
    transport.close()
    classes = {status: error.failure_class for status, error in errors.items()}
    assert dict.fromkeys(STATUSES) | classes == STATUSES
    assert all(f"{status:04X}" in error.message for status, error in errors.items())
    assert [s for s, error in errors.items() if isinstance(error, ClassRefusedError)] == [0x0122]
    # What a peer says against an object costs no association.
    assert pacs.associations == 1


def test_class_that_is_not_negotiated_is_refused(pacs: Pacs) -> None:
    pacs.start()
    error = failure(scu(pacs.port), outgoing(sop_class="1.2.840.10008.5.1.4.1.1.7"))
    assert isinstance(error, ClassRefusedError)
    # Together with one that is.
    transport = scu(pacs.port)
    transport.send(outgoing())
    assert isinstance(failure(transport, outgoing(sop_class="1.2.840.10008.5.1.4.1.1.7")), QCError)


def test_refused_transfer_syntax_does_not_refuse_the_class(pacs: Pacs) -> None:
    pacs.start()
    transport = scu(pacs.port)
    transport.send(outgoing())
    error = failure(transport, replace(outgoing(), transfer_syntax_uid=JPEGBaseline8Bit))
    assert error.code is ErrorCode.DELIVERY_REFUSED
    assert not isinstance(error, ClassRefusedError)


@pytest.fixture
def scripted() -> Iterator[Callable[[Callable[[Any], int]], int]]:
    """Makes a PACS that answers a C-STORE as the function does; its port."""
    servers = []

    def serve(answer: Callable[[Any], int]) -> int:
        port, ae = reserve_port(), AE("PACS")
        ae.add_supported_context(US)
        servers.append(
            ae.start_server(
                ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]
            )
        )
        return port

    yield serve
    for server in servers:
        for each in server.active_associations:
            each.abort()
        server.shutdown()


def test_abort_is_unreachable(scripted: Callable[[Callable[[Any], int]], int]) -> None:
    def abort(event: Any) -> int:
        event.assoc.abort()
        return 0x0000

    error = failure(scu(scripted(abort)), outgoing())
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


def test_no_answer_is_unreachable(scripted: Callable[[Callable[[Any], int]], int]) -> None:
    is_received, over = threading.Event(), threading.Event()

    def silence(_event: Any) -> int:
        is_received.set()
        over.wait(60)
        return 0x0000

    port = scripted(silence)
    try:
        error = failure(scu(port, timeout=1), outgoing())
    finally:
        over.set()
    assert is_received.is_set()
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


# A-ASSOCIATE-RJ (PS3.8 9.3.4): result, source, reason.
@pytest.mark.parametrize(
    ("answer", "failure_class", "message"),
    [
        ((1, 1, 3), ALARM, "does not know our AE title"),
        ((1, 1, 7), ALARM, "does not know the AE title that it was called by"),
        ((1, 1, 1), ALARM, "no reason given"),
        ((2, 3, 1), ALARM, "for now"),
        ((2, 3, 2), ALARM, "for now"),
        ((2, 1, 1), ALARM, "for now"),
    ],
)
def test_a_rejected_association(
    answer: tuple[int, int, int], failure_class: FailureClass, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reject() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(bytes((3, 0, 0, 0, 0, 4, 0, *answer)))
                connection.recv(1 << 16)

        thread = threading.Thread(target=reject)
        thread.start()
        error = failure(scu(server.getsockname()[1]), outgoing())
        thread.join(60)
    assert error.failure_class is failure_class
    assert message in error.message


def test_closed_port_is_unreachable() -> None:
    error = failure(scu(reserve_port()), outgoing())
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


def test_every_code_has_a_class() -> None:
    assert set(FAILURE_CLASS) == set(ErrorCode)
