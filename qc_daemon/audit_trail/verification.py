"""Whether a chain is as it was written: every record, their order, its end, and known anchors."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qc_daemon.audit_trail.chain import (
    FIRST_PREVIOUS,
    HEAD,
    LOCK,
    MAX_RECORD,
    SEGMENT_NAME,
    FormError,
    Link,
    read_head,
    read_link,
    reading,
    segments,
)

MAX_PROBLEMS = 20
"""Problems that are told; one edit makes one or two."""


@dataclass(slots=True)
class Verification:
    """What was found: the number of records, where the chain ends, and each problem in words."""

    records: int = 0
    first: Link | None = None
    last: Link | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def add(self, problem: str) -> None:
        """Add a problem, of very many only the first."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def verify(
    folder: Path,
    anchors: Sequence[Link] = (),
    after: Link | None = None,
    *,
    holds_writers: bool = True,
) -> Verification:
    """Check a chain. `anchors` are places that were noted elsewhere; `after` is the last record
    that is kept elsewhere, where the earlier segments were moved away. Without `holds_writers` a
    record that is written meanwhile may seem to be a problem. Raises OSError."""
    with reading(folder) if holds_writers else contextlib.nullcontext():
        return _verify(folder, anchors, after)


def _verify(folder: Path, anchors: Sequence[Link], after: Link | None) -> Verification:
    result = Verification()
    wanted = {anchor.sequence: anchor.digest for anchor in anchors}
    last = after or Link(0, FIRST_PREVIOUS)
    expected = last
    for path in segments(folder):
        for number, line in enumerate(_lines(path), 1):
            where = f"{path.name} line {number}"
            result.records += 1
            try:
                link = _link(line, path if number == 1 else None)
            except FormError as error:
                result.add(f"{where} {error}")
                # What follows is compared with what it says itself; its number is the next one.
                expected = Link(expected.sequence + 1, "")
                continue
            if link.sequence != expected.sequence + 1:
                result.add(
                    f"{where} is record {link.sequence}, and {expected.sequence + 1} was due"
                )
            elif expected.digest and link.previous != expected.digest:
                result.add(f"{where} does not follow the record before it")
            result.first = result.first or link
            expected = last = link
            if wanted.get(link.sequence, link.digest) != link.digest:
                result.add(f"{where}: record {link.sequence} is another one than was anchored")
            wanted.pop(link.sequence, None)
    result.last = last if result.records else None
    _check_head(folder, result, last)
    for sequence in sorted(wanted):
        if after is None or sequence > after.sequence:
            result.add(f"record {sequence}, which was anchored, is missing")
        elif sequence == after.sequence and wanted[sequence] != after.digest:
            result.add(f"record {sequence} is another one than was anchored")
    for each in sorted(folder.iterdir()):
        if each.name not in (HEAD, LOCK) and not _is_ours(each.name):
            result.add(f"{each.name} is no segment of the chain")
    return result


def _is_ours(name: str) -> bool:
    return SEGMENT_NAME.fullmatch(name) is not None or name.startswith("sent-")


def _check_head(folder: Path, result: Verification, last: Link) -> None:
    try:
        head = read_head(folder)
    except FormError as error:
        result.add(str(error))
        return
    if head is None:
        if result.records:
            result.add("the head is missing")
    elif head.sequence > last.sequence:
        result.add(f"records {last.sequence + 1} to {head.sequence} are missing at the end")
    elif head.sequence < last.sequence:
        result.add(
            f"records {head.sequence + 1} to {last.sequence} are beyond the head: added, or a crash"
            " that the next record will tell of"
        )
    elif head.digest != last.digest:
        result.add(f"record {last.sequence} is another one than the head names")


def _link(line: bytes, first_of: Path | None) -> Link:
    """The link of a line, which names the segment if it is its first. Raises FormError."""
    if not line.endswith(b"\n"):
        raise FormError("is unfinished: cut off, added, or a crash that the next record tells of")
    link = read_link(line[:-1])
    if first_of is not None and first_of.name != f"{link.sequence:020d}.jsonl":
        raise FormError(f"is record {link.sequence}, and the file is named otherwise")
    return link


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends; one that is longer than any record comes in pieces."""
    with path.open("rb") as file:
        while line := file.readline(MAX_RECORD + 1):
            yield line


def read_records(folder: Path, after: int = 0) -> Iterator[tuple[Link, Mapping[str, Any]]]:
    """Each record from the one after `after` on, in order; what is no record is passed over, as
    `verify` tells of it. Raises OSError."""
    paths = segments(folder)
    begins = [int(path.stem) for path in paths]
    for index, path in enumerate(paths):
        if index + 1 < len(paths) and begins[index + 1] <= after + 1:
            continue
        for line in _lines(path):
            try:
                link = read_link(line.rstrip(b"\n"))
                body = json.loads(line)
            except ValueError:
                continue
            if link.sequence > after and line.endswith(b"\n"):
                yield link, body


def read_newest(
    folder: Path, is_wanted: Callable[[Mapping[str, Any]], bool], files: int = 8
) -> Mapping[str, Any] | None:
    """The newest record that is wanted, of the newest files; None if there is none there."""
    for path in reversed(segments(folder)[-files:]):
        newest: Mapping[str, Any] | None = None
        for line in _lines(path):
            try:
                read_link(line.rstrip(b"\n"))
                body = json.loads(line)
            except ValueError:
                continue
            newest = body if is_wanted(body) else newest
        if newest is not None:
            return newest
    return None
