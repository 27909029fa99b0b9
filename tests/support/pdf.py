"""A PDF as poppler's tools read it: words, pictures and fonts with their places."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.support.environment import require

Rectangle = tuple[float, float, float, float]
_WORD = "{http://www.w3.org/1999/xhtml}word"
_PAGE = "{http://www.w3.org/1999/xhtml}page"


@dataclass(frozen=True)
class Page:
    """A page: its size in points, words and pictures with their places."""

    size: tuple[float, float]
    words: list[tuple[str, Rectangle]]
    pictures: list[Rectangle]


def pages(path: Path) -> list[Page]:
    """The pages of the file."""
    boxes = ElementTree.fromstring(_run("pdftotext", "-bbox", path, "-"))
    # At zoom 1 pdftohtml counts in points.
    layout = _run("pdftohtml", "-xml", "-zoom", "1", "-stdout", path)
    pictures = [
        [_picture(line) for line in page.splitlines() if line.startswith("<image")]
        for page in layout.split("<page ")[1:]
    ]
    return [
        Page(
            (float(page.get("width", 0)), float(page.get("height", 0))),
            [(word.text or "", _rectangle(word)) for word in page.iter(_WORD)],
            pictures[number],
        )
        for number, page in enumerate(boxes.iter(_PAGE))
    ]


def text(path: Path) -> str:
    """All words, without spaces and line ends."""
    return re.sub(r"[\s\u200b]+", "", _run("pdftotext", "-raw", path, "-"))


def fonts(path: Path) -> list[dict[str, str]]:
    """Name and whether it is embedded, by font."""
    lines = _run("pdffonts", path).splitlines()[2:]
    return [{"name": line.split()[0], "embedded": line.split()[-5]} for line in lines]


def render_pages(path: Path, out: Path) -> list[Path]:
    """Each page as a PNG; poppler complains of nothing."""
    assert _run("pdftoppm", "-r", "50", "-png", path, out) == ""
    return sorted(out.parent.glob(f"{out.name}*.png"))


def _run(program: str, *arguments: object) -> str:
    executable = shutil.which(program)
    require(executable is not None, f"{program} (poppler-utils)")
    process = subprocess.run(
        [str(executable), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def _rectangle(word: ElementTree.Element) -> Rectangle:
    x0, y0, x1, y1 = (float(word.get(name, 0)) for name in ("xMin", "yMin", "xMax", "yMax"))
    return (x0, y0, x1, y1)


def _picture(line: str) -> Rectangle:
    numbers = {name: float(value) for name, value in re.findall(r'(\w+)="([\d.]+)"', line)}
    left, top = numbers["left"], numbers["top"]
    return (left, top, left + numbers["width"], top + numbers["height"])
