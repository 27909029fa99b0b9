"""The audit log's chain: what is appended stays, and whatever else is done to it is found."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qc_daemon.audit_trail.chain import HEAD, AuditChain, Link, make_line, read_head, segments
from qc_daemon.audit_trail.event import Actor, ActorKind, AuditEvent, AuditKind
from qc_daemon.audit_trail.verification import read_records, verify

NOW = datetime(2026, 11, 30, 8, tzinfo=UTC)
SEGMENT_BYTES = 4000


def event(number: int) -> AuditEvent:
    return AuditEvent(
        AuditKind.REVIEWED,
        actor=Actor(ActorKind.ACCOUNT, "lee", "10.1.0.7"),
        study=f"1.2.{number}",
        patient_id=f"P{number}",
        objects={"finding": str(number)},
    )


def append(folder: Path, *numbers: int) -> Link:
    link = AuditChain(folder, SEGMENT_BYTES).append([(NOW, event(each)) for each in numbers])
    assert link is not None
    return link


def findings(folder: Path) -> list[str]:
    """The findings of the records, in order; of a record that tells of a repair its reason."""
    return [
        body["objects"]["finding"] if "objects" in body else body["detail"]["reason"]
        for _, body in read_records(folder)
    ]


def test_records_of_several_files_follow_each_other(tmp_path: Path) -> None:
    for number in range(1, 31):
        append(tmp_path, number)
    result = verify(tmp_path)
    assert (result.problems, result.records) == ([], 30)
    assert len(segments(tmp_path)) > 2
    assert findings(tmp_path) == [str(number) for number in range(1, 31)]
    assert [body["sequence"] for _, body in read_records(tmp_path, after=27)] == [28, 29, 30]
    head = read_head(tmp_path)
    assert head is not None
    assert result.last is not None
    assert (head.sequence, head.digest) == (result.last.sequence, result.last.digest)


def test_files_and_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    append(tmp_path / "log", 1)
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert all(each.stat().st_mode & 0o077 == 0 for each in (tmp_path / "log").iterdir())


def test_processes_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 25):
            append(tmp_path, number)

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(100 * each,)) for each in range(1, 5)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(120)
    assert verify(tmp_path).problems == []
    expected = {str(100 * each + more) for each in range(1, 5) for more in range(25)}
    assert (len(findings(tmp_path)), set(findings(tmp_path))) == (100, expected)


_WRITER = """
import sys
from pathlib import Path
from tests.audit_trail.test_chain import append
number = 0
while True:
    number += 1
    append(Path(sys.argv[1]), number)
    print(number, flush=True)
"""


def test_a_killed_writer_loses_no_record_that_it_was_told_of(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert writer.stdout is not None
    for _ in range(40):
        told = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    told = max([told, *map(int, writer.stdout.read().split())])
    writer.wait()
    append(tmp_path, 9999)
    assert verify(tmp_path).problems == []
    kept = [each for each in findings(tmp_path) if each.isdigit()]
    assert kept[:told] == [str(number) for number in range(1, told + 1)]
    assert kept[-1] == "9999"


# What is done to a log, each by what hypothesis draws.


def _change_byte(content: bytes, draw: Callable[[int], int]) -> bytes:
    at = draw(len(content))
    other = (content[at] + 1 + draw(255)) % 256
    return content[:at] + bytes([other]) + content[at + 1 :]


def _delete_line(content: bytes, draw: Callable[[int], int]) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw(len(lines))]
    return b"".join(lines)


def _insert_line(content: bytes, draw: Callable[[int], int]) -> bytes:
    """A record whose own digest is right, in any place."""
    lines = content.splitlines(keepends=True)
    at = draw(len(lines) + 1)
    before = json.loads(lines[max(0, at - 1)])
    body = {"kind": "reviewed", "success": True, "objects": {"finding": "4711"}}
    sequence = before["sequence"] + (1 if at else 0)
    lines.insert(at, make_line(sequence, NOW, body, before["digest"]) + b"\n")
    return b"".join(lines)


def _repeat_line(content: bytes, draw: Callable[[int], int]) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(draw(len(lines) + 1), lines[draw(len(lines))])
    return b"".join(lines)


def _insert_bytes(content: bytes, draw: Callable[[int], int]) -> bytes:
    at = draw(len(content) + 1)
    return content[:at] + bytes(draw(256) for _ in range(1 + draw(5))) + content[at:]


def _swap_lines(content: bytes, draw: Callable[[int], int]) -> bytes:
    lines = content.splitlines(keepends=True)
    first = draw(len(lines))
    second = (first + 1 + draw(len(lines) - 1)) % len(lines)
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def _cut_off(content: bytes, draw: Callable[[int], int]) -> bytes:
    return content[: draw(len(content))]


def _cut_lines_off(content: bytes, draw: Callable[[int], int]) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[: draw(len(lines))])


def _rewrite(content: bytes, draw: Callable[[int], int]) -> bytes:
    """A record is changed, and it and all after it in the file get digests that are right."""
    lines = content.splitlines()
    first = draw(len(lines))
    previous = json.loads(lines[first])["previous"]
    for index in range(first, len(lines)):
        body = json.loads(lines[index])
        sequence = body["sequence"]
        for name in ("sequence", "at", "previous", "digest"):
            body.pop(name)
        if index == first:
            body["patient_id"] = "another"
        lines[index] = make_line(sequence, NOW, body, previous)
        previous = json.loads(lines[index])["digest"]
    return b"".join(line + b"\n" for line in lines)


TAMPERINGS = (
    _change_byte,
    _delete_line,
    _insert_line,
    _repeat_line,
    _insert_bytes,
    _swap_lines,
    _cut_off,
    _cut_lines_off,
    _rewrite,
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log of 40 records in several files, which every example leaves as it was."""
    folder = tmp_path_factory.mktemp("audit")
    for number in range(1, 41):
        append(folder, number)
    assert len(segments(folder)) > 3
    yield folder
    assert verify(folder).problems == []


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_each_of_1000_random_tamperings_is_detected(log: Path, data: st.DataObject) -> None:
    def draw(below: int) -> int:
        return data.draw(st.integers(0, below - 1))

    tamper = data.draw(st.sampled_from(TAMPERINGS))
    path = data.draw(st.sampled_from([*segments(log), log / HEAD]))
    if path.name == HEAD:
        tamper = data.draw(st.sampled_from((_change_byte, _cut_off, _insert_bytes)))
    before = path.read_bytes()
    changed = tamper(before, draw)
    assert changed != before
    path.write_bytes(changed)
    try:
        assert not verify(log).is_sound, tamper.__name__
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_file_that_is_gone_or_has_another_name_is_detected(log: Path, which: int) -> None:
    path = segments(log)[which]
    moved = path.with_name("removed")
    path.rename(moved)
    try:
        assert not verify(log).is_sound
        moved.rename(path.with_name(f"{4:020d}.jsonl"))
        moved = path.with_name(f"{4:020d}.jsonl")
        assert not verify(log).is_sound
    finally:
        moved.rename(path)


