"""Mutated association and data bytes, and a sender that puts them on real sockets.

Speaks the DICOM upper layer (PS3.8 section 9) and C-STORE (PS3.7 9.1.1) by hand, so that every
byte can lie. Case `n` of seed `s` is always the same bytes.
"""

import asyncio
import base64
import contextlib
import io
import json
import random
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from qc_daemon.receive.presentation_contexts import SOP_CLASSES
from tests.support.dicom_objects import US

VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
MAX_PDU = 16_384
# Larger seeds are cut: what the receiver reads stands at the beginning.
_WHOLE, _CUT = 65_536, 8_192
RELEASE = b"\x05\x00" + struct.pack(">I", 4) + bytes(4)
ABORT = b"\x07\x00" + struct.pack(">I", 4) + bytes(4)


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate(
    contexts: Sequence[tuple[str, str]], calling: str = "FUZZER", called: str = "QCDAEMON"
) -> bytes:
    """A-ASSOCIATE-RQ; presentation context ids are 1, 3, 5 … in the order of `contexts`."""
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += _item(0x10, APPLICATION_CONTEXT.encode())
    for index, (sop_class, syntax) in enumerate(contexts):
        inner = _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode())
        body += _item(0x20, struct.pack(">B3x", 2 * index + 1) + inner)
    user = _item(0x51, struct.pack(">I", MAX_PDU)) + _item(0x52, b"1.2.3.4") + _item(0x55, b"FUZZ")
    return pdu(0x01, body + _item(0x50, user))


def c_store(sop_class: str, instance: str, message: int = 1) -> bytes:
    """The command set of a C-STORE-RQ, Implicit VR Little Endian."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, number, len(value)) + value

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    elements = (
        element(0x0002, uid(sop_class))
        + element(0x0100, struct.pack("<H", 0x0001))
        + element(0x0110, struct.pack("<H", message & 0xFFFF))
        + element(0x0700, bytes(2))
        + element(0x0800, bytes(2))
        + element(0x1000, uid(instance))
    )
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def p_data(context: int, command: bytes, data: bytes) -> list[bytes]:
    """P-DATA-TF PDUs of one message: the command in one, the data set in as many as it needs."""

    def value(header: int, fragment: bytes) -> bytes:
        return pdu(0x04, struct.pack(">IBB", len(fragment) + 2, context, header) + fragment)

    room = MAX_PDU - 6
    pieces = [data[at : at + room] for at in range(0, len(data), room)] or [b""]
    last = len(pieces) - 1
    return [value(0x03, command)] + [
        value(0x02 if index == last else 0x00, piece) for index, piece in enumerate(pieces)
    ]


@dataclass(frozen=True)
class Seed:
    """A valid (or real and odd) data set to start from."""

    name: str
    sop_class: str
    instance: str
    syntax: str
    data: bytes


def seed_of(name: str, content: bytes) -> Seed | None:
    """The data set of a file's bytes; None if even a tolerant reader finds no identifiers."""
    try:
        header = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
        syntax = str(header.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian))
        meta = header.file_meta.get("FileMetaInformationGroupLength")
        start = 144 + int(meta) if meta is not None else 132 * (content[128:132] == b"DICM")
        sop_class, instance = str(header.SOPClassUID), str(header.SOPInstanceUID)
    except Exception:
        # Half of these files are malformed on purpose; what pydicom cannot name is no seed.
        return None
    data = content[start:]
    if sop_class not in SOP_CLASSES:
        sop_class, data = US, _as_ultrasound(data)
    return Seed(name, sop_class, instance, syntax, data if len(data) <= _WHOLE else data[:_CUT])


def _as_ultrasound(data: bytes) -> bytes:
    """A little endian data set under a class that we take; others are refused for their class."""
    value = US.encode() + b"\0" * (len(US) % 2)
    explicit, implicit = b"\x08\0\x16\0UI", b"\x08\0\x16\0"
    at = data.find(implicit)
    if at < 0:
        return data
    if data.startswith(explicit, at):
        (length,) = struct.unpack_from("<H", data, at + 6)
        head = explicit + struct.pack("<H", len(value))
    else:
        (length,) = struct.unpack_from("<I", data, at + 4)
        head = implicit + struct.pack("<I", len(value))
    return data[:at] + head + value + data[at + 8 + length :]


def seeds(folder: Path | None, datasets: Sequence[Dataset]) -> list[Seed]:
    """Real and malformed files (None: not there), and objects of our own."""
    candidates: list[Seed | None] = []
    for number, dataset in enumerate(datasets):
        out = io.BytesIO()
        dataset.save_as(out, enforce_file_format=True)
        candidates.append(seed_of(f"own-{number}", out.getvalue()))
    if folder is not None:
        files = [*(folder / "us_dicom").glob("*.dcm"), *(folder / "malformed").rglob("*.dcm")]
        candidates += [seed_of(path.name, path.read_bytes()) for path in sorted(files)]
    return [seed for seed in candidates if seed is not None]


# Mutations: each takes bytes, a random source and other bytes to splice from.

