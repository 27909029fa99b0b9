"""What strangers can make a receiver hold, parse or write: so much, then a status or an abort."""

import contextlib
import io
import itertools
import select
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from qc_daemon.dicom import data_set_size
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from qc_daemon.receive.back_pressure import BackPressure
from qc_daemon.receive.identifiers import file_head
from qc_daemon.receive.mpps import MPPS
from qc_daemon.receive.upper_layer import dimse
from qc_daemon.records.tables import CommitmentItem
from tests.support import fuzzing, raw_dimse
from tests.support.dicom_objects import US, ultrasound
from tests.support.peers import store
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

TOO_MUCH, RESOURCES = 0x0213, 0xA700
# An element without a value, Implicit VR Little Endian.
TINY = b"\x09\x00\x10\x10\0\0\0\0"


def _references(count: int) -> bytes:
    instance = struct.pack("<HHI", 0x0008, 0x1155, 20)
    sop_class = struct.pack("<HHI", 0x0008, 0x1150, 28) + US.encode() + b"\0"
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, 64)
        + sop_class
        + instance
        + f"1.2.3.{number:013d}".encode()
        + b"\0"
        for number in range(count)
    )
    head = struct.pack("<HHI", 0x0008, 0x1199, len(items))
    return head + items + struct.pack("<HHI", 0x0008, 0x1195, 6) + b"1.2.3\0"


REQUESTS = [
    ("N-ACTION", PUSH_MODEL, PUSH_MODEL_INSTANCE),
    ("N-EVENT-REPORT", PUSH_MODEL, PUSH_MODEL_INSTANCE),
    ("N-CREATE", MPPS, "1.2.3"),
    ("N-SET", MPPS, "1.2.3"),
]


@pytest.mark.parametrize(("operation", "sop_class", "instance"), REQUESTS)
@pytest.mark.parametrize("count", [data_set_size.MAX_ELEMENTS + 1, 400_000])
def test_a_data_set_of_tiny_elements_is_refused(
    receiver: RunningReceiver, operation: str, sop_class: str, instance: str, count: int
) -> None:
    command = raw_dimse.command(operation, sop_class, instance, has_data=True)
    with raw_dimse.association(receiver.port, [sop_class]) as peer:
        assert peer.ask(1, command, TINY * count) == TOO_MUCH
        # The next is served.
        assert peer.ask(1, command, TINY) not in (TOO_MUCH, 0x0122)


@pytest.mark.parametrize(
    ("count", "status"), [(10, 0x0000), (data_set_size.MAX_ITEMS + 1, TOO_MUCH), (40_000, TOO_MUCH)]
)
def test_references_are_limited(receiver: RunningReceiver, count: int, status: int) -> None:
    command = raw_dimse.command("N-ACTION", PUSH_MODEL, PUSH_MODEL_INSTANCE, has_data=True)
    with raw_dimse.association(receiver.port, [PUSH_MODEL]) as peer:
        assert peer.ask(1, command, _references(count)) == status
    assert len(receiver.rows(CommitmentItem)) == (count if status == 0x0000 else 0)


def test_a_data_set_without_end_is_cut_off(receiver: RunningReceiver) -> None:
    command = raw_dimse.command("N-ACTION", PUSH_MODEL, PUSH_MODEL_INSTANCE, has_data=True)
    with raw_dimse.association(receiver.port, [PUSH_MODEL]) as peer:
        _send_without_end(peer, command)
        with pytest.raises(raw_dimse.AbortedError):
            peer.pdu()
    eventually(lambda: dimse.memory_budget._free_bytes == dimse.MAX_DATA_SETS_IN_MEMORY)


def _send_without_end(peer: raw_dimse.Peer, command: bytes) -> None:
    """Send fragments until something is answered."""
    peer.connection.sendall(fuzzing.p_data(1, command, b"")[0])
    fragment = fuzzing.pdu(0x04, struct.pack(">IBB", (1 << 20) + 2, 1, 0x00) + bytes(1 << 20))
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            if select.select([peer.connection], [], [], 0)[0]:
                return
            peer.connection.sendall(fragment)