def test_an_anchor_finds_a_log_that_was_written_anew(tmp_path: Path) -> None:
    for number in range(1, 6):
        anchor = append(tmp_path / "log", number)
    shutil.rmtree(tmp_path / "log")
    for number in (1, 2, 3, 4, 99, 6):
        append(tmp_path / "log", number)
    assert verify(tmp_path / "log").is_sound
    (problem,) = verify(tmp_path / "log", [anchor]).problems
    assert "record 5 is another one than was anchored" in problem


def test_an_anchor_finds_an_end_that_was_cut_off_with_the_head(tmp_path: Path) -> None:
    short = append(tmp_path, 1, 2, 3)
    copy = {path: path.read_bytes() for path in (*segments(tmp_path), tmp_path / HEAD)}
    anchor = append(tmp_path, 4, 5)
    for path, content in copy.items():
        path.write_bytes(content)
    assert verify(tmp_path, [short]).is_sound
    assert verify(tmp_path, [anchor]).problems == ["record 5, which was anchored, is missing"]


def test_moved_away_files_are_known_by_their_last_record(tmp_path: Path) -> None:
    for number in range(1, 31):
        append(tmp_path, number)
    first, second, *_ = segments(tmp_path)
    last = json.loads(first.read_bytes().splitlines()[-1])
    first.rename(tmp_path.parent / "archived.jsonl")
    assert f"{second.name} line 1 is record" in verify(tmp_path).problems[0]
    after = Link(last["sequence"], last["digest"])
    assert verify(tmp_path, after=after).is_sound
    wrong = Link(last["sequence"], "0" * 64)
    assert not verify(tmp_path, after=wrong).is_sound


def _break_off(folder: Path) -> None:
    with segments(folder)[-1].open("ab") as file:
        file.write(b'{"sequence":4,"at":"2026-11-30T08')


def _lose_head(folder: Path) -> None:
    (folder / HEAD).unlink()


def _spoil_head(folder: Path) -> None:
    (folder / HEAD).write_bytes(b"nothing")


def _set_head_back(folder: Path) -> None:
    body = json.loads(segments(folder)[0].read_bytes().splitlines()[0])
    (folder / HEAD).write_bytes(f"{1:020d} {body['digest']}\n".encode())


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_break_off, "33 bytes of an unfinished record removed"),
        (_lose_head, "the head was missing"),
        (_spoil_head, "the head could not be read"),
        (_set_head_back, "records 2 to 3 were beyond the head"),
    ],
)
def test_what_a_crash_may_leave_is_told_of_by_the_next_record(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    append(tmp_path, 1, 2, 3)
    harm(tmp_path)
    assert not verify(tmp_path).is_sound
    append(tmp_path, 4)
    assert verify(tmp_path).problems == []
    assert findings(tmp_path) == ["1", "2", "3", reason, "4"]


def test_a_crash_in_the_first_record_of_a_file_costs_no_other_record(tmp_path: Path) -> None:
    while len(segments(tmp_path)) < 2:
        last = append(tmp_path, 1)
    torn = segments(tmp_path)[-1]
    before = json.loads(segments(tmp_path)[0].read_bytes().splitlines()[-1])
    torn.write_bytes(torn.read_bytes()[:50])
    head = f"{before['sequence']:020d} {before['digest']}\n"
    (tmp_path / HEAD).write_bytes(head.encode())
    append(tmp_path, 2)
    assert verify(tmp_path).problems == []
    assert len(findings(tmp_path)) == last.sequence - 1 + 2


def test_going_on_hides_no_records_that_were_cut_off(tmp_path: Path) -> None:
    append(tmp_path, 1, 2, 3)
    path = segments(tmp_path)[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    append(tmp_path, 4)
    assert "is record 4, and 2 was due" in verify(tmp_path).problems[0]
    assert findings(tmp_path) == ["1", "records 2 to 3 were missing", "4"]


def test_what_people_typed_cannot_forge_a_record(tmp_path: Path) -> None:
    typed = 'x"}\n{"sequence":2,"at":"' + "\ud800" + "y" * 100_000
    odd = AuditEvent(AuditKind.REJECTED, objects={"instance": typed}, detail={typed: typed})
    AuditChain(tmp_path).append([(NOW, odd)])
    result = verify(tmp_path)
    assert (result.problems, result.records) == ([], 1)
