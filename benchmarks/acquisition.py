"""Milliseconds that facts of acquisition add to an image: read, through the child, and stored.

    .venv/bin/python benchmarks/acquisition.py [FOLDER ...] [--repeat 15]

Of each file the best of the repeats, in turn with and without the facts; the table has median and
maximum over the files. Stored: one transaction in SQLite of its own, with two operators.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pydicom.config
from rich.console import Console
from rich.table import Table

# The tests' helpers: a script's own folder is all that Python puts on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detector.errors import QCError
from qc_daemon.dicom.acquisition import Acquisition, Operator, read_acquisition_file
from qc_daemon.records import schema
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.clock import utc_now
from qc_daemon.records.store import Store
from qc_daemon.score.decode import DecodeProcess
from tests.support.records import Records

FACTS = Acquisition(
    operators=(Operator("Doe^Jane"), Operator("Roe^Richard")),
    serial_number="7",
    institution="St. Mary's",
    acquired="2026-11-29T08:15:00",
)


Clock = Callable[[], float]


def milliseconds(call: Callable[[], object], clock: Clock = time.thread_time) -> float:
    start = clock()
    call()
    return (clock() - start) * 1e3


def best(repeat: int, *calls: tuple[Callable[[], object], Clock]) -> list[float]:
    """The best time of each call, called in turn."""
    times = [[milliseconds(*call) for call in calls] for _ in range(repeat)]
    return [min(each) for each in zip(*times, strict=True)]


def read_times(paths: list[Path], repeat: int) -> Iterator[list[float]]:
    """For each image: the reader alone, the child's summary without and with the facts."""
    with DecodeProcess() as decoder:
        for path in paths:
            with suppress(QCError):
                decoder.summary(path)
                yield best(
                    repeat,
                    (lambda path=path: read_acquisition_file(path), time.thread_time),
                    (lambda path=path: decoder.summary(path), time.perf_counter),
                    (lambda path=path: decoder.summary_and_acquisition(path), time.perf_counter),
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
    table = Table(title=f"Facts of acquisition, ms an image ({len(rows)} files)")
    for column in ("what", "median", "maximum"):
        table.add_column(column, justify="left" if column == "what" else "right")
    added = [after - before for before, after in zip(without, with_facts, strict=True)]
    for what, times in (
        ("reader alone, CPU", alone),
        ("summary by the child, without", without),
        ("summary by the child, with", with_facts),
        ("added in the child", added),
        ("stored, in a transaction that is open anyway, CPU", stored),
    ):
        table.add_row(what, f"{statistics.median(times):.2f}", f"{max(times):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