def test_associations_hold_so_much_together(receiver: RunningReceiver) -> None:
    command = raw_dimse.command("N-ACTION", PUSH_MODEL, PUSH_MODEL_INSTANCE, has_data=True)
    pieces = fuzzing.p_data(1, command, bytes(data_set_size.MAX_BYTES - 64))
    with contextlib.ExitStack() as open_:
        for _ in range(4):
            peer = open_.enter_context(raw_dimse.association(receiver.port, [PUSH_MODEL]))
            for piece in pieces[:-1]:
                peer.connection.sendall(piece)
        eventually(lambda: dimse.memory_budget._free_bytes < data_set_size.MAX_BYTES // 4)
        last = open_.enter_context(raw_dimse.association(receiver.port, [PUSH_MODEL]))
        assert last.ask(1, command, bytes(data_set_size.MAX_BYTES - 64)) == TOO_MUCH
    eventually(lambda: dimse.memory_budget._free_bytes == dimse.MAX_DATA_SETS_IN_MEMORY)


def test_a_command_set_without_end_is_cut_off(receiver: RunningReceiver) -> None:
    piece = fuzzing.pdu(0x04, struct.pack(">IBB", 8_002, 1, 0x01) + bytes(8_000))
    with raw_dimse.association(receiver.port, [PUSH_MODEL]) as peer:
        for _ in range(4):
            peer.connection.sendall(piece)
        with pytest.raises(raw_dimse.AbortedError):
            peer.pdu()


def test_a_deflated_data_set_is_refused_by_what_it_would_inflate_to(
    receiver: RunningReceiver,
) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflate.compress(bytes(64 << 20)) + deflate.flush()
    with raw_dimse.peer(receiver.port) as peer:
        peer.associate(fuzzing.associate([(MPPS, DeflatedExplicitVRLittleEndian)]))
        command = raw_dimse.command("N-CREATE", MPPS, "1.2.3", has_data=True)
        status = peer.ask(1, command, bomb) if peer.results[1] == 0 else TOO_MUCH
    assert status == TOO_MUCH


def test_a_crowd_of_requests_ends_the_association(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks and asks and reads no answer."""
    monkeypatch.setattr(dimse.DimseProvider, "get_msg", lambda *_: (None, None))
    echo = raw_dimse.command("C-ECHO", "1.2.840.10008.1.1", None)
    many = fuzzing.p_data(1, echo, b"")[0] * (dimse.MAX_REQUESTS + 1)
    with raw_dimse.association(receiver.port, ["1.2.840.10008.1.1"]) as peer:
        peer.connection.sendall(many)
        with pytest.raises(raw_dimse.AbortedError):
            peer.pdu()


@pytest.fixture
def full(
    start_receiver: Callable[..., RunningReceiver], monkeypatch: pytest.MonkeyPatch
) -> RunningReceiver:
    """A receiver whose disk reaches its hard mark after two blocks."""
    calls = itertools.count()
    monkeypatch.setattr(BackPressure, "has_room", lambda _self: next(calls) < 2)
    return start_receiver()


def _store(instance: str) -> bytes:
    return raw_dimse.command("C-STORE", US, instance, has_data=True)


def test_an_object_without_end_is_cut_off_at_the_hard_mark(full: RunningReceiver) -> None:
    with raw_dimse.association(full.port, [US]) as peer:
        _send_without_end(peer, _store("1.2.3.4"))
        assert full.files() == []
        with contextlib.suppress(raw_dimse.AbortedError):
            # Unless what it goes on to send has taken the answer with it.
            assert peer.status() == RESOURCES
            peer.pdu()
            pytest.fail("the association goes on")
    assert full.nothing_recorded()


def test_an_object_that_meets_the_hard_mark_is_a700(full: RunningReceiver) -> None:
    with raw_dimse.association(full.port, [US]) as peer:
        assert peer.ask(1, _store("1.2.3.4"), bytes(4 << 20)) == RESOURCES
    assert full.files() == []
    assert full.nothing_recorded()


def test_a_write_error_removes_the_part_at_once(
    start_receiver: Callable[..., RunningReceiver], small_disk: Path
) -> None:
    """The disk has 256 KiB; others go on meanwhile."""
    receiver = start_receiver(spool=small_disk / "spool", pressure={"hard_free_megabytes": 0})
    with raw_dimse.association(receiver.port, [US]) as peer:
        peer.connection.sendall(fuzzing.p_data(1, _store("1.2.3.4"), b"")[0])
        fragment = fuzzing.pdu(0x04, struct.pack(">IBB", (1 << 20) + 2, 1, 0x00) + bytes(1 << 20))
        peer.connection.sendall(fragment)
        eventually(lambda: receiver.files() == [])
        assert store(receiver.port, ultrasound()) == [0x0000]
        end = fuzzing.pdu(0x04, struct.pack(">IBB", 2, 1, 0x02))
        peer.connection.sendall(end)
        assert peer.status() == RESOURCES


def _nested(items: list[Dataset]) -> Dataset:
    dataset = Dataset()
    dataset.ReferencedSOPSequence = items
    dataset.TransactionUID = "1.2.3"
    return dataset


def _elements(dataset: Dataset) -> int:
    return sum(
        1 + (sum(map(_elements, element.value)) if element.VR == "SQ" else 0) for element in dataset
    )


@given(
    st.recursive(
        st.just(Dataset()),
        lambda inner: st.lists(inner, min_size=1, max_size=3).map(_nested),
        max_leaves=20,
    ),
    st.sampled_from([raw_dimse.IMPLICIT, ExplicitVRLittleEndian]),
)
def test_the_count_is_no_lower_than_a_parsers(dataset: Dataset, syntax: str) -> None:
    encoded = raw_dimse.encode_dataset(dataset, syntax)
    count = _elements(dcmread(io.BytesIO(_file(encoded, syntax)), force=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data_set_size, "MAX_ELEMENTS", count - 1)
        assert count == 0 or data_set_size.excess(encoded, syntax) is not None


def _file(encoded: bytes, syntax: str) -> bytes:
    return file_head(US, "1.2.3", syntax, "1.2.3", "X") + encoded


@given(st.binary(max_size=2_000), st.sampled_from([raw_dimse.IMPLICIT, ExplicitVRLittleEndian]))
def test_any_bytes_are_counted(encoded: bytes, syntax: Any) -> None:
    assert data_set_size.excess(encoded, syntax) in (None, "the data set has too many elements")
