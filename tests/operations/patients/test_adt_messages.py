"""ADT messages over real connections: each is done once, stored before it is acknowledged."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from sqlalchemy import text

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.hl7.frames import MAX_MESSAGE, write_frame
from qc_daemon.hl7.receiver import MAX_CONNECTIONS, MessageReceiver
from qc_daemon.operations.patients.adt_messages import MessageHandler
from qc_daemon.operations.patients.corrections import merge
from qc_daemon.receive import Handshake
from qc_daemon.receive.receiver import listen
from qc_daemon.records.patients import changes, hl7_messages
from qc_daemon.records.tables import HL7Message
from qc_daemon.settings import ServerTLSSettings
from tests.support.certificates import Authority
from tests.support.clinic import ANNA, BERTA, NAMES, Clinic
from tests.support.hl7_sender import Sender, adt, connect

NEW = "CANARY-4799"


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    clinic = Clinic(tmp_path / "site")
    yield clinic
    clinic.exam.store.close()


@contextmanager
def receiving(clinic: Clinic, seconds: float = 20.0, **options: Any) -> Iterator[int]:
    """The port of a receiver that does what messages say."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    handler = MessageHandler(clinic.settings, clinic.exam.store, lambda: clinic.exam.now)
    options.setdefault("allowed", ["127.0.0.1"])
    receiver = MessageReceiver(listener, handler.handle, seconds=seconds, **options)
    receiver.open()
    try:
        yield port
    finally:
        receiver.close()


@pytest.fixture
def sender(clinic: Clinic) -> Iterator[Sender]:
    with receiving(clinic) as port, connect(port) as sender:
        yield sender


def stored(clinic: Clinic) -> list[tuple[Any, ...]]:
    with clinic.exam.store.read() as session:
        rows = session.execute(
            text("SELECT sender, control_id, event, changes FROM hl7_message ORDER BY id")
        )
        return [tuple(row) for row in rows]


def count_changes(clinic: Clinic) -> int:
    with clinic.exam.store.read() as session:
        return int(session.execute(text("SELECT count(*) FROM patient_change")).scalar_one())


def test_an_update_is_in_a_new_report(clinic: Clinic, sender: Sender) -> None:
    message = adt(name="Müller^Änne", birth_date="19910102", character_set="8859/1")
    assert sender.send(message, "latin-1") == "AA"
    assert clinic.rows()[0] == (ANNA, "Müller^Änne")
    assert stored(clinic) == [("RIS|WARD", "1", "ADT^A08", 1)]
    clinic.report()
    amended = clinic.reports(ANNA)[-1]
    assert (str(amended.PatientName), amended.PatientBirthDate) == ("Müller^Änne", "19910102")
    assert len(clinic.reports(BERTA)) == 1


def test_an_update_while_the_first_exam_is_open_keeps_the_age(
    clinic: Clinic, sender: Sender
) -> None:
    study = "1.2.840.113619.2.1.7"
    clinic.receive(ANNA, 7, PatientID=NEW, StudyInstanceUID=study, PatientBirthTime="0102")
    assert sender.send(adt(patient_id=NEW)) == "AA"
    clinic.report()
    reports = [dcmread(BytesIO(each.payload or b"")) for each in clinic.exam.sent()]
    [report] = [each for each in reports if each.StudyInstanceUID == study]
    assert (report.PatientBirthDate, report.PatientAge) == ("19900531", "036Y")


def test_a_merge_is_in_new_reports(clinic: Clinic, sender: Sender) -> None:
    name = NAMES[BERTA]
    assert sender.send(adt("A40", patient_id=BERTA, name=name, prior_id=ANNA)) == "AA"
    assert clinic.rows() == [(BERTA, NAMES[BERTA])] * 2
    assert count_changes(clinic) == 1
    clinic.report()
    assert clinic.reports(ANNA)[-1].PatientID == BERTA
    assert len(clinic.reports(BERTA)) == 1


def test_a_merge_into_one_who_was_never_here(clinic: Clinic, sender: Sender) -> None:
    assert sender.send(adt("A40", patient_id=NEW, name="Canary^Zoe", prior_id=ANNA)) == "AA"
    assert clinic.rows()[0] == (NEW, "Canary^Zoe")


def test_a_message_about_a_stranger_is_acknowledged_and_stores_nothing(
    clinic: Clinic, sender: Sender
) -> None:
    before = clinic.dump()
    assert sender.send(adt(patient_id=NEW, name="Canary^Zoe")) == "AA"
    assert (
        sender.send(adt("A40", "2", patient_id=NEW, name="Canary^Z", prior_id="CANARY-1")) == "AA"
    )
    assert clinic.dump() == before
    with clinic.exam.store.read() as session:
        rows = str([tuple(row) for row in session.execute(text("SELECT * FROM hl7_message"))])
    assert "anary" not in rows
    assert "CANARY" not in rows


