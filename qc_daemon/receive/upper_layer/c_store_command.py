"""Parses and encodes the command sets of a usual C-STORE (PS3.7 9.3.1).

pydicom takes longer to build their elements one by one than the disk takes to store a small object.
A command set that is not as nearly every sender has it is left to pynetdicom.
"""

import re
import struct
from dataclasses import dataclass

_HEAD = struct.Struct("<HHL")
_UNSIGNED = struct.Struct("<H")
_GROUP_LENGTH, _SOP_CLASS, _COMMAND, _MESSAGE_ID = 0x0000, 0x0002, 0x0100, 0x0110
_RESPONDED_TO, _PRIORITY, _DATA_SET_TYPE, _STATUS = 0x0120, 0x0700, 0x0800, 0x0900
_ERROR_COMMENT, _SOP_INSTANCE = 0x0902, 0x1000
# All elements of a request that no C-MOVE caused.
_USUAL = (
    _GROUP_LENGTH, _SOP_CLASS, _COMMAND, _MESSAGE_ID, _PRIORITY, _DATA_SET_TYPE, _SOP_INSTANCE,
)  # fmt: skip
_STORE_RQ, _STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
_UID = re.compile(rb"([0-9.]{1,64})\0?")
# A response in one PDU (PS3.8 9.3.5): P-DATA-TF, one value, a command's last fragment.
_PDU_HEAD = struct.Struct(">BxLLBB")
_P_DATA_TF, _LAST_OF_COMMAND = 0x04, 0x03
# Bytes of a PDU that holds any response of ours.
MAX_RESPONSE = 512


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """The parameters of a C-STORE-RQ; a data set follows it."""

    message_id: int
    priority: int
    sop_class_uid: str
    sop_instance_uid: str


def parse_store_request(encoded: bytes) -> StoreRequest | None:
    """The request in a command set; None if it is another command, or not a usual one."""
    values: dict[int, bytes] = {}
    offset = 0
    while offset + _HEAD.size <= len(encoded):
        group, element, length = _HEAD.unpack_from(encoded, offset)
        offset += _HEAD.size
        if group or element in values:
            return None
        values[element] = encoded[offset : offset + length]
        offset += length
    if offset != len(encoded) or tuple(values) != _USUAL or len(values[_GROUP_LENGTH]) != 4:
        return None
    numbers = [values[element] for element in (_COMMAND, _DATA_SET_TYPE, _MESSAGE_ID, _PRIORITY)]
    sop_class = _UID.fullmatch(values[_SOP_CLASS])
    sop_instance = _UID.fullmatch(values[_SOP_INSTANCE])
    if any(len(each) != 2 for each in numbers) or sop_class is None or sop_instance is None:
        return None
    command, data_set_type, message_id, priority = (_UNSIGNED.unpack(each)[0] for each in numbers)
    if command != _STORE_RQ or data_set_type == _NO_DATA_SET:
        return None
    return StoreRequest(message_id, priority, sop_class[1].decode(), sop_instance[1].decode())


def encode_store_response(request: StoreRequest, status: int, comment: str = "") -> bytes:
    """The command set of the C-STORE-RSP; `comment` is ASCII of 64 characters at most."""
    elements = b"".join(
        (
            _text(_SOP_CLASS, request.sop_class_uid, b"\0"),
            _number(_COMMAND, _STORE_RSP),
            _number(_RESPONDED_TO, request.message_id),
            _number(_DATA_SET_TYPE, _NO_DATA_SET),
            _number(_STATUS, status),
            _text(_ERROR_COMMENT, comment, b" ") if comment else b"",
            _text(_SOP_INSTANCE, request.sop_instance_uid, b"\0"),
        )
    )
    return _HEAD.pack(0, _GROUP_LENGTH, 4) + struct.pack("<L", len(elements)) + elements


def encode_pdu(context_id: int, command: bytes) -> bytes:
    """A P-DATA-TF with a whole command set."""
    size = len(command) + 2
    return _PDU_HEAD.pack(_P_DATA_TF, size + 4, size, context_id, _LAST_OF_COMMAND) + command


def _number(element: int, value: int) -> bytes:
    return _HEAD.pack(0, element, 2) + _UNSIGNED.pack(value)


def _text(element: int, text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    value += pad * (len(value) % 2)
    return _HEAD.pack(0, element, len(value)) + value
