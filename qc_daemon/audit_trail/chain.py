"""The chain: records in files, one JSON object a line, each with the SHA-256 of the one before.

A folder has segments, each named by the sequence number of its first record, and a head:

    00000000000000000001.jsonl   {"sequence": 1, "at": …, …, "previous": "0…0", "digest": "…"}
    00000000000000004711.jsonl   goes on where the one before ends
    head                         sequence and digest of the last record
    lock                         held while records are appended

`digest` is the SHA-256 of the line's bytes before `,"digest"`, and `previous` is among these, so
that a digest stands for all records up to its own. Writers of several processes take turns by
flock. Records are on disk (fdatasync) before `append` returns, and only then the head is written;
so after a crash the head is behind at most, and the next append says so in a record.

Whoever changes a record must change all that follow and the head; whoever can do that too is found
by an anchor kept elsewhere: a sequence number with its digest (`verification.verify`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qc_daemon.audit_trail.event import AuditEvent, AuditKind, to_body
from qc_daemon.spool import private_files

HEAD, LOCK = "head", "lock"
FIRST_PREVIOUS = "0" * 64
MAX_RECORD = 64 * 1024
"""Bytes of a line; what an event can hold stays below."""
SEGMENT_NAME = re.compile(r"(\d{20})\.jsonl")
_BEGIN = re.compile(rb'\{"sequence":(\d+),"at":"')
_END = re.compile(rb',"previous":"([0-9a-f]{64})","digest":"([0-9a-f]{64})"\}')
_END_BYTES = len(',"previous":"","digest":""}') + 128
_DIGEST_BYTES = len(',"digest":""}') + 64
_HEAD = re.compile(rb"(\d{20}) ([0-9a-f]{64})\n")


class FormError(ValueError):
    """A line is no record."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a record says of its place: its number, its digest, and the digest before."""

    sequence: int
    digest: str
    previous: str = ""


@dataclass(frozen=True, slots=True)
class _Tail:
    """The end of the chain on disk: its last record, where the next one goes, and how many bytes
    of an unfinished line stand there."""

    link: Link | None
    segment: Path | None
    size: int
    torn: int