def test_an_update_without_a_difference_makes_no_report(clinic: Clinic, sender: Sender) -> None:
    """An A08 comes for a new address too."""
    before = clinic.dump()
    assert sender.send(adt(name="CANARY^anna^")) == "AA"
    assert sender.send(adt(control_id="2", name="", birth_date="")) == "AA"
    assert clinic.dump() == before


def test_a_message_is_done_once(clinic: Clinic, sender: Sender) -> None:
    first = adt(name="Canary^Zoe")
    assert sender.send(first) == "AA"
    assert sender.send(adt(control_id="2", name="Canary^Ada")) == "AA"
    # The sender had no word of the first, and sends it again.
    assert sender.send(first) == "AA"
    assert clinic.rows()[0] == (ANNA, "Canary^Ada")
    assert count_changes(clinic) == 2
    # Another message under its number is not lost without a word.
    sender.connection.sendall(write_frame(adt(name="Canary^Eva").encode()))
    assert sender.receive() == ("AE", "1", "its control id (MSH-10) was another message's")
    # Another sender counts for itself.
    assert sender.send(adt(name="Canary^Eva", sender="OTHER")) == "AA"
    assert clinic.rows()[0] == (ANNA, "Canary^Eva")


def test_a_number_may_come_again_after_a_month(clinic: Clinic, sender: Sender) -> None:
    assert sender.send(adt(name="Canary^Zoe")) == "AA"
    clinic.exam.now += hl7_messages.RETENTION * 1.1
    assert sender.send(adt(name="Canary^Ada")) == "AA"
    assert clinic.rows()[0] == (ANNA, "Canary^Ada")


@pytest.mark.parametrize(
    ("character_set", "name", "answer"),
    [("KLINGON", "Canary^Zoe", "AR"), ("", "Canary^Zo\xe9", "AA"), ("UTF-8", "Zo\xe9", "AE")],
)
def test_a_refusal_of_a_character_set_names_the_message(
    clinic: Clinic, sender: Sender, character_set: str, name: str, answer: str
) -> None:
    clinic.settings.hl7.character_set = "8859/1"
    message = adt(control_id="N\xf6-7", name=name, character_set=character_set)
    sender.connection.sendall(write_frame(message.encode("latin-1")))
    assert sender.receive()[:2] == (answer, "N\xf6-7")


def test_only_numbers_of_the_authority_that_machines_have_count(
    clinic: Clinic, sender: Sender
) -> None:
    clinic.settings.hl7.assigning_authority = "OTHER"
    assert sender.send(adt(name="Canary^Zoe")) == "AA"
    assert count_changes(clinic) == 0
    clinic.settings.hl7.assigning_authority = "HOSP"
    assert sender.send(adt(control_id="2", name="Canary^Zoe")) == "AA"
    assert count_changes(clinic) == 1


def test_an_update_of_a_number_that_was_merged_away_renames_nobody(
    clinic: Clinic, sender: Sender
) -> None:
    merge(clinic.settings, ANNA, BERTA, "Dr Lee")
    before = clinic.dump()
    assert sender.send(adt(patient_id=ANNA, name="Canary^Zoe", birth_date="19910102")) == "AA"
    assert clinic.dump() == before


@pytest.mark.parametrize(
    ("setting", "prior"),
    [
        ("HOSP", f"88^^^SSN~{ANNA}^^^hosp^MR"),
        ("HOSP", f"88^^^SSN~{ANNA}"),
        ("hosp", f"{ANNA}^^^&HOSP&L"),
        (None, f"{ANNA}~88^^^SSN"),
    ],
)
def test_the_prior_number_of_a_merge_is_the_one_of_our_authority(
    clinic: Clinic, sender: Sender, setting: str | None, prior: str
) -> None:
    clinic.settings.hl7.assigning_authority = setting
    message = adt("A40", patient_id=BERTA, name=NAMES[BERTA], prior_id="x")
    assert sender.send(message.replace("x^^^HOSP^MR", prior)) == "AA"
    assert clinic.rows() == [(BERTA, NAMES[BERTA])] * 2
    assert count_changes(clinic) == 1


def test_a_merge_whose_prior_number_is_none_of_ours_is_refused(
    clinic: Clinic, sender: Sender
) -> None:
    clinic.settings.hl7.assigning_authority = "HOSP"
    message = adt("A40", patient_id=BERTA, prior_id=ANNA).replace(f"{ANNA}^^^HOSP", f"{ANNA}^^^X")
    sender.connection.sendall(write_frame(message.encode()))
    reason = "no prior number (MRG-1) is of the assigning authority"
    assert sender.receive() == ("AE", "1", reason)
    assert count_changes(clinic) == 0


