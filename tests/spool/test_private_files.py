"""What holds patients' data is its owner's only, whatever the umask says and whoever made it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.records import schema
from qc_daemon.spool import private_files
from tests.support.command_line import qc_daemon_here
from tests.support.dicom_objects import ultrasound
from tests.support.peers import store
from tests.support.receive_service import receive_service
from tests.support.waiting import eventually


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Whoever forgets to name a mode makes files for everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[Path]:
    return [each for each in sorted(folder.rglob("*")) if private_files.is_open_to_others(each)]


@pytest.mark.usefixtures("no_umask")
def test_folders_and_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    private_files.make_folder(folder)
    private_files.make_folder(folder)
    private_files.write(folder / "file", b"1")
    os.close(private_files.create(folder / "new"))
    assert open_to_others(tmp_path) == []
    (folder / "file").chmod(0o644)
    private_files.write(folder / "file", b"2")
    assert open_to_others(tmp_path) == []
    assert (folder / "file").read_bytes() == b"2"
    with pytest.raises(FileExistsError):
        private_files.create(folder / "new")
    with pytest.raises(OSError, match="folder"):
        private_files.make_folder(folder / "new")


def test_an_older_version_s_file_is_tightened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not private_files.tighten(file)
    file.touch(0o644)
    assert private_files.tighten(file)
    assert not private_files.tighten(file)
    assert not private_files.is_open_to_others(file)


@pytest.mark.usefixtures("no_umask")
def test_the_database_and_its_copies_are_private(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'var' / 'qc.db'}"
    schema.upgrade(url)
    schema.backup(url, tmp_path / "var" / "copy.db")
    assert open_to_others(tmp_path) == []


def test_whatever_a_service_writes_is_private(tmp_path: Path) -> None:
    """Also what a version before it left readable."""
    folder = tmp_path / "made"
    folder.mkdir()
    url = f"sqlite:///{folder / 'var' / 'qc.db'}"
    schema.upgrade(url)
    spool = folder / "spool"
    (spool / "ab").mkdir(parents=True, mode=0o755)
    (folder / "var" / "qc.db").chmod(0o644)
    spool.chmod(0o755)
    before = os.umask(0o022)
    try:
        service = receive_service(folder, url=url, roles=("receive", "schedule")).start()
    finally:
        os.umask(before)
    try:
        assert store(service.port, ultrasound()) == [0]
        names = {"qc.db", "qc.db-wal", "qc.db-shm", "service.lock", "scrub.json"}
        eventually(lambda: names <= {each.name for each in folder.rglob("*")})
        # Settings and log are the test's own.
        ours = {service.config, service.log_file}
        assert set(open_to_others(folder)) == ours
    finally:
        assert service.stop() == 0
    assert set(open_to_others(folder)) == ours


def test_whatever_a_command_writes_is_private(tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    config.write_text('[store]\nurl = "sqlite:///var/qc.db"\nspool = "var/spool"\n')
    before = os.umask(0o022)
    try:
        for command in (
            ("upgrade",),
            ("backup", tmp_path / "copy.db"),
            ("backup", tmp_path / "all", "--with-spool"),
            ("restore", tmp_path / "all"),
        ):
            os.umask(0o022)
            result = qc_daemon_here("db", *command, "--config", config)
            assert result.returncode == 0, result.stderr
    finally:
        os.umask(before)
    assert open_to_others(tmp_path) == [config]
