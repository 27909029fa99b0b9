"""CPU seconds and memory of the report of one exam, by how many instances it has.

    .venv/bin/python benchmarks/report_size.py [--instances 500 2000 5000] [--objects sr]

Each size runs in a process of its own, whose peak is then its own too. The findings are the tests'
own; no picture is scored. Time is the report worker's alone: load, build, store with its jobs.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The tests' helpers: a script's own folder is all that Python puts on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.report_objects import nuchal_finding, source_instance, ultrasound_header
from tests.support.scored_exam import ScoredExam

STUDY = "1.2.826.0.1.3680043.10.1.2"


def measure(instances: int, objects: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of the report of an exam with so many instances."""
    with tempfile.TemporaryDirectory() as folder:
        scored_exam = ScoredExam(Path(folder), objects)
        for number in range(1, instances + 1):
            uid = f"1.2.826.0.1.3680043.10.2.{number}"
            scored_exam.receive(
                ultrasound_header(SOPInstanceUID=uid),
                nuchal_finding(source_instance(SOPInstanceUID=uid)),
            )
        scored_exam.close()
        start, cpu = time.perf_counter(), time.process_time()
        if not scored_exam.report():
            raise SystemExit("no report job was due")
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        if not scored_exam.sent():
            raise SystemExit(f"the report of {instances} instances was not built")
        return elapsed, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--objects", nargs="+", default=["sr"], help="what the destination wants")
    arguments = parser.parse_args()
    table = Table(title=f"Report of one exam: {', '.join(arguments.objects)}")
    for column in ("instances", "seconds", "CPU seconds", "CPU ms an instance", "peak MiB"):
        table.add_column(column, justify="right")
    context = multiprocessing.get_context("spawn")
    for instances in arguments.instances:
        with context.Pool(1) as pool:
            elapsed, cpu, peak = pool.apply(measure, (instances, arguments.objects))
        table.add_row(
            str(instances),
            f"{elapsed:.1f}",
            f"{cpu:.1f}",
            f"{1000 * cpu / instances:.1f}",
            f"{peak:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