def test_a_merge_may_have_several_prior_numbers(clinic: Clinic, sender: Sender) -> None:
    message = adt("A40", patient_id=NEW, name="Canary^Zoe", prior_id=ANNA)
    assert sender.send(message.replace(f"MRG|{ANNA}", f"MRG|{BERTA}^^^HOSP~{ANNA}")) == "AA"
    assert clinic.rows() == [(NEW, "Canary^Zoe")] * 2


def test_images_that_come_after_the_merge_with_the_prior_number(
    clinic: Clinic, sender: Sender
) -> None:
    prior = "CANARY-4700"
    message = adt("A40", patient_id=ANNA, name=NAMES[ANNA], prior_id=prior)
    assert sender.send(message) == "AA"
    assert count_changes(clinic) == 1
    assert sender.send(message.replace("A40|1|", "A40|2|")) == "AA"
    assert count_changes(clinic) == 1
    clinic.receive(ANNA, 7, PatientID=prior, StudyInstanceUID="1.2.840.113619.2.1.7")
    assert clinic.rows()[-1] == (ANNA, NAMES[ANNA])


def test_a_name_that_only_one_exam_has_is_corrected_in_the_others(
    clinic: Clinic, sender: Sender
) -> None:
    clinic.receive(ANNA, 7, PatientName="Canary^Zoe", StudyInstanceUID="1.2.840.113619.2.1.7")
    assert sender.send(adt(name="Canary^Zoe")) == "AA"
    assert clinic.rows() == [(ANNA, "Canary^Zoe"), (BERTA, NAMES[BERTA]), (ANNA, "Canary^Zoe")]


def test_what_contradicts_an_earlier_merge_waits_for_a_person(
    clinic: Clinic, sender: Sender
) -> None:
    merge(clinic.settings, ANNA, BERTA, "Dr Lee")
    sender.connection.sendall(write_frame(adt("A40", patient_id=NEW, prior_id=ANNA).encode()))
    code, _, reason = sender.receive()
    assert (code, reason) == (
        "AE",
        "it contradicts what was merged here before; a person has to decide",
    )
    assert stored(clinic) == []


