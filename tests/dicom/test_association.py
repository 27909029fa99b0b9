"""Associations that we ask for: no answer goes to the wrong thread, none lies unread."""

import contextlib
import io
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.dul import DULServiceProvider

from qc_daemon.dicom.association import associate, make_thread_safe
from qc_daemon.dicom.data_set_size import MAX_ELEMENTS
from qc_daemon.dicom.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Reference,
    Report,
    event_information,
)
from qc_daemon.dicom.uids import VERIFICATION
from tests.support import fuzzing, raw_dimse
from tests.support.dicom_objects import US, ultrasound
from tests.support.pacs import Pacs
from tests.support.peers import association
from tests.support.waiting import eventually


class Association(threading.Thread):
    """What pynetdicom's Association does between its thread and a `send_*`, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._reactor_checkpoint = threading.Event()
        self._reactor_checkpoint.set()
        self._is_paused = False
        self.is_established = True
        self.dimse: Any = SimpleNamespace(
            send_msg=None, msg_queue=queue.SimpleQueue(), dimse_timeout=None
        )
        self.answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.turns = self.stolen = 0
        self.over = False
        # Its provider runs as long as it does.
        self.dul: Any = self

    def run(self) -> None:
        while not self.over:
            time.sleep(0)
            self._is_paused = True
            self._reactor_checkpoint.wait()
            self._is_paused = False
            self.turns += 1
            with contextlib.suppress(queue.Empty):
                self.answers.get_nowait()
                self.stolen += 1

    def send(self, number: int) -> None:
        self._reactor_checkpoint.clear()
        while not self._is_paused:
            time.sleep(0)
        self.answers.put(number)
        time.sleep(0)
        with contextlib.suppress(queue.Empty):
            self.answers.get_nowait()
        self._reactor_checkpoint.set()


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads that change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_no_answer_is_stolen_and_the_thread_has_its_turns(hurried: None) -> None:
    assoc: Any = make_thread_safe(Association())
    assoc.start()
    for number in range(3_000):
        assoc.send(number)
    assoc.over = True
    assoc.join()
    assert assoc.stolen == 0
    assert assoc.turns >= 3_000


def test_a_dead_provider_keeps_neither_thread_nor_sender_waiting() -> None:
    """As it was seen once: the thread stopped, the sender waiting for it, and nobody to bring any
    answer."""
    assoc: Any = make_thread_safe(Association())
    assoc.dul = SimpleNamespace(is_alive=lambda: False)
    assoc.start()
    assoc._reactor_checkpoint.clear()
    assert assoc.dimse.get_msg(True) == (None, None)
    # Stopped, it goes on by itself, to find that there is no provider.
    before = assoc.turns
    eventually(lambda: assoc.turns > before)
    assoc.over = True
    assoc.join(10)
    assert not assoc.is_alive()


def test_the_end_of_an_association_is_noticed_between_two_sends() -> None:
    """However fast they follow one another, and whatever was lost."""
    pacs = Pacs().start()
    sent: list[bool] = []

    def send() -> None:
        with (
            association(pacs.port, called="PACS") as assoc,
            # It may end between the look and the send.
            contextlib.suppress(RuntimeError),
        ):
            while assoc.is_established:
                sent.append("Status" in assoc.send_c_store(ultrasound()))

    sender = threading.Thread(target=send)
    sender.start()
    eventually(lambda: len(sent) > 20)
    pacs.stop()
    sender.join(20)
    assert not sender.is_alive()
    assert sent[:20] == [True] * 20


def test_an_association_that_ends_while_a_sender_waits_lets_it_go() -> None:
    """The end comes after the sender has looked, and nothing is put into its queue."""
    pacs = Pacs().start()
    with association(pacs.port, called="PACS") as assoc:
        assoc.dimse_timeout = 60
        waiting = threading.Thread(target=assoc.dimse.get_msg, args=(True,))
        waiting.start()
        # As the reactor's thread takes the news that was meant for the sender.
        assoc.is_established = False
        waiting.join(5)
        assert not waiting.is_alive()
        assoc.is_established = True
    pacs.stop()


def test_an_association_that_has_just_ended_keeps_no_sender_waiting() -> None:
    """Its thread has swallowed the news before the sender stops it."""
    pacs = Pacs().start()
    with association(pacs.port, called="PACS") as assoc:
        pacs.stop()
        eventually(lambda: not assoc.is_alive())
        # As a sender that looked a moment before.
        assoc.is_established = True
        assoc._reactor_checkpoint._association = SimpleNamespace(
            is_alive=assoc.is_alive,
            _is_paused=True,
            is_established=False,
            dimse=assoc.dimse,
            dul=assoc.dul,
        )
        assert "Status" not in assoc.send_c_store(ultrasound())
        assoc.is_established = False


@dataclass
class Reporting:
    """Reports storage commitment, one report after another, on the association that stores there;
    `answers` are the statuses."""

    answers: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    reporter: threading.Thread | None = None

    def start(self) -> "Reporting":
        ae = AE("PACS")
        ae.add_supported_context(US, ExplicitVRLittleEndian)
        ae.add_supported_context(PUSH_MODEL, ExplicitVRLittleEndian)
        self._server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_DIMSE_RECV, self._received)],
        )
        return self

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.server_address
        return str(host), int(port)

    def stop(self) -> None:
        self.over.set()
        if self.reporter is not None:
            self.reporter.join()
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        if self.reporter is None:
            self.reporter = threading.Thread(
                target=self._report, args=(make_thread_safe(event.assoc),)
            )
            self.reporter.start()
        return 0x0000

    def _received(self, event: Any) -> None:
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            self.answers.append(event.message.command_set.Status)

    def _report(self, assoc: Any) -> None:
        """Not by `send_n_event_report`, which takes the next C-STORE for its answer."""
        (context_id,) = (
            each.context_id
            for each in assoc.accepted_contexts
            if each.abstract_syntax == PUSH_MODEL
        )
        message = N_EVENT_REPORT()
        message.MessageID = 1
        message.AffectedSOPClassUID = PUSH_MODEL
        message.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
        message.EventTypeID, information = event_information(
            Report("1.2", (Reference(US, "1.2.3"),), ())
        )
        while assoc.is_established and not self.over.is_set():
            answers = len(self.answers)
            message.EventInformation = io.BytesIO(encode(information, False, True) or b"")
            assoc.dimse.send_msg(message, context_id)
            eventually(lambda n=answers: len(self.answers) > n or not assoc.is_established)


@pytest.fixture
def reporting() -> Iterator[Reporting]:
    server = Reporting().start()
    yield server
    server.stop()


ReportingAssociation = tuple[Any, threading.Event, threading.Event]


@pytest.fixture
def reporting_association(reporting: Reporting) -> Iterator[ReportingAssociation]:
    """An association to it; set once a report is there; to be set to answer it, and every other."""
    has_report, may_answer = threading.Event(), threading.Event()

    def handler(_event: Any) -> tuple[int, None]:
        has_report.set()
        may_answer.wait(20)
        return 0x0000, None

    ae = AE("QCDAEMON")
    ae.add_requested_context(US, ExplicitVRLittleEndian)
    ae.add_requested_context(PUSH_MODEL)
    assoc = associate(
        ae,
        *reporting.address,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, handler)],
    )
    yield assoc, has_report, may_answer
    may_answer.set()
    reporting.over.set()
    if assoc.is_established:
        assoc.release()


def test_serving_a_report_does_not_mark_the_other_thread_paused(
    reporting: Reporting, reporting_association: ReportingAssociation
) -> None:
    """A sender would wait for a thread that waits for it."""
    assoc, has_report, may_answer = reporting_association
    assert assoc.send_c_store(ultrasound()).Status == 0x0000
    assert has_report.wait(20)
    # What any sender does first; the thread stands still now.
    assoc._reactor_checkpoint.clear()
    reporting.over.set()
    may_answer.set()
    eventually(lambda: reporting.answers == [0x0000])
    eventually(lambda: not any("_serve_request" in each.name for each in threading.enumerate()))
    assert assoc._is_paused
    assoc._reactor_checkpoint.set()
    assert assoc.send_c_store(ultrasound()).Status == 0x0000


def test_fragments_of_two_messages_do_not_mix(hurried: None) -> None:
    """PS3.8 E.1; the receiver ends an association in which they do."""
    pacs = Pacs().start()
    sent: list[int] = []

    def send_pdu(primitive: Any) -> None:
        sent.extend(context_id for context_id, _ in primitive.presentation_data_value_list)
        time.sleep(0.001)

    def send(context_id: int) -> None:
        message = C_STORE()
        message.MessageID, message.Priority = 1, 2
        message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = US, "1.2.3"
        message.DataSet = io.BytesIO(bytes(100))
        assoc.dimse.send_msg(message, context_id)

    with association(pacs.port, called="PACS") as assoc:
        assoc.dul.send_pdu = send_pdu
        threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 41, 2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        del assoc.dul.send_pdu
    pacs.stop()
    # A command and a data set each.
    assert len(sent) == 40
    assert sent[::2] == sent[1::2]


def test_concurrent_reports_and_sends_do_not_mix(
    hurried: None, reporting: Reporting, reporting_association: ReportingAssociation
) -> None:
    assoc, _, may_answer = reporting_association
    may_answer.set()
    statuses = {assoc.send_c_store(ultrasound()).get("Status") for _ in range(60)}
    assert statuses == {0x0000}
    assert assoc.is_established
    assert len(reporting.answers) > 1
    assert set(reporting.answers) == {0x0000}


def test_a_data_set_does_not_wait_for_the_acknowledgement_of_its_command() -> None:
    pacs = Pacs().start()
    with association(pacs.port, called="PACS") as assoc:
        option = assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    pacs.stop()
    assert option


def test_an_immediate_rejection_is_not_lost() -> None:
    """The connection is over before we look whether there is one."""
    server = AE("PACS")
    server.require_called_aet = True
    server.add_supported_context(US)
    listening = server.start_server(("127.0.0.1", 0), block=False)
    over = threading.Event()
    asker = AE("QCDAEMON")
    asker.add_requested_context(US)
    try:
        assoc = associate(
            asker,
            *listening.server_address,
            ae_title="ANOTHER",
            evt_handlers=[
                (evt.EVT_REQUESTED, lambda _event: over.wait(20)),
                (evt.EVT_CONN_CLOSE, lambda _event: over.set()),
            ],
        )
    finally:
        listening.shutdown()
    assert over.is_set()
    assert (assoc.is_rejected, assoc.is_aborted, assoc.is_established) == (True, False, False)
    assert assoc.acceptor.primitive.reason_str == "Called AE title not recognised"


def _association(port: int, models: list[str], handlers: list[Any], roles: list[Any]) -> Any:
    ae = AE("QCDAEMON")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 30
    return associate(
        ae,
        "127.0.0.1",
        port,
        contexts=[build_context(model, raw_dimse.IMPLICIT) for model in models],
        ext_neg=roles,
        evt_handlers=handlers,
    )


@pytest.mark.parametrize("delay", [0.0, 0.3], ids=["at once", "acceptance read late"])
def test_a_report_counts_only_on_the_context_of_storage_commitment(
    monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    receive = DULServiceProvider.receive_pdu

    def receive_late(provider: Any, *args: Any, **options: Any) -> Any:
        pdu = receive(provider, *args, **options)
        time.sleep(delay)
        return pdu

    monkeypatch.setattr(DULServiceProvider, "receive_pdu", receive_late)
    reports: list[Any] = []
    statuses: list[int] = []

    def answer(peer: raw_dimse.Peer) -> None:
        peer.pdu()
        peer.connection.sendall(raw_dimse.accept([0, 0]))
        report = raw_dimse.command("N-EVENT-REPORT", PUSH_MODEL, PUSH_MODEL_INSTANCE, has_data=True)
        for context in (1, 3):
            statuses.append(peer.ask(context, report, b"\0\0\0\0\0\0\0\0"))
        store = raw_dimse.command("C-STORE", US, "1.2.3.4", has_data=True)
        statuses.append(peer.ask(3, store, bytes(8)))
        incomplete = raw_dimse.command("N-EVENT-REPORT", None, PUSH_MODEL_INSTANCE)
        statuses.append(peer.ask(3, incomplete))
        statuses.append(peer.ask(3, report, bytes(8) * (MAX_ELEMENTS + 1)))

    def record_report(event: Any) -> tuple[int, None]:
        reports.append(event.request)
        return 0x0000, None

    with raw_dimse.acceptor(answer) as (port, raised):
        handlers = [(evt.EVT_N_EVENT_REPORT, record_report)]
        assoc = _association(port, [VERIFICATION, PUSH_MODEL], handlers, [])
        assert assoc.is_established
        eventually(lambda: len(statuses) == 5 or raised)
    assert raised == []
    assert [f"{status:04X}" for status in statuses] == ["0122", "0000", "0122", "0212", "0213"]
    assert len(reports) == 1


def test_an_object_that_comes_back_counts_only_on_a_context_of_its_class() -> None:
    """C-STORE in the course of a C-GET: pynetdicom takes it by another way than other requests."""
    model = "1.2.840.10008.5.1.4.1.2.2.3"
    received: list[str] = []
    statuses: list[int] = []

    def answer(peer: raw_dimse.Peer) -> None:
        peer.pdu()
        user = raw_dimse.item(0x51, struct.pack(">I", 16_384)) + raw_dimse.item(0x52, b"1.2.3.4")
        role = struct.pack(">H", len(US)) + US.encode() + b"\1\1"
        peer.connection.sendall(raw_dimse.accept([0, 0], user=user + raw_dimse.item(0x54, role)))
        # The request and its identifier.
        peer.pdu()
        peer.pdu()
        for context, sop_class in ((1, US), (3, "1.2.840.10008.5.1.4.1.1.2"), (3, US)):
            store = raw_dimse.command("C-STORE", sop_class, f"1.2.3.{context}", has_data=True)
            statuses.append(peer.ask(context, store, bytes(8)))
        elements = (
            raw_dimse.number(0x0100, 0x8010)
            + raw_dimse.number(0x0120, 1)
            + raw_dimse.number(0x0800, 0x0101)
        )
        elements = raw_dimse.uid(0x0002, model) + elements + raw_dimse.number(0x0900, 0)
        command_group = raw_dimse.element(0x0000, struct.pack("<I", len(elements))) + elements
        peer.connection.sendall(fuzzing.p_data(1, command_group, b"")[0])

    def store(event: Any) -> int:
        received.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    with raw_dimse.acceptor(answer) as (port, raised):
        assoc = _association(
            port, [model, US], [(evt.EVT_C_STORE, store)], [build_role(US, scp_role=True)]
        )
        assert assoc.is_established
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE"
        answers = list(assoc.send_c_get(identifier, model))
        assoc.abort()
    assert raised == []
    assert [status.Status for status, _ in answers] == [0x0000]
    assert [f"{status:04X}" for status in statuses] == ["0122", "0122", "0000"]
    assert received == ["1.2.3.3"]


def test_an_odd_maximum_length_is_accepted_and_fragments_are_even() -> None:
    """Unknown items, a long name and an odd Maximum Length (PS3.8 9.3.1, annex E)."""
    lengths: list[int] = []

    def answer(peer: raw_dimse.Peer) -> None:
        peer.pdu()
        user = raw_dimse.item(0x51, struct.pack(">I", 1_023)) + raw_dimse.item(0x52, b"1.2.3.4")
        user += raw_dimse.item(0x55, b"A NAME LONGER THAN 16") + raw_dimse.item(0x99, b"new")
        peer.connection.sendall(raw_dimse.accept([0], ExplicitVRLittleEndian, user=user))
        for _ in range(6):
            _, body = peer.pdu()
            lengths.append(len(body))
            if body[5] == 0x02:
                return

    with raw_dimse.acceptor(answer) as (port, raised):
        ae = AE("QCDAEMON")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 30
        assoc = associate(ae, "127.0.0.1", port, contexts=[build_context(US)])
        assert assoc.is_established
        assoc.send_c_store(ultrasound(pixels=bytes(2048)))
    assert raised == []
    assert max(lengths) == 1_022
    assert all(length % 2 == 0 for length in lengths)


def test_a_rejection_of_unknown_reason_is_a_rejection() -> None:
    def answer(peer: raw_dimse.Peer) -> None:
        peer.pdu()
        peer.connection.sendall(fuzzing.pdu(0x03, bytes((0, 1, 9, 77))))

    with raw_dimse.acceptor(answer) as (port, _):
        ae = AE("QCDAEMON")
        ae.acse_timeout = ae.connection_timeout = 30
        assoc = associate(ae, "127.0.0.1", port, contexts=[build_context(US)])
    assert assoc.is_rejected
