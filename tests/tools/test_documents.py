"""The documents name only files and folders that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = sorted(
    path.name
    for path in ROOT.iterdir()
    if path.is_dir() and not path.name.startswith(".") and (path / "__init__.py").is_file()
)
FOLDERS = {*ROOMS, "benchmarks", "deploy", "docs", "tests", "tools"}
OUTPUT_FOLDERS = {"runs", "demo-out"}  # Folders that commands write; nothing of them is kept.

# A path with a folder in it, wherever it stands; not a part of a longer path.
PATH = re.compile(r"(?<![\w./<-])([A-Za-z_][\w-]*(?:/[\w.-]+)+)")
SOURCE_FILE = re.compile(r"\.(?:py|sh|md|html)$")
URL = re.compile(r"https?://\S+")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def named_paths(text: str) -> Iterator[str]:
    """Whatever reads as a file or folder of this repository."""
    for match in PATH.finditer(URL.sub("", text)):
        path = match[1].rstrip(".")
        first = path.split("/")[0]
        if first in FOLDERS or (SOURCE_FILE.search(path) and first not in OUTPUT_FOLDERS):
            yield path


def exists(path: str) -> bool:
    """From the root, or as documents of the service abbreviate it."""
    return (ROOT / path).exists() or (ROOT / "qc_daemon" / path).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    paths = set(named_paths(document.read_text(encoding="utf-8")))
    assert sorted(path for path in paths if not exists(path)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document: Path) -> None:
    targets = LINK.findall(URL.sub("", document.read_text(encoding="utf-8")))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_a_path_that_does_not_exist_is_an_error() -> None:
    text = "see `qc_daemon/gone.py`, `receive/receiver.py` and https://example.org/docs/away.md"
    assert [path for path in named_paths(text) if not exists(path)] == ["qc_daemon/gone.py"]
