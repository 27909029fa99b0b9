"""A peer that speaks the DICOM upper layer and DIMSE by hand (PS3.8 9.3, PS3.7 6.3, 9.3, 10.3).

pynetdicom's requestor would not send what is wrong; this one sends what it is given.
"""

import contextlib
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.support import fuzzing

IMPLICIT = "1.2.840.10008.1.2"
# Command Field of each request (PS3.7 E.1).
COMMANDS = {
    "C-STORE": 0x0001, "C-GET": 0x0010, "C-FIND": 0x0020, "C-MOVE": 0x0021, "C-ECHO": 0x0030,
    "N-EVENT-REPORT": 0x0100, "N-GET": 0x0110, "N-SET": 0x0120, "N-ACTION": 0x0130,
    "N-CREATE": 0x0140, "N-DELETE": 0x0150,
}  # fmt: skip
_REQUESTED = ("N-GET", "N-SET", "N-ACTION", "N-DELETE")
_NO_DATA_SET = 0x0101


class AbortedError(Exception):
    """The peer sent an A-ABORT or closed the connection."""


def element(number: int, value: bytes) -> bytes:
    """A command element, Implicit VR Little Endian."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def number(element_number: int, value: int) -> bytes:
    return element(element_number, struct.pack("<H", value))


def uid(element_number: int, value: str) -> bytes:
    encoded = value.encode()
    return element(element_number, encoded + b"\0" * (len(encoded) % 2))


def command(
    operation: str,
    sop_class: str | None,
    sop_instance: str | None,
    *,
    has_data: bool = False,
    message: int | None = 1,
) -> bytes:
    """A request's command set; None leaves an element out."""
    role = 1 if operation in _REQUESTED else 0
    parts = [
        (0x0002 + role, None if sop_class is None else uid(0x0002 + role, sop_class)),
        (0x0100, number(0x0100, COMMANDS[operation])),
        (0x0110, None if message is None else number(0x0110, message)),
        (0x0700, number(0x0700, 0) if operation.startswith("C-") else None),
        (0x0800, number(0x0800, 0 if has_data else _NO_DATA_SET)),
        (0x1000 + role, None if sop_instance is None else uid(0x1000 + role, sop_instance)),
        (0x1002, number(0x1002, 1) if operation == "N-EVENT-REPORT" else None),
        (0x1008, number(0x1008, 1) if operation == "N-ACTION" else None),
    ]
    elements = b"".join(part for _, part in parts if part is not None)
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def encode_dataset(dataset: Dataset, syntax: str = IMPLICIT) -> bytes:
    """A data set, Little Endian, with value representations unless the syntax has none."""
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = syntax == IMPLICIT, True
    write_dataset(out, dataset)
    return out.getvalue()


@dataclass
class Peer:
    """A connection; `results` has the result of each presentation context, by its id."""

    connection: socket.socket
    results: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A command and its data set are two writes: the second would wait 40 ms for a delayed ACK.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def associate(self, request: bytes) -> None:
        """Send an A-ASSOCIATE-RQ. Raises AbortedError, or AssertionError for another answer."""
        self.connection.sendall(request)
        kind, body = self.pdu()
        assert kind == 0x02, f"PDU {kind:02X}: {body.hex()}"
        at = 68
        while at + 4 <= len(body):
            kind, length = struct.unpack_from(">BxH", body, at)
            if kind == 0x21:
                self.results[body[at + 4]] = body[at + 6]
            at += 4 + length

    def ask(self, context: int, request: bytes, data: bytes = b"") -> int:
        """Send a request; the status of its response. Raises AbortedError."""
        for pdu in fuzzing.p_data(context, request, data) if data else [_value(context, request)]:
            self.connection.sendall(pdu)
        return self.status()

    def status(self) -> int:
        """The status of the next response. Raises AbortedError."""
        kind, body = self.pdu()
        if kind != 0x04:
            raise AbortedError
        values: dict[int, bytes] = {}
        stream = io.BytesIO(body[6:])
        while head := stream.read(8):
            _, name, length = struct.unpack("<HHI", head)
            values[name] = stream.read(length)
        (status,) = struct.unpack("<H", values[0x0900])
        return int(status)

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU's type and body. Raises AbortedError for none, and for an A-ABORT."""
        head = self._read(6)
        kind, length = struct.unpack(">BxI", head)
        body = self._read(length)
        if kind == 0x07:
            raise AbortedError
        return int(kind), body

    def _read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            try:
                more = self.connection.recv(count - len(content))
            except ConnectionError:
                more = b""
            if not more:
                raise AbortedError
            content += more
        return content


def accept(
    results: Sequence[int], transfer_syntax: str = IMPLICIT, user: bytes | None = None
) -> bytes:
    """An A-ASSOCIATE-AC with these results for the contexts 1, 3, 5 …; `user` are sub-items."""
    body = struct.pack(">HH16s16s32x", 1, 0, b"QCDAEMON".ljust(16), b"QCDAEMON".ljust(16))
    body += item(0x10, fuzzing.APPLICATION_CONTEXT.encode())
    for index, result in enumerate(results):
        inner = item(0x40, transfer_syntax.encode())
        body += item(0x21, struct.pack(">BxBx", 2 * index + 1, result) + inner)
    if user is None:
        user = item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3.4")
    return fuzzing.pdu(0x02, body + item(0x50, user))


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU (PS3.8 9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


USER_INFORMATION = item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3.4")


def associate_request(
    version: int = 1,
    called: bytes = b"QCDAEMON        ",
    calling: bytes = b"MODALITY        ",
    application: bytes = b"1.2.840.10008.3.1.1.1",
    contexts: bytes | None = None,
    user: bytes | None = USER_INFORMATION,
    more: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ for Verification; `user` None leaves the User Information out."""
    if contexts is None:
        inner = item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
        contexts = item(0x20, bytes((1, 0, 0, 0)) + inner)
    body = struct.pack(">HH16s16s32x", version, 0, called, calling)
    body += item(0x10, application) + contexts + more
    return fuzzing.pdu(0x01, body + (b"" if user is None else item(0x50, user)))


@contextlib.contextmanager
def acceptor(answer: Callable[[Peer], None]) -> Iterator[tuple[int, list[BaseException]]]:
    """A listener that leaves its one caller to `answer` in a thread; its port, and what it raised.

    Joined at the end, so that what it raised is all there.
    """
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                answer(Peer(connection))
        except BaseException as error:
            raised.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], raised
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def peer(port: int) -> Iterator[Peer]:
    """A connection without an association."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield Peer(connection)


@contextlib.contextmanager
def association(
    port: int, contexts: Sequence[str], calling: str = "MODALITY", called: str = "QCDAEMON"
) -> Iterator[Peer]:
    """An association with these abstract syntaxes in Implicit VR Little Endian; ids 1, 3, 5 …"""
    with peer(port) as connection:
        pairs = [(each, IMPLICIT) for each in contexts]
        connection.associate(fuzzing.associate(pairs, calling=calling, called=called))
        yield connection


def _value(context: int, request: bytes) -> bytes:
    return fuzzing.pdu(0x04, struct.pack(">IBB", len(request) + 2, context, 0x03) + request)
