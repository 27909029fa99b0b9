"""Command sets of C-STORE, byte for byte what pynetdicom and pydicom make of them."""

import io
import struct
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from qc_daemon.receive.upper_layer.c_store_command import (
    MAX_RESPONSE,
    StoreRequest,
    encode_pdu,
    encode_store_response,
    parse_store_request,
)

numbers = st.integers(0, 0xFFFF)
uids = st.from_regex(r"[1-9][0-9]{0,5}(\.[1-9][0-9]{0,10}){1,4}", fullmatch=True)
comments = st.text(st.sampled_from("abc XYZ:0-9"), max_size=64).map(str.strip)
requests = st.builds(StoreRequest, numbers, st.integers(0, 2), uids, uids)


def primitive(request: StoreRequest) -> C_STORE:
    primitive = C_STORE()
    primitive.MessageID = request.message_id
    primitive.Priority = request.priority
    primitive.AffectedSOPClassUID = request.sop_class_uid
    primitive.AffectedSOPInstanceUID = request.sop_instance_uid
    primitive.DataSet = io.BytesIO(b"\0\0")
    return primitive


def encoded(message: DIMSEMessage, primitive: C_STORE) -> bytes:
    message.primitive_to_message(primitive)
    command = encode(message.command_set, True, True)
    assert command is not None
    return command


@given(requests)
def test_a_usual_request_of_pynetdicom_is_parsed(request: StoreRequest) -> None:
    assert parse_store_request(encoded(C_STORE_RQ(), primitive(request))) == request


@given(requests, numbers, comments)
@example(StoreRequest(0xFFFF, 0, "1." + "2" * 62, "1." + "3" * 62), 0xA700, "x" * 64)
def test_the_response_is_what_pynetdicom_writes(
    request: StoreRequest, status: int, comment: str
) -> None:
    response = primitive(request)
    response.DataSet = None
    response.MessageIDBeingRespondedTo = request.message_id
    response.MessageID = None
    response.Status = status
    response.ErrorComment = comment or None
    command = encode_store_response(request, status, comment)
    assert command == encoded(C_STORE_RSP(), response)
    data = P_DATA()
    data.presentation_data_value_list.append((7, b"\x03" + command))
    pdu = encode_pdu(7, command)
    assert pdu == P_DATA_TF(data).encode()
    assert len(pdu) <= MAX_RESPONSE


@given(st.data(), requests)
def test_parsed_requests_equal_pydicoms(data: st.DataObject, request: StoreRequest) -> None:
    """Broken and unusual command sets are left to pynetdicom, or mean the same to it."""
    damaged = bytearray(encoded(C_STORE_RQ(), primitive(request)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    read = parse_store_request(bytes(damaged))
    if read is None:
        return
    expected: Any = decode(io.BytesIO(bytes(damaged)), True, True)
    assert (expected.CommandField, expected.MessageID, expected.Priority) == (
        1, read.message_id, read.priority,
    )  # fmt: skip
    assert expected.CommandDataSetType != 0x0101
    assert expected.AffectedSOPClassUID == read.sop_class_uid
    assert expected.AffectedSOPInstanceUID == read.sop_instance_uid


@given(st.binary(max_size=300))
def test_rubbish_is_no_request(rubbish: bytes) -> None:
    assert parse_store_request(rubbish) is None


def test_unusual_requests_are_left_to_pynetdicom() -> None:
    usual = encoded(C_STORE_RQ(), primitive(StoreRequest(1, 2, "1.2.3", "1.2.4")))
    complete = Dataset()
    complete.update(decode(io.BytesIO(usual), True, True))

    def without_data_set(command: Dataset) -> None:
        command.CommandDataSetType = 0x0101

    def of_a_move(command: Dataset) -> None:
        command.MoveOriginatorMessageID = 5

    def other(command: Dataset) -> None:
        command.CommandField = 0x0030

    def nameless(command: Dataset) -> None:
        del command.AffectedSOPInstanceUID

    for change in (without_data_set, of_a_move, other, nameless):
        command = Dataset()
        command.update(complete)
        change(command)
        assert parse_store_request(encode(command, True, True) or b"") is None
    assert parse_store_request(usual + struct.pack("<HHL", 0, 0x1031, 2) + b"\0\0") is None
    assert parse_store_request(usual[:-1]) is None
    assert parse_store_request(usual) is not None
