"""The Debian package: what is in it, and what lintian says of it."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.environment import ROOT

pytestmark = pytest.mark.slow

DEBIAN = ROOT / "deploy" / "debian"


def build(folder: Path) -> Path:
    """The package, made into the folder."""
    subprocess.run(
        ["sh", str(DEBIAN / "make_package.sh"), str(folder)], check=True, capture_output=True
    )
    (package,) = folder.glob("*.deb")
    return package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"))


def deb(*arguments: str | Path) -> str:
    process = subprocess.run(
        ["dpkg-deb", *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return process.stdout


def paths_by_mode(package: Path) -> dict[str, str]:
    """Modes of files and folders, by path; owned by root, all of them."""
    lines = [line.split(maxsplit=5) for line in deb("--contents", package).splitlines()]
    assert {line[1] for line in lines} == {"root/root"}
    return {line[5].removeprefix(".").split(" -> ")[0]: line[0] for line in lines}


def test_lintian_finds_no_error_and_no_warning(package: Path) -> None:
    process = subprocess.run(
        ["lintian", "--profile", "debian", "--allow-root", str(package)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    faults = [line for line in process.stdout.splitlines() if line.startswith(("E:", "W:"))]
    assert (faults, process.returncode) == ([], 0)


def test_the_whole_product_is_in_it_and_nothing_of_developers(package: Path) -> None:
    modes = paths_by_mode(package)
    listed = subprocess.run(
        ["git", "ls-files", "qc_daemon", "detector", "model", "training", "migrations"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    missing = [path for path in listed if f"/usr/share/qc-daemon/{path}" not in modes]
    assert (missing, len(listed) > 500) == ([], True)
    assert modes["/usr/bin/qc-daemon"] == "-rwxr-xr-x"
    assert modes["/usr/share/qc-daemon/deploy/install.sh"] == "-rwxr-xr-x"
    assert "/usr/lib/systemd/system/qc-daemon@.service" in modes
    assert [path for path in modes if re.search(r"/tests?/|__pycache__|\.pyc$|/\.git", path)] == []


def test_its_control_file_has_the_version_and_no_one_may_write_to_it(package: Path) -> None:
    version = re.search(r'(?m)^version = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert version is not None
    assert deb("--field", package, "Version").strip() == version[1]
    assert "python3-venv" in deb("--field", package, "Depends")
    assert [path for path, mode in paths_by_mode(package).items() if mode[8] == "w"] == []


def test_the_same_commit_gives_the_same_package(package: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == package.read_bytes()
