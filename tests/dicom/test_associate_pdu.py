"""A-ASSOCIATE PDUs as peers send them: what is read, and that pynetdicom takes the result."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from qc_daemon.dicom import associate_pdu
from qc_daemon.dicom.associate_pdu import MalformedError, parse_answer, parse_request
from tests.support import fuzzing
from tests.support.raw_dimse import USER_INFORMATION, accept, associate_request, item

REQUEST = fuzzing.associate([("1.2.840.10008.1.1", "1.2.840.10008.1.2")])


def decoded(pdu: bytes) -> A_ASSOCIATE_RQ:
    decoded_pdu = A_ASSOCIATE_RQ()
    decoded_pdu.decode(pdu)
    decoded_pdu.to_primitive()
    return decoded_pdu


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8
)


def _mutated(pdu: bytes, changes: list[tuple[int, int]]) -> bytes:
    mutated = bytearray(pdu)
    for at, value in changes:
        mutated[1 + at % (len(mutated) - 1)] = value
    return bytes(mutated)


@given(MUTATIONS, st.integers(0, 8))
def test_pynetdicom_decodes_any_parsed_request(changes: list[tuple[int, int]], cut: int) -> None:
    whole = associate_request(
        user=USER_INFORMATION + item(0x55, b"SOMEBODY 1.0") + item(0x54, b"\0\x031.2\1\1")
    )
    try:
        parsed = parse_request(_mutated(whole, changes)[: len(whole) - cut])
    except MalformedError:
        return
    decoded_pdu = decoded(parsed.pdu)
    assert decoded_pdu.protocol_version == 1
    assert parsed.calling_ae.isprintable()
    assert parsed.called_ae.isprintable()
    (length,) = struct.unpack_from(">I", parsed.pdu, parsed.pdu.index(b"\x51\0\0\4") + 4)
    assert length % 2 == 0
    assert length > 0


@given(MUTATIONS, st.integers(0, 8))
def test_pynetdicom_decodes_any_parsed_answer(changes: list[tuple[int, int]], cut: int) -> None:
    for pdu, kind in (
        (accept([0, 3]), A_ASSOCIATE_AC),
        (fuzzing.pdu(0x03, bytes((0, 1, 1, 3))), A_ASSOCIATE_RJ),
    ):
        try:
            answer = kind()
            answer.decode(parse_answer(_mutated(pdu, changes)[: len(pdu) - cut]))
            answer.to_primitive()
        except MalformedError:
            continue


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_malformed(rubbish: bytes) -> None:
    for read, kind in ((parse_request, 0x01), (parse_answer, 0x02), (parse_answer, 0x03)):
        with contextlib.suppress(MalformedError):
            read(fuzzing.pdu(kind, rubbish))


@pytest.mark.parametrize("kind", [0x00, 0x11, 0x60, 0x99, 0xF0, 0xFF])
def test_unknown_items_and_sub_items_are_ignored(kind: int) -> None:
    extra = item(kind, b"whatever")
    parsed = parse_request(associate_request(more=extra, user=USER_INFORMATION + extra))
    assert parsed.rejection is None
    assert len(decoded(parsed.pdu).presentation_context) == 1


@pytest.mark.parametrize("version", [0x0001, 0x0003, 0x8001, 0xFFFF])
def test_bit_0_of_the_protocol_version_decides(version: int) -> None:
    assert parse_request(associate_request(version=version)).rejection is None
    refused = parse_request(associate_request(version=version & ~1))
    assert refused.rejection == (1, 2, 2)


@pytest.mark.parametrize(
    ("calling", "rejection"),
    [
        (b"MODALITY\0\0\0\0\0\0\0\0", None),
        (b"  MODALITY      ", None),
        (bytes(16), (1, 1, 3)),
        (b" " * 16, (1, 1, 3)),
        (b"MODALIT\xc4        ", (1, 1, 3)),
        (b"MOD\nALITY       ", (1, 1, 3)),
        (b"MOD\\ALITY       ", (1, 1, 3)),
    ],
)
def test_calling_titles(calling: bytes, rejection: tuple[int, int, int] | None) -> None:
    parsed = parse_request(associate_request(calling=calling))
    assert parsed.rejection == rejection
    if rejection is None:
        assert parsed.calling_ae == "MODALITY"


@pytest.mark.parametrize("called", [bytes(16), b" " * 16, b"QCD\xc4EMON        "])
def test_a_called_title_that_is_none(called: bytes) -> None:
    assert parse_request(associate_request(called=called)).rejection == (1, 1, 7)


@pytest.mark.parametrize("application", [b"", b"1.2.840.10008.3.1.1.2", b"1.2.3"])
def test_another_application_context(application: bytes) -> None:
    assert parse_request(associate_request(application=application)).rejection == (1, 1, 2)


@pytest.mark.parametrize(
    ("user", "most"),
    [
        (None, 128 << 10),
        (b"", 128 << 10),
        (item(0x51, struct.pack(">I", 0)), 128 << 10),
        (item(0x51, struct.pack(">I", 16_383)), 16_382),
        (item(0x51, struct.pack(">I", 0xFFFFFFFF)), 1 << 20),
    ],
)
def test_maximum_lengths(user: bytes | None, most: int) -> None:
    decoded_pdu = decoded(parse_request(associate_request(user=user)).pdu)
    assert decoded_pdu.user_information.maximum_length == most


@pytest.mark.parametrize(
    "name", [b"SEVENTEEN LETTERS", b"A" * 24, b"\xc4\xd6\xdc", b"", b"A\0\0", b"A\nB"]
)
def test_implementation_version_names(name: bytes) -> None:
    assert decoded(parse_request(associate_request(user=USER_INFORMATION + item(0x55, name))).pdu)
    answer = A_ASSOCIATE_AC()
    answer.decode(parse_answer(accept([0], user=USER_INFORMATION + item(0x55, name))))
    answer.to_primitive()


def test_a_context_without_transfer_syntax_names_none_there_is() -> None:
    """So it is refused (PS3.8 9.3.3.2), and the next one is not."""
    inner = item(0x30, b"1.2.840.10008.1.1")
    contexts = item(0x20, bytes((1, 0, 0, 0)) + inner)
    contexts += item(0x20, bytes((3, 0, 0, 0)) + inner + item(0x40, b"1.2.840.10008.1.2"))
    first, second = decoded(
        parse_request(associate_request(contexts=contexts)).pdu
    ).presentation_context
    assert first.transfer_syntax == ["0.0"]
    assert second.transfer_syntax == ["1.2.840.10008.1.2"]


def test_an_accepted_context_without_transfer_syntax_is_not_accepted() -> None:
    body = (
        struct.pack(">HH64x", 1, 0) + item(0x21, bytes((1, 0, 0, 0))) + item(0x50, USER_INFORMATION)
    )
    answer = A_ASSOCIATE_AC()
    answer.decode(parse_answer(fuzzing.pdu(0x02, body)))
    assert [each.result for each in answer.presentation_context] == [4]


def test_the_titles_of_a_malformed_request() -> None:
    assert associate_pdu.titles(REQUEST[:60]) == ("FUZZER", "QCDAEMON")
    assert associate_pdu.titles(REQUEST[:12]) == ("", "QC")
