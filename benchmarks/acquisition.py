"""CPU milliseconds that facts of acquisition add to an image: read from its header, and stored.

    .venv/bin/python benchmarks/acquisition.py [FOLDER ...] [--repeat 15]

Of each file the best of the repeats, in turn with and without the facts; the table has median and
maximum over the files. Stored: one transaction in SQLite of its own, with two operators.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pydicom.config
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table

# The tests' helpers: a script's own folder is all that Python puts on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detector.errors import QCError
from detector.imaging.dicom_file import open_dicom_file
from detector.imaging.reader import summarise_image
from qc_daemon.dicom.acquisition import Acquisition, Operator, read_acquisition
from qc_daemon.records import schema
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.clock import utc_now
from qc_daemon.records.store import Store
from tests.support.records import Records

FACTS = Acquisition(
    operators=(Operator("Doe^Jane"), Operator("Roe^Richard")),
    serial_number="7",
    institution="St. Mary's",
    acquired="2026-11-29T08:15:00",
)


def milliseconds(call: Callable[[], object]) -> float:
    """CPU milliseconds of this thread."""
    start = time.thread_time()
    call()
    return (time.thread_time() - start) * 1e3


def best(repeat: int, *calls: Callable[[], object]) -> list[float]:
    """The best time of each call, called in turn."""
    times = [[milliseconds(call) for call in calls] for _ in range(repeat)]
    return [min(each) for each in zip(*times, strict=True)]


def read_and_send(dataset: Dataset) -> Acquisition:
    """The facts, as they come through the child's socket."""
    message = json.dumps(read_acquisition(dataset).to_json())
    return Acquisition.from_json(json.loads(message))


def read_times(paths: list[Path], repeat: int) -> Iterator[list[float]]:
    """For each image: the facts of a header that is read, the summary without and with them."""
    for path in paths:
        with suppress(QCError), open_dicom_file(path) as source:
            summarise_image(path)
            yield best(
                repeat,
                lambda dataset=source.dataset: read_and_send(dataset),
                lambda path=path: summarise_image(path),
                lambda path=path: summarise_image(path, read_elements=read_and_send),
            )


def store_times(count: int) -> list[float]:
    """Within the transaction that the score job has anyway: the facts of new images."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/qc.db"
        schema.upgrade(url)
        records = Records(Store(url))
        ids = [records.image().revision_id for _ in range(count)]
        times = []
        for id in ids:
            with records.store.begin() as session:
                times.append(
                    milliseconds(
                        lambda session=session, id=id: acquisitions.store(
                            session, id, FACTS, "US1", utc_now()
                        )
                    )
                )
        records.store.close()
        return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = [Path("../shared/data/us_dicom")]
    parser.add_argument("folders", type=Path, nargs="*", default=default)
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    paths = [path for folder in arguments.folders for path in sorted(folder.rglob("*.dcm"))]
    rows = list(read_times(paths, arguments.repeat))
    if not rows:
        raise SystemExit(f"no images in {', '.join(map(str, arguments.folders))}")
    alone, without, with_facts = zip(*rows, strict=True)
    stored = store_times(500)
    table = Table(title=f"Facts of acquisition, CPU ms an image ({len(rows)} files)")
    for column in ("what", "median", "maximum"):
        table.add_column(column, justify="left" if column == "what" else "right")
    added = [after - before for before, after in zip(without, with_facts, strict=True)]
    for what, times in (
        ("read from the header", alone),
        ("summary of the image, without", without),
        ("summary of the image, with", with_facts),
        ("added to the summary", added),
        ("stored, in a transaction that is open anyway", stored),
    ):
        table.add_row(what, f"{statistics.median(times):.2f}", f"{max(times):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