_LIES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_VR = re.compile(rb"[A-Z]{2}")


def _offset(data: bytes | bytearray, rng: random.Random) -> int:
    """An offset, mostly near the beginning, where the structure is."""
    near = min(len(data), 1024) if rng.random() < 0.8 else len(data)
    return rng.randrange(near) if near else 0


def _flip(data: bytearray, rng: random.Random, _other: bytes) -> None:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[_offset(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random, _other: bytes) -> None:
    at = _offset(data, rng)
    data[at : at + 4] = rng.choice([b"\0", b"\xff", b"\x7f\xff", b"\xfe\xff\x00\xe0", b"SQ", b"UN"])


def _lie(data: bytearray, rng: random.Random, _other: bytes) -> None:
    """A wrong length: after something that looks like a VR, or anywhere."""
    marks = [match.end() for match in _VR.finditer(bytes(data[:4096]))]
    at = rng.choice(marks) if marks and rng.random() < 0.7 else _offset(data, rng)
    packing = rng.choice(["<H", "<I", ">H", ">I"])
    value = rng.choice(_LIES) & (0xFFFF if packing.endswith("H") else 0xFFFFFFFF)
    packed = struct.pack(packing, value)
    data[at : at + len(packed)] = packed


def _truncate(data: bytearray, rng: random.Random, _other: bytes) -> None:
    del data[_offset(data, rng) :]


def _remove(data: bytearray, rng: random.Random, _other: bytes) -> None:
    at = _offset(data, rng)
    del data[at : at + rng.randint(1, 64)]


def _repeat(data: bytearray, rng: random.Random, _other: bytes) -> None:
    at = _offset(data, rng)
    piece = bytes(data[at : at + rng.randint(1, 256)])
    data[at:at] = piece * rng.randint(1, 20)


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    at, start = _offset(data, rng), _offset(other, rng)
    piece = other[start : start + rng.randint(1, 512)]
    data[at : at + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _nest(data: bytearray, rng: random.Random, _other: bytes) -> None:
    """Sequences in sequences, never closed."""
    head = b"\x08\x00\x05\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = _offset(data, rng) if rng.random() < 0.5 else 0
    data[at:at] = head * rng.choice([2, 63, 64, 65, 300])


def _noise(data: bytearray, rng: random.Random, _other: bytes) -> None:
    at = _offset(data, rng)
    data[at : at + 64] = rng.randbytes(rng.randint(1, 64))


_MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    _flip, _flip, _overwrite, _lie, _lie, _truncate, _remove, _repeat, _splice, _nest, _noise,
)  # fmt: skip


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(_MUTATIONS)(changed, rng, other)
    return bytes(changed)


@dataclass(frozen=True)
class DataCase:
    """A data set under a truthful command."""

    number: int
    seed: Seed


@dataclass(frozen=True)
class WireCase:
    """Bytes for one connection, what is awaited between them, and how it ends.

    `parts` are sent in turn; after the first one an answer is read if `converse`. `end`: close,
    reset (RST), half (no more from us, read what comes) or wait (until the receiver hangs up).
    """

    number: int
    what: str
    parts: list[bytes]
    converse: bool
    end: str


Case = DataCase | WireCase


def data_case(seed: int, number: int, pool: Sequence[Seed]) -> DataCase:
    rng = random.Random(f"data:{seed}:{number}")
    seed_object, other = rng.choice(pool), rng.choice(pool)
    instance, data = seed_object.instance, seed_object.data
    if rng.random() < 0.6:
        # Otherwise all cases of a seed are revisions of one instance, which is a case too.
        fresh = f"{instance[:4]}{seed}.{number}."[: len(instance)].rstrip(".")
        fresh = fresh.ljust(len(instance), "1")
        data = data.replace(instance.encode(), fresh.encode(), 1)
        instance = fresh
    if number % 50:
        # Each fiftieth is left as it is: the receiver must go on taking sound objects.
        data = mutate(data, rng, other.data)
    return DataCase(number, replace(seed_object, instance=instance, data=data))


def wire_case(seed: int, number: int, pool: Sequence[Seed]) -> WireCase:
    rng = random.Random(f"wire:{seed}:{number}")
    seed_object = rng.choice(pool)
    request = associate([(US, ExplicitVRLittleEndian), (seed_object.sop_class, seed_object.syntax)])
    message = p_data(3, c_store(seed_object.sop_class, seed_object.instance), seed_object.data)
    stream = b"".join(message)
    what = rng.choice(
        ["request", "request", "data", "data", "data", "control", "noise", "stranger", "order"]
    )
    end = rng.choice(["close", "reset", "half", "half", "wait"])
    if what == "request":
        parts, converse = [mutate(request, rng, stream), stream], False
    elif what == "data":
        parts, converse = [request, mutate(stream, rng, request)], True
    elif what == "control":
        parts, converse = [request, mutate(rng.choice([RELEASE, ABORT]), rng, stream)], True
    elif what == "noise":
        parts, converse = [rng.randbytes(rng.randint(0, 200))], False
    elif what == "stranger":
        hello = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\xff" * 9]
        parts, converse = [rng.choice(hello)], False
    else:
        pieces = [*message, request, RELEASE, ABORT, pdu(0x06, bytes(4)), pdu(0x02, request[6:])]
        rng.shuffle(pieces)
        parts, converse = [request, *pieces[: rng.randint(1, 5)]], rng.random() < 0.5
    return WireCase(number, what, parts, converse, end)


def write_case(case: Case, path: Path) -> None:
    """The case as a file that `read_case` reads."""
    text = json.dumps(
        {"kind": type(case).__name__, **asdict(case)},
        default=lambda value: base64.b64encode(value).decode(),
    )
    path.write_text(text)


def read_case(path: Path) -> Case:
    fields = json.loads(path.read_text())
    if fields.pop("kind") == "DataCase":
        inner = fields["seed"]
        return DataCase(fields["number"], Seed(**inner | {"data": base64.b64decode(inner["data"])}))
    return WireCase(**fields | {"parts": [base64.b64decode(part) for part in fields["parts"]]})


# Sending.


class LostError(Exception):
    """The receiver ended an association that a truthful command should not end."""


class Channel:
    """One association for data sets of one seed's class and syntax after another."""

    def __init__(self, port: int, pool: Sequence[Seed]) -> None:
        # Context ids are odd and end at 255.
        self.contexts = sorted({(seed.sop_class, seed.syntax) for seed in pool})[:128]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(associate(self.contexts))
        kind, body = self._read_pdu()
        if kind != 0x02:
            raise LostError(f"association answered with PDU type {kind}")
        self.accepted = set(_accepted(body))

    def store(self, seed: Seed, message: int) -> int | None:
        """The status of the C-STORE; None if its presentation context is not taken."""
        context = 2 * self.contexts.index((seed.sop_class, seed.syntax)) + 1
        if context not in self.accepted:
            return None
        command = c_store(seed.sop_class, seed.instance, message)
        self.socket.sendall(b"".join(p_data(context, command, seed.data)))
        kind, body = self._read_pdu()
        if kind != 0x04:
            raise LostError(f"data set answered with PDU type {kind}")
        return status_of(body)[0]

    def close(self) -> None:
        with contextlib.suppress(OSError, LostError), self.socket:
            self.socket.sendall(RELEASE)
            self._read_pdu()

    def _read_pdu(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise LostError("connection closed")
            data += piece
        return data


def _accepted(body: bytes) -> Iterator[int]:
    """Context ids that an A-ASSOCIATE-AC accepts."""
    at = 68
    while at + 4 <= len(body):
        kind, length = body[at], int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == 0x21 and body[at + 6] == 0:
            yield body[at + 4]
        at += 4 + length


def status_of(body: bytes) -> tuple[int | None, str]:
    """Status and SOP Instance UID of the response command in a P-DATA-TF body."""
    at, status, instance = 6, None, ""
    while at + 8 <= len(body):
        _, number, length = struct.unpack_from("<HHI", body, at)
        value = body[at + 8 : at + 8 + length]
        if number == 0x0900:
            status = int.from_bytes(value, "little")
        elif number == 0x1000:
            instance = value.rstrip(b"\0 ").decode("ascii", "replace")
        at += 8 + length
    return status, instance


@dataclass
class WireResult:
    """What came back on one wire case's connection."""

    case: WireCase
    acknowledged: list[str] = field(default_factory=list)
    closed: bool = False
    hung: bool = False


async def converse(port: int, case: WireCase, patience: float) -> WireResult:
    """Play the case; `hung` if the receiver had not hung up after `patience` seconds."""
    result = WireResult(case)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for index, part in enumerate(case.parts):
            writer.write(part)
            await writer.drain()
            if index == 0 and case.converse:
                await asyncio.wait_for(_pdu(reader), patience)
        if case.end == "half":
            writer.write_eof()
        if case.end in ("half", "wait"):
            await asyncio.wait_for(_listen(reader, result), patience)
    except TimeoutError:
        result.hung = True
    except (OSError, asyncio.IncompleteReadError):
        # It hung up, as it may.
        result.closed = True
    finally:
        if case.end == "reset":
            linger = struct.pack("ii", 1, 0)
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), patience)
    return result


async def _pdu(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind, _, length = struct.unpack(">BBI", await reader.readexactly(6))
    return kind, await reader.readexactly(length)


async def _listen(reader: asyncio.StreamReader, result: WireResult) -> None:
    while True:
        kind, body = await _pdu(reader)
        if kind == 0x04:
            status, instance = status_of(body)
            if status == 0:
                result.acknowledged.append(instance)


async def run_cases(
    port: int, cases: Sequence[WireCase], at_once: int, patience: float
) -> list[WireResult]:
    """All cases, so many connections at a time."""
    slots = asyncio.Semaphore(at_once)

    async def one(case: WireCase) -> WireResult:
        async with slots:
            return await converse(port, case, patience)

    return await asyncio.gather(*(one(case) for case in cases))
