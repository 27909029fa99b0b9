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
from qc_daemon.dicom.uids import VERIFICATION
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


# A-ABORT by the service user (PS3.8 9.3.8).
ABORT = bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0))


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


Serve = Callable[..., int]


@pytest.fixture
def scripted() -> Iterator[Serve]:
    """Makes a PACS that answers C-STORE and C-ECHO as the functions do; its port.

    Without `echo` it accepts no Verification.
    """
    servers = []

    def serve(
        store: Callable[[Any], int], echo: Callable[[Any], int] | None = lambda _event: 0x0000
    ) -> int:
        ae, handlers = AE("PACS"), [(evt.EVT_C_STORE, store)]
        ae.add_supported_context(US)
        if echo is not None:
            ae.add_supported_context(VERIFICATION)
            handlers.append((evt.EVT_C_ECHO, echo))
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        servers.append(server)
        return int(server.server_address[1])

    yield serve
    for server in servers:
        for each in server.active_associations:
            each.abort()
        server.shutdown()


def abort(event: Any) -> int:
    event.assoc.abort()
    return 0x0000


def close_connection(event: Any) -> int:
    event.assoc.dul.socket.close()
    return 0x0000


@pytest.mark.parametrize("echoes", [True, False])
@pytest.mark.parametrize("break_off", [abort, close_connection])
def test_a_peer_that_breaks_off_at_an_object_and_answers_others_is_not_unreachable(
    scripted: Serve, break_off: Callable[[Any], int], echoes: bool
) -> None:
    """Even one that refuses Verification: it has answered the association request."""
    port = scripted(break_off) if echoes else scripted(break_off, None)
    error = failure(scu(port), outgoing())
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_ABORTED, RETRY)
    assert error.message == (
        "destination pacs broke off a C-STORE or did not answer it in time, but answers on a new"
        " association: the object may be the cause"
    )


def test_an_object_of_many_fragments_is_no_other_case(scripted: Serve) -> None:
    """The peer aborts while the data set is still on its way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        aborting = scripted(abort)

        def relay() -> None:
            """The first connection breaks off within the data set; later ones reach the PACS."""
            for is_first in (True, False):
                connection, _ = server.accept()
                with connection, socket.create_connection(("127.0.0.1", aborting)) as peer:
                    connection.sendall(exchange(connection, peer))
                    if is_first:
                        connection.recv(1 << 16)
                        connection.sendall(ABORT)
                        continue
                    while data := connection.recv(1 << 16):
                        peer.sendall(data)
                        connection.sendall(peer.recv(1 << 16))

        thread = threading.Thread(target=relay, daemon=True)
        thread.start()
        error = failure(scu(port), outgoing(pixels=bytes(1 << 24), Rows=4096, Columns=4096))
        thread.join(60)
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_ABORTED, RETRY)


def test_a_peer_that_goes_away_during_an_object_is_unreachable() -> None:
    """As where it is stopped: nothing listens any more."""
    ae = AE("PACS")
    ae.add_supported_context(US)
    is_closed = threading.Event()

    def go_away(event: Any) -> int:
        server.socket.close()
        server.shutdown()
        is_closed.set()
        event.assoc.abort()
        return 0x0000

    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, go_away)]
    )
    error = failure(scu(server.server_address[1]), outgoing())
    assert is_closed.is_set()
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


def test_a_peer_that_rejects_the_next_association_is_unreachable(scripted: Serve) -> None:
    """It has had enough of us for now, or is on its way down."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        aborting = scripted(abort)

        def answer() -> None:
            connection, _ = server.accept()
            with connection, socket.create_connection(("127.0.0.1", aborting)) as peer:
                connection.sendall(exchange(connection, peer))
                connection.recv(1 << 16)
                connection.sendall(ABORT)
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 1)))
                connection.recv(1 << 16)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        error = failure(scu(server.getsockname()[1]), outgoing())
        thread.join(60)
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


def exchange(connection: socket.socket, peer: socket.socket) -> bytes:
    """The peer's answer to the association request that comes on the connection."""
    peer.sendall(connection.recv(1 << 16))
    return peer.recv(1 << 16)


@pytest.mark.parametrize(
    ("echoes", "expected"),
    [
        (True, (ErrorCode.DELIVERY_ABORTED, RETRY)),
        (False, (ErrorCode.DELIVERY_UNREACHABLE, ALARM)),
    ],
)
def test_no_answer_is_the_objects_fault_where_c_echo_is_answered(
    scripted: Serve, echoes: bool, expected: tuple[ErrorCode, FailureClass]
) -> None:
    is_received, over = threading.Event(), threading.Event()

    def echo(_event: Any) -> int:
        if not echoes:
            over.wait(60)
        return 0x0000

    def silence(_event: Any) -> int:
        is_received.set()
        over.wait(60)
        return 0x0000

    port = scripted(silence, echo)
    try:
        error = failure(scu(port, timeout=1), outgoing())
    finally:
        over.set()
    assert is_received.is_set()
    assert (error.code, error.failure_class) == expected
    assert "broke off a C-STORE or did not answer it in time" in error.message


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
