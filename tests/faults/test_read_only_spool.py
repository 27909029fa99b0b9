"""The spool's file system turns read-only (as ext4 does after an error) and is writable again."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qc_daemon.spool.service_lock import NAME
from tests.support.dicom_objects import ultrasound
from tests.support.peers import store
from tests.support.receive_service import receive_service, stored_uids

OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A file system of its own, and how to mount it again `ro` or `rw`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)

    yield folder, remount
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_spool_is_a700_until_it_is_writable(
    tmp_path: Path, disk: tuple[Path, Callable[[str], None]]
) -> None:
    folder, remount = disk
    service = receive_service(tmp_path, spool=str(folder / "spool")).start()
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    try:
        first, second = ultrasound(), ultrasound()
        assert store(service.port, first) == [0x0000]
        remount("ro")
        assert store(service.port, second, second) == [OUT_OF_RESOURCES] * 2
        assert stored_uids(url) == [first.SOPInstanceUID]
        remount("rw")
        assert store(service.port, second) == [0x0000]
        assert stored_uids(url) == [first.SOPInstanceUID, second.SOPInstanceUID]
        assert service.events("process died") == []
        refused = service.events("object refused")
        assert {each["reason"] for each in refused} == {"spool: read-only file system"}
    finally:
        service.stop()
    files = [each for each in (folder / "spool").rglob("*") if each.is_file() and each.name != NAME]
    assert len(files) == 2
