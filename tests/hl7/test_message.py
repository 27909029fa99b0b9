"""What is read of ADT messages, and what they are answered."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from qc_daemon.hl7.message import (
    CHARACTER_SETS,
    Identifier,
    MessageError,
    Patient,
    acknowledge,
    read_header,
    read_updates,
)
from qc_daemon.settings.hl7 import CharacterSet
from tests.support.hl7_sender import adt

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def patient_of(message: str, codec: str = "ascii") -> Patient:
    content = message.encode(codec)
    [update] = read_updates(content, read_header(content))
    return update.patient


def refusal(message: str | bytes) -> tuple[str, str]:
    content = message.encode("latin-1") if isinstance(message, str) else message
    with pytest.raises(MessageError) as raised:
        read_updates(content, read_header(content))
    return raised.value.code, raised.value.reason


def test_a_patient_is_read() -> None:
    assert patient_of(adt(name="Doe^Jane^Mary^Jr^Dr")) == Patient(
        (Identifier("CANARY-4711", "HOSP"), Identifier("999", "SSN")),
        "Doe^Jane^Mary^Dr^Jr",
        "19900531",
    )


def test_a_merge_names_the_prior_patient_of_each() -> None:
    message = adt("A40", prior_id="4711")
    message += "PID|2||5||Doe^J\rPV1|1\rMRG|6\r"
    content = message.encode()
    first, second = read_updates(content, read_header(content))
    assert first.prior_ids == (Identifier("4711", "HOSP"),)
    assert (second.patient.ids, second.prior_ids) == ((Identifier("5"),), (Identifier("6"),))


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("8859/1", "Müller^Änne"),
        ("8859/15", "Œuvrard^Zoë"),
        ("8859/5", "Иванова^Анна"),
        ("UNICODE UTF-8", "Łukasz^王"),
        ("GB 18030-2000", "王^小东"),
        ("KS X 1001", "김^희중"),
        ("8859/1~UNICODE UTF-8", "Müller^A"),
    ],
)
def test_names_come_in_the_character_set_of_the_header(character_set: str, name: str) -> None:
    codec = CHARACTER_SETS[character_set.split("~")[0]]
    message = adt(name=name, character_set=character_set)
    assert patient_of(message, codec).name == name
    header = read_header(message.encode(codec))
    assert acknowledge(header, "AA", "", "QC", NOW).decode(codec)


def test_the_setting_is_the_character_set_of_messages_without_one() -> None:
    content = adt(name="Müller^Änne").encode("latin-1")
    header = read_header(content, "8859/1")
    assert read_updates(content, header)[0].patient.name == "Müller^Änne"
    assert set(get_args(CharacterSet)) <= set(CHARACTER_SETS)


def test_other_segments_and_stray_carriage_returns_are_ignored() -> None:
    message = adt().replace("PID|", "ZPI|1|x\rARV|1\r\rxyz\rPID|").replace("\r", "\r\n")
    message += "ZZZ\rOBX|1|ED|" + "x" * 1000 + "\r\r\r"
    assert patient_of(message).name == "Canary^Anna"


def test_escapes_nulls_and_ideographic_names() -> None:
    assert patient_of(adt(name="O\\T\\Doe^J\\S\\x")).name == "O&Doe^J x"
    assert patient_of(adt(name='""', birth_date='""')).name is None
    assert patient_of(adt(name='""', birth_date='""')).birth_date is None
    assert patient_of(adt(birth_date="199005")).birth_date is None
    assert patient_of(adt(birth_date="19900231")).birth_date is None
    assert patient_of(adt(birth_date="19900531123000")).birth_date == "19900531"
    both = adt(name="Wang^Xiaodong~王^小东^^^^^^I", character_set="UTF-8")
    assert patient_of(both, "utf-8").name == "Wang^Xiaodong=王^小东"
    assert patient_of(adt(name="Van Doe&van&Doe^J")).name == "Van Doe^J"


def test_other_separators_are_the_senders() -> None:
    message = adt().replace("^~\\&", "#*!%").replace("^", "#").replace("~", "*")
    assert patient_of(message.replace("|", "$")).ids[0] == Identifier("CANARY-4711", "HOSP")
    answer = acknowledge(read_header(message.encode()), "AA", "", "QC", NOW)
    assert answer.startswith(b"MSH|#*!%|QC||RIS|WARD|")


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ("", "AR", "begin with MSH"),
        ("GET / HTTP/1.1", "AR", "begin with MSH"),
        ("MSH", "AR", "begin with MSH"),
        ("MSH||||||", "AR", "MSH-2"),
        (adt(control_id=""), "AR", "MSH-10"),
        (adt().replace("|P|", "|T|"), "AR", "MSH-11"),
        (adt("A01"), "AR", "not supported"),
        (adt().replace("ADT^A08", "ORU^R01"), "AR", "not supported"),
        (adt().replace("2.5.1", "9.9"), "AR", "MSH-12"),
        (adt(character_set="KLINGON"), "AR", "MSH-18"),
        (adt(name="Müller^A"), "AE", "MSH-18"),
        (adt(name="M\xfcller^A", character_set="UNICODE UTF-8"), "AE", "MSH-18"),
        (adt("A40"), "AE", "MRG"),
        (adt().split("PID")[0], "AE", "PID"),
        (adt(patient_id="9" * 65), "AE", "identifier"),
    ],
)
def test_what_is_not_done_is_answered_with_a_reason(message: str, code: str, words: str) -> None:
    answer, reason = refusal(message)
    assert answer == code
    assert words in reason
    assert "CANARY" not in reason


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(st.integers(0, len(adt())), st.binary(max_size=20)).map(
            lambda cut: adt().encode()[: cut[0]] + cut[1] + adt().encode()[cut[0] + 3 :]
        ),
    )
)
def test_any_bytes_are_read_or_refused_with_a_fixed_phrase(content: bytes) -> None:
    code, reason = "AA", ""
    try:
        header = read_header(content)
        read_updates(content, header)
    except MessageError as error:
        code, reason = error.code, error.reason
    else:
        assert acknowledge(header, "AA", "", "QC", NOW)
    assert code in ("AA", "AE", "AR")
    assert "CANARY" not in reason.upper()


def test_an_acknowledgement_is_a_message_itself() -> None:
    answer = acknowledge(read_header(adt().encode()), "AE", "because", "QCDAEMON", NOW)
    message = parse_message(answer.decode(), find_groups=False)
    assert (message.msh.msh_9.value, message.msh.msh_12.value) == ("ACK^A08", "2.5.1")
    assert (message.msh.msh_5.value, message.msh.msh_6.value) == ("RIS", "WARD")
    assert [message.msa.msa_1.value, message.msa.msa_2.value, message.msa.msa_3.value] == [
        "AE", "1", "because",
    ]  # fmt: skip