def chain_name() -> str:
    """The name of this machine's chain: several machines may share a folder, none a chain."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip(".")
    return name or "host"


def make_line(sequence: int, at: datetime, body: Mapping[str, Any], previous: str) -> bytes:
    """A record as a line, without its end."""
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds")
    fields = {"sequence": sequence, "at": moment} | dict(body) | {"previous": previous}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    content = text.encode("utf-8", "replace")[:-1]
    return content + f',"digest":"{hashlib.sha256(content).hexdigest()}"}}'.encode()


def read_link(line: bytes) -> Link:
    """What a line says of itself, whose digest is that of its bytes. Raises FormError."""
    begin = _BEGIN.match(line)
    end = _END.fullmatch(line[-_END_BYTES:])
    if begin is None or end is None or len(line) > MAX_RECORD:
        raise FormError("is no record")
    if hashlib.sha256(line[:-_DIGEST_BYTES]).hexdigest() != end[2].decode():
        raise FormError("was changed: its digest is another")
    return Link(int(begin[1]), end[2].decode(), end[1].decode())


def segments(folder: Path) -> list[Path]:
    """The segments of a chain, in order."""
    return sorted(each for each in folder.glob("*.jsonl") if SEGMENT_NAME.fullmatch(each.name))


def read_head(folder: Path) -> Link | None:
    """The head; None where there is none. Raises FormError for one that cannot be read."""
    try:
        content = (folder / HEAD).read_bytes()
    except FileNotFoundError:
        return None
    match = _HEAD.fullmatch(content)
    if match is None:
        raise FormError("the head cannot be read")
    return Link(int(match[1]), match[2].decode())


class AuditChain:
    """The chain in a folder, of which each process may have its own object."""

    def __init__(self, folder: Path, segment_bytes: int = 16 * 2**20) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes

    def append(self, events: Sequence[tuple[datetime, AuditEvent]]) -> Link | None:
        """Append records; they are on disk when it returns the last one's place. Raises OSError."""
        if not events:
            return None
        bodies = [(at, to_body(event)) for at, event in events]
        with self._locked():
            tail = self._read_tail()
            head, notes = _compare(self._head(), tail)
            if tail.torn:
                assert tail.segment is not None
                os.truncate(tail.segment, tail.size)
            if notes:
                now = datetime.now(UTC)
                repair = AuditEvent(AuditKind.LOG_REPAIRED, False, detail={"reason": notes})
                bodies.insert(0, (now, to_body(repair)))
            return self._write(tail, head, bodies)

    def _write(
        self, tail: _Tail, head: Link | None, bodies: Sequence[tuple[datetime, Mapping[str, Any]]]
    ) -> Link:
        sequence, digest = (0, FIRST_PREVIOUS) if head is None else (head.sequence, head.digest)
        first, lines = sequence + 1, []
        for at, body in bodies:
            sequence += 1
            line = make_line(sequence, at, body, digest)
            digest = line[-66:-2].decode()
            lines.append(line + b"\n")
        is_new = tail.segment is None or tail.size >= self.segment_bytes
        path = self.folder / f"{first:020d}.jsonl" if is_new else tail.segment
        assert path is not None
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(path, flags, private_files.FILE_MODE)
        try:
            _write_all(fd, b"".join(lines))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        if is_new:
            _sync_folder(self.folder)
        link = Link(sequence, digest)
        self._write_head(link)
        return link

    def _write_head(self, link: Link) -> None:
        """Not synced: behind is what it may be, and the kernel writes it within seconds."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self.folder / HEAD, flags, private_files.FILE_MODE)
        try:
            content = f"{link.sequence:020d} {link.digest}\n".encode()
            os.pwrite(fd, content, 0)
            os.ftruncate(fd, len(content))
        finally:
            os.close(fd)

    def _head(self) -> Link | FormError | None:
        try:
            return read_head(self.folder)
        except FormError as error:
            return error

    def _read_tail(self) -> _Tail:
        for path in reversed(segments(self.folder)):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = max(0, size - 2 * MAX_RECORD)
                file.seek(start)
                end = file.read()
            whole, _, torn = end.rpartition(b"\n")
            if not whole and not torn:
                continue
            size -= len(torn)
            if not whole:
                # An unfinished first record of a segment.
                return self._with_segment_before(path, size, len(torn))
            with contextlib.suppress(FormError):
                link = read_link(whole.rpartition(b"\n")[2])
                return _Tail(link, path, size, len(torn))
            return _Tail(Link(0, "", ""), path, size, len(torn))
        return _Tail(None, None, 0, 0)

    def _with_segment_before(self, path: Path, size: int, torn: int) -> _Tail:
        earlier = [each for each in segments(self.folder) if each < path]
        if not earlier:
            return _Tail(None, path, size, torn)
        line = earlier[-1].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
        try:
            return _Tail(read_link(line), path, size, torn)
        except FormError:
            return _Tail(Link(0, "", ""), path, size, torn)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        private_files.make_folder(self.folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self.folder / LOCK, flags, private_files.FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep writers away for a moment, so that no record is half there; without the right to lock,
    as on a copy that is read-only, just read."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _compare(head: Link | FormError | None, tail: _Tail) -> tuple[Link | None, str]:
    """Where to go on, and in words what is not as `append` leaves it; the head decides, for what
    it names was written."""
    notes = [f"{tail.torn} bytes of an unfinished record removed"] if tail.torn else []
    last = tail.link
    if isinstance(head, FormError):
        notes.append("the head could not be read")
        head = None
    elif head is None and last is not None:
        notes.append("the head was missing")
    if head is None:
        is_record = last is not None and bool(last.digest)
        return (last if is_record else None), "; ".join(notes)
    if last is not None and not last.digest:
        notes.append("the last line was no record")
    elif last is None or last.sequence < head.sequence:
        first = 1 if last is None else last.sequence + 1
        notes.append(f"records {first} to {head.sequence} were missing")
    elif last.sequence > head.sequence:
        # A crash came between a record and the head.
        notes.append(f"records {head.sequence + 1} to {last.sequence} were beyond the head")
        head = last
    elif last.digest != head.digest:
        notes.append(f"record {head.sequence} was another one")
    return head, "; ".join(notes)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