def test_what_cannot_be_stored_is_not_acknowledged(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many senders repeat only what they have no word of."""

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise QCError(ErrorCode.STORAGE, "the disk is full")

    with receiving(clinic) as port:
        for module, name, fault in (
            (hl7_messages, "record_changes", fail),
            (changes, "correct", lambda *_a, **_n: 1 / 0),
        ):
            with monkeypatch.context() as patch, connect(port) as sender:
                patch.setattr(module, name, fault)
                sender.connection.sendall(write_frame(adt(name="Canary^Zoe").encode()))
                assert sender.is_closed()
        assert (stored(clinic), count_changes(clinic)) == ([], 0)
        # Sent again, it is done.
        with connect(port) as sender:
            assert sender.send(adt(name="Canary^Zoe")) == "AA"
    assert count_changes(clinic) == 1


def test_the_row_is_there_when_the_acknowledgement_is(clinic: Clinic) -> None:
    """The very connection that is answered is closed before anything else happens."""
    handler = MessageHandler(clinic.settings, clinic.exam.store, lambda: clinic.exam.now)
    rows: list[int] = []

    def handle(frame: Any, caller: str) -> bytes | None:
        answer = handler.handle(frame, caller)
        with clinic.exam.store.read() as session:
            rows.append(len(session.query(HL7Message).all()))
        return answer

    listener = listen("127.0.0.1", 0)
    receiver = MessageReceiver(listener, handle, ["127.0.0.1"], 20.0)
    receiver.open()
    with connect(listener.getsockname()[1]) as sender:
        assert sender.send(adt()) == "AA"
    receiver.close()
    assert rows == [1]


def test_frames_that_are_split_and_frames_together(clinic: Clinic, sender: Sender) -> None:
    first, second = (write_frame(adt(control_id=number).encode()) for number in "12")
    for start in range(0, len(first), 7):
        sender.connection.sendall(first[start : start + 7])
    assert sender.receive()[:2] == ("AA", "1")
    third = write_frame(adt(control_id="3").encode())
    sender.connection.sendall(second + third + first[:40])
    assert [sender.receive()[:2], sender.receive()[:2]] == [("AA", "2"), ("AA", "3")]
    # The rest of the first comes later: it is the one that was done already.
    sender.connection.sendall(first[40:])
    assert sender.receive()[:2] == ("AA", "1")
    assert len(stored(clinic)) == 3


def test_a_message_without_its_end_bytes(clinic: Clinic, sender: Sender) -> None:
    cut = write_frame(adt(name="Canary^Zoe").encode())[:-2]
    sender.connection.sendall(cut + write_frame(adt(control_id="2").encode()))
    assert sender.receive() == ("AR", "", "the end of the message is missing")
    assert sender.receive()[:2] == ("AA", "2")
    assert count_changes(clinic) == 0


def test_a_message_that_is_too_large_ends_the_connection(clinic: Clinic, sender: Sender) -> None:
    sender.connection.sendall(b"\x0bMSH|^~\\&|" + b"x" * MAX_MESSAGE)
    assert sender.receive() == ("AR", "", "the message is too large")
    assert sender.is_closed()


def test_a_slow_sender_holds_no_place_and_no_other(
    clinic: Clinic, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiving(clinic, seconds=1.0) as port, connect(port) as slow, connect(port) as sender:
        slow.connection.sendall(write_frame(adt(name="Canary^Zoe").encode())[:60])
        assert sender.send(adt(control_id="2")) == "AA"
        assert slow.is_closed()
        # One that is silent between messages stays.
        assert sender.send(adt(control_id="3")) == "AA"
    assert len(stored(clinic)) == 2
    assert "a message did not end" in capsys.readouterr().out


def test_who_is_not_allowed_and_who_is_too_many(clinic: Clinic) -> None:
    with receiving(clinic, allowed=["10.1.0.0/16"]) as port, connect(port) as sender:
        assert sender.is_closed()
    with receiving(clinic) as port:
        connections = [
            socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS)
        ]
        senders = [Sender(each) for each in connections]
        assert {each.send(adt()) for each in senders} == {"AA"}
        # The one that is idle longest gives up its place.
        with connect(port) as one_more:
            assert one_more.send(adt()) == "AA"
            assert senders[0].is_closed()
            assert {each.send(adt()) for each in senders[1:]} == {"AA"}
        for each in connections:
            each.close()
    assert len(stored(clinic)) == 1


def test_a_sender_that_was_switched_off_is_noticed(clinic: Clinic) -> None:
    options: list[int] = []

    def handshake(plain: socket.socket) -> socket.socket:
        options.append(plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        return plain

    with receiving(clinic, handshake=handshake) as port, connect(port) as sender:
        assert sender.send(adt()) == "AA"
    assert options == [1]


def test_over_tls(clinic: Clinic, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    pair = authority.issue("qc")
    tls = ServerTLSSettings(certificate=pair.certificate, key=pair.key, mutual="none")
    with receiving(clinic, handshake=Handshake(tls, "schedule")) as port:
        context = ssl.create_default_context(cafile=authority.certificate)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as encrypted,
        ):
            assert Sender(encrypted).send(adt()) == "AA"
        with connect(port) as sender:
            sender.connection.sendall(write_frame(adt(control_id="2").encode()))
            assert sender.is_closed()
    assert len(stored(clinic)) == 1


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, len(adt())),
    st.integers(0, 40),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\x1c", b"").replace(b"\x0b", b"")),
)
def test_malformed_messages_are_answered_and_leave_no_trace_of_a_patient(
    clinic: Clinic,
    capsys: pytest.CaptureFixture[str],
    place: int,
    width: int,
    noise: bytes,
) -> None:
    whole = adt(name="Canary^Melusina").encode()
    content = whole[:place] + noise + whole[place + width :]
    with receiving(clinic) as port, connect(port) as sender:
        sender.connection.sendall(write_frame(content))
        code, _, reason = sender.receive()
        assert code in ("AA", "AE", "AR")
        assert bool(reason) == (code != "AA")
        # It still works.
        assert sender.send(adt(control_id="next", name="")) == "AA"
    output = "".join(capsys.readouterr())
    for word in ("Traceback", "anary", "CANARY", "elusina", "4711", "19900531"):
        assert word not in output + reason


def test_the_audit_log_and_the_log_have_no_name(
    clinic: Clinic, sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sender.send(adt("A40", patient_id=NEW, name="Canary^Zoe", prior_id=ANNA)) == "AA"
    assert sender.send(adt("A99", "2", name="Canary^Zoe")) == "AR"
    assert sender.send(adt("A08", "3", patient_id="9" * 65, name="Canary^Zoe")) == "AE"
    output = "".join(capsys.readouterr())
    assert "hl7 message done" in output
    assert "hl7 message refused" in output
    for word in ("anary", "CANARY", "4799", "Zoe"):
        assert word not in output
    records = [
        json.loads(line)
        for path in sorted(chain_folder(clinic.settings).rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    changed = [each for each in records if each.get("kind") == "patient-changed"]
    assert [each["detail"]["what"] for each in changed] == ["merged", "corrected"]
    assert changed[0]["actor"] == {"kind": "service", "id": "hl7", "address": "127.0.0.1"}
    assert "Canary" not in str(records)
