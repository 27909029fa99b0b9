"""The spool: durable, named by hash, honest about a disk that fails."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from qc_daemon.spool.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool_folder = Spool(tmp_path / "spool")
    spool_folder.prepare()
    return spool_folder


def test_adopted_under_its_hash(spool: Spool) -> None:
    with spool.open() as incoming:
        incoming.write(b"abc" * 1_000_000)
        incoming.write(b"end")
        path, sha256 = spool.adopt(incoming)
    content = b"abc" * 1_000_000 + b"end"
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert path == spool.root / sha256[:2] / f"{sha256}.dcm"
    assert path.read_bytes() == content
    assert list(spool.incoming.iterdir()) == []


def test_same_bytes_heal_a_damaged_copy(spool: Spool) -> None:
    paths = []
    for _ in range(2):
        with spool.open() as incoming:
            incoming.write(b"content")
            paths.append(spool.adopt(incoming)[0])
            paths[0].write_bytes(b"cont")
    assert paths[0] == paths[1]
    with spool.open() as incoming:
        incoming.write(b"content")
        spool.adopt(incoming)
    assert paths[0].read_bytes() == b"content"


def test_not_adopted_leaves_nothing(spool: Spool) -> None:
    with spool.open() as incoming:
        incoming.write(b"x" * (3 << 20))
    dropped = spool.open()
    dropped.write(b"y" * (3 << 20))
    del dropped
    assert [path for path in spool.root.rglob("*") if path.is_file()] == []


def test_sweep_removes_partial_files_of_a_dead_receiver(spool: Spool) -> None:
    (spool.incoming / "left.part").write_bytes(b"half")
    with spool.open() as incoming:
        incoming.write(b"whole")
        path, _ = spool.adopt(incoming)
    assert spool.sweep() == 1
    assert path.exists()
    assert list(spool.incoming.iterdir()) == []


def test_files_are_private(spool: Spool) -> None:
    with spool.open() as incoming:
        incoming.write(b"patient data")
        path, _ = spool.adopt(incoming)
    assert path.stat().st_mode & 0o077 == 0


def test_a_failing_sync_adopts_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with spool.open() as incoming:
        incoming.write(b"content")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            spool.adopt(incoming)
    assert [path for path in spool.root.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_raised_at_the_end(small_disk: Path) -> None:
    spool = Spool(small_disk)
    spool.prepare()
    with spool.open() as incoming:
        for _ in range(8):
            incoming.write(b"x" * (1 << 19))
        assert incoming.size == 8 << 19
        with pytest.raises(OSError, match="No space"):
            spool.adopt(incoming)
    assert list(spool.incoming.iterdir()) == []


def test_a_spool_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        Spool(tmp_path / "file" / "spool").prepare()
