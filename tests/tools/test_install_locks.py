"""The locks that hosts are installed from are parts of the one lock, and complete."""

import hashlib
import re
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from detector.console import UsageError
from tests.support.environment import ROOT
from tools import install_locks

LOCKS = ROOT / "deploy" / "requirements"
DEVELOPERS = {"pytest", "ruff", "mypy", "hypothesis", "playwright", "uv", "import-linter"}


@pytest.fixture(scope="module")
def whole() -> dict[str, str]:
    return install_locks.read_lock((ROOT / "requirements.lock").read_text())


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    return install_locks.read_lock((LOCKS / "service.lock").read_text())


@pytest.fixture(scope="module")
def models() -> dict[str, str]:
    return install_locks.read_lock((LOCKS / "models.lock").read_text())


def needs(name: str) -> Iterator[str]:
    """What a package needs on this system, as its own metadata say; extras are not followed."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def test_each_entry_is_one_of_the_whole_lock(
    whole: dict[str, str], service: dict[str, str], models: dict[str, str]
) -> None:
    assert {name: whole.get(name) for name in service | models} == service | models
    assert all("--hash=sha256:" in entry for entry in (service | models).values())


def test_scoring_is_apart_and_developers_tools_are_in_neither(
    whole: dict[str, str], service: dict[str, str], models: dict[str, str]
) -> None:
    assert set(service) & set(models) == set()
    assert set(install_locks.MODELS) <= set(models)
    assert set(whole) >= DEVELOPERS
    assert DEVELOPERS & set(service | models) == set()


def test_what_the_product_asks_for_is_there(
    service: dict[str, str], models: dict[str, str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
    assert asked <= set(service | models)


def test_nothing_that_a_package_needs_is_missing(
    service: dict[str, str], models: dict[str, str]
) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    dropped = {Requirement(each).name for each in settings["override-dependencies"]}
    locked = set(service | models)
    missing = {(name, each) for name in locked for each in needs(name)}
    assert sorted(pair for pair in missing if pair[1] not in locked | dropped) == []
    # A host that does not score has all that it needs without the models.
    missing = {(name, each) for name in service for each in needs(name)}
    assert sorted(pair for pair in missing if pair[1] not in set(service) | dropped) == []


def test_an_entry_keeps_its_hashes() -> None:
    first = "a==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    text = first + "b-c==2.0+cpu \\\n    --hash=sha256:cc\n"
    entries = install_locks.read_lock(text)
    assert list(entries) == ["a", "b-c"]
    assert "".join(entries.values()) == text
    assert install_locks.version_of(entries["b-c"]) == "2.0+cpu"
    assert install_locks.choose(["b-c", "a"], entries) == text


def test_a_package_outside_of_the_whole_lock_is_named() -> None:
    with pytest.raises(UsageError, match=r"lacks b, c; run make lock"):
        install_locks.choose(["c", "a", "b"], {"a": "a==1\n"})


def make_wheel(folder: Path, name: str, version: str) -> str:
    """A wheel without content, as PyTorch's index would have it; returns its SHA-256."""
    folder.mkdir(parents=True)
    path = folder / f"{name}-{version}-cp311-cp311-manylinux_2_28_x86_64.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_x86_64\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    link = f'<a href="{path.name.replace("+", "%2B")}#sha256={sha256}">{path.name}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    return sha256


@pytest.mark.slow
def test_the_pair_without_cuda_is_locked_from_an_index_of_its_own(
    tmp_path: Path, whole: dict[str, str], service: dict[str, str]
) -> None:
    index = tmp_path / "index"
    hashes = {
        name: make_wheel(index / name, name, f"{install_locks.version_of(whole[name])}+cpu")
        for name in install_locks.PAIR
    }
    (tmp_path / "service.lock").write_text((LOCKS / "service.lock").read_text())
    install_locks.write_cpu_lock(tmp_path, index.as_uri())
    text = (tmp_path / "models-cpu.lock").read_text()
    assert text.startswith(f"--extra-index-url {index.as_uri()}\n")
    cpu = install_locks.read_lock(text)
    for name, sha256 in hashes.items():
        assert cpu[name].startswith(f"{name}=={install_locks.version_of(whole[name])}+cpu ")
        assert re.findall(r"sha256:(\w+)", cpu[name]) == [sha256]
    assert [name for name in cpu if name.startswith("nvidia-") and name != "nvidia-ml-py"] == []
    assert {"ultralytics", "transformers", "timm"} <= set(cpu)
    rest = {name: entry for name, entry in cpu.items() if name not in hashes}
    assert rest == {name: whole[name] for name in rest}
    assert set(cpu) & set(service) == set()
