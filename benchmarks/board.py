"""From a stored image to the live board: how much longer than the model a person waits.

    .venv/bin/python benchmarks/board.py [--images 40] [--boards 1]

The service scores phantoms with the models that we ship. Images come one at a time by C-STORE, each
at a random moment after the one before was judged. A board in Chromium notes when its tiles change.
Printed are seconds, median and maximum: from the answer to C-STORE to the first change of the
board, which says that an image is being judged, or already what it is; to the tile that says what
it is; that less the time of its job (decoding, models, storing), which is the aim's "beyond the
model's time": at most 2 s.
"""

import argparse
import contextlib
import math
import random
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

from playwright.sync_api import Page
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qc_daemon.settings import load
from tests.support.accounts import add_account
from tests.support.browser import chromium, person
from tests.support.peers import association
from tests.support.service import Service
from training.phantom.dicom import exam

SETTINGS = """
[store]
url = "sqlite:///{folder}/qc.db"
spool = "{folder}/spool"
[receive]
port = 0
processes = 1
quiet_seconds = 3600
[web]
port = 0
[observe]
port = 0
"""
_PATIENCE_SECONDS = 120.0
_WATCH = """() => {
    window.changes = [];
    const note = () => {
        const digits = document.querySelector(".scoring")?.textContent.match(/\\d+/);
        window.changes.push([Date.now() / 1000, digits ? Number(digits[0]) : 0]);
    };
    new MutationObserver(note).observe(
        document.getElementById("board"), {childList: true, subtree: true, characterData: true});
}"""


def wait_for_change(page: Page, since: float, *, most_scoring: float = math.inf) -> float:
    """The moment since then at which the board changed, with so many images being judged at most.
    An image that is judged between two looks of the board is never shown as being judged."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        for moment, count in page.evaluate("window.changes"):
            if moment >= since and count <= most_scoring:
                return float(moment)
        page.wait_for_timeout(20)
    raise RuntimeError("the board does not change")


def job_seconds(port: int) -> float:
    """What all score jobs took so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    (line,) = re.findall(r'^qc_daemon_job_seconds_sum\{kind="score"\} (\S+)$', text, re.MULTILINE)
    return float(line)


def run(folder: Path, images: int, boards: int) -> list[tuple[float, float, float]]:
    """Of each image but the first, which warms up: seconds to its tile, to what it is, and those of
    its job."""
    service = Service(
        folder,
        SETTINGS.format(folder=folder),
        roles=("receive", "work", "schedule", "web"),
    ).start()
    chance = random.Random(1)
    stills: list[Dataset] = []
    results: list[tuple[float, float, float]] = []
    try:
        add_account(load(service.config), "lead", "lead")
        origin = f"http://localhost:{service.events('pages')[0]['port']}"
        observed = service.events("metrics")[0]["port"]
        with chromium() as browser, contextlib.ExitStack() as stack:
            pages = []
            for _ in range(boards):
                reader = stack.enter_context(person(browser, origin))
                pages.append(reader.log_in("lead", "/board"))
                pages[-1].wait_for_selector("#board", state="attached")
                pages[-1].evaluate(_WATCH)
            page = pages[0]
            for number in range(images + 1):
                if not stills:
                    stills = exam(number, cine_frames=0)
                before = job_seconds(observed)
                with association(service.port) as peer:
                    since = time.time()
                    if peer.send_c_store(stills.pop(0)).Status != 0:
                        raise RuntimeError("an image was refused")
                    answered = time.time()
                tile = wait_for_change(page, since)
                judged = wait_for_change(page, tile, most_scoring=0)
                job = job_seconds(observed) - before
                results.append((tile - answered, judged - answered, job))
                page.wait_for_timeout(chance.uniform(500, 2500))
    finally:
        service.end()
    return results[1:]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--boards", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-board-") as folder:
        results = run(Path(folder), arguments.images, arguments.boards)
    table = Table(title=f"{len(results)} images, one at a time; {arguments.boards} boards")
    table.add_column("seconds from the answer to C-STORE")
    table.add_column("median", justify="right")
    table.add_column("maximum", justify="right")
    for name, values in (
        ("to its tile", [tile for tile, _, _ in results]),
        ("to the tile that says what it is", [judged for _, judged, _ in results]),
        ("of its job", [job for _, _, job in results]),
        ("beyond its job", [judged - job for _, judged, job in results]),
    ):
        table.add_row(name, f"{median(values):.2f}", f"{max(values):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
