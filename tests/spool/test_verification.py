"""A file in the spool is used only as the bytes that were acknowledged."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.spool import verification
from qc_daemon.spool.verification import Condition

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "bit flip": lambda c: c[:5000] + bytes([c[5000] ^ 1]) + c[5001:],
    "last bit": lambda c: c[:-1] + bytes([c[-1] ^ 0x80]),
    "truncated": lambda c: c[:-1],
    "empty": lambda c: b"",
    "longer": lambda c: c + b"\0",
    "another file": lambda c: c[::-1],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spool" / SHA256[:2] / f"{SHA256}.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def code(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(QCError) as caught:
        act()
    assert caught.value.failure_class is FailureClass.ALARM
    return caught.value.code


def test_the_bytes_that_came_are_intact(file: Path) -> None:
    assert verification.examine(file, SHA256, len(CONTENT)) is Condition.INTACT
    verification.verify(file, SHA256, len(CONTENT))
    assert b"".join(verification.blocks(file, SHA256)) == CONTENT
    with verification.open_verified(file, SHA256) as same:
        assert same.read_bytes() == CONTENT


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_other_bytes_are_damaged(file: Path, damage: str) -> None:
    file.write_bytes(DAMAGES[damage](CONTENT))
    assert verification.examine(file, SHA256) is Condition.DAMAGED
    assert verification.examine(file, SHA256, len(CONTENT)) is Condition.DAMAGED
    assert code(lambda: verification.verify(file, SHA256)) is ErrorCode.SPOOL_DAMAGED
    assert code(lambda: list(verification.blocks(file, SHA256))) is ErrorCode.SPOOL_DAMAGED


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(max_size=300), other=st.binary(max_size=300), block=st.integers(1, 64))
def test_blocks_of_damaged_files_lack_their_end(
    tmp_path: Path, content: bytes, other: bytes, block: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(other)
    sha256 = hashlib.sha256(content).hexdigest()
    output = bytearray()

    def read() -> None:
        for each in verification.blocks(path, sha256, block):
            output.extend(each)

    if other == content:
        read()
        assert bytes(output) == content
    else:
        assert code(read) is ErrorCode.SPOOL_DAMAGED
        assert len(output) < len(other) or not other


def test_a_missing_or_unreadable_file_is_an_alarm(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_permission(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("os.open", no_permission)
        assert verification.examine(file, SHA256) is Condition.UNREADABLE
        with pytest.raises(QCError, match="cannot be read: permission denied") as caught:
            verification.verify(file, SHA256)
        assert caught.value.failure_class is FailureClass.ALARM
    file.unlink()
    assert verification.examine(file, SHA256) is Condition.MISSING
    assert code(lambda: verification.verify(file, SHA256)) is ErrorCode.SPOOL_MISSING


def test_a_file_replaced_after_the_check_is_not_the_one_that_is_read(file: Path) -> None:
    with verification.open_verified(file, SHA256) as same:
        other = file.with_name("other")
        other.write_bytes(b"another object")
        other.replace(file)
        assert same.read_bytes() == CONTENT


def test_a_file_written_to_after_the_check_is_noticed(file: Path) -> None:
    # Older than the clock's tick.
    os.utime(file, (0, 0))
    with (
        pytest.raises(QCError) as caught,
        verification.open_verified(file, SHA256),
        file.open("r+b") as written,
    ):
        written.write(b"other")
    assert caught.value.code is ErrorCode.SPOOL_DAMAGED


def test_errors_inside_the_block_pass_unchanged(file: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left"),
        verification.open_verified(file, SHA256),
    ):
        raise OSError(28, "No space left on device")


def test_damaged_files_are_moved_and_none_is_lost(tmp_path: Path, file: Path) -> None:
    spool = tmp_path / "spool"
    for number, content in enumerate((b"first", b"second"), 1):
        file.write_bytes(content)
        moved = verification.move_to_damaged(spool, file, SHA256)
        assert moved is not None
        assert moved.read_bytes() == content
        assert not file.exists()
        assert len(verification.damaged_files(spool, SHA256)) == number
    assert [each.read_bytes() for each in verification.damaged_files(spool, SHA256)] == [
        b"first",
        b"second",
    ]


def test_an_intact_file_is_never_moved_to_damaged(tmp_path: Path, file: Path) -> None:
    assert verification.move_to_damaged(tmp_path / "spool", file, SHA256) is None
    assert file.read_bytes() == CONTENT
    file.unlink()
    assert verification.move_to_damaged(tmp_path / "spool", file, SHA256) is None


def test_a_file_is_named_by_the_hash_that_counts() -> None:
    other = "0" * 64
    assert verification.content_hash(Path(f"00/{other}.dcm"), SHA256) == other
    assert verification.content_hash(Path("elsewhere.dcm"), SHA256) == SHA256
