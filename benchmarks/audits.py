"""How often audits of made-up histories are right, and what they cost.

.venv/bin/python benchmarks/audits.py planted --seeds 101 110 --findings 30000
.venv/bin/python benchmarks/audits.py null --seeds 1 200 --findings 10000
.venv/bin/python benchmarks/audits.py cost --seeds 1 1 --findings 100000

`planted` counts what is named of what is planted, and what else is. `null` counts how many audits
call anybody where nothing is planted, for each family of tests, with the Wilson interval; the
stated rate is at most the false discovery rate of the audit, 1 %, and of trends 5 %. `cost` imports
a history into a new SQLite database and audits it, each in a process of its own: seconds, and the
largest memory of the process (Linux).
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from qc_daemon.audit.audit import FALSE_DISCOVERY_RATE
from qc_daemon.audit.statistics.proportions import Proportion
from qc_daemon.audit.subjects.flags import TREND_FALSE_DISCOVERY_RATE
from qc_daemon.operations.audits import run_audit
from qc_daemon.operations.result_import import import_findings
from qc_daemon.records import schema
from qc_daemon.settings import load
from tests.support.histories import audit_history, extras, false_alarms, misses
from training.phantom.history import write_history


def import_history(path: Path) -> None:
    """Store the findings of a file."""
    import_findings(load(None), [path])


def audit_last_day(_path: Path) -> None:
    """The audit of the last day with images."""
    run_audit(load(None))


def measure(name: str, step: Callable[[Path], None], path: Path) -> None:
    """Print what the step takes in this process."""
    wall, processor = time.monotonic(), time.process_time()
    step(path)
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    print(f"{name}: {wall:.1f} s, CPU {processor:.1f} s, {peak_memory():.2f} GiB", flush=True)


def peak_memory() -> float:
    """The largest memory of this process so far, GiB.

    By VmHWM, which begins anew with the program: ru_maxrss of a spawned child begins with what its
    parent held, here the history that was made up.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]
    return int(kilobytes) / 2**20


def measure_cost(seed: int, findings: int) -> None:
    """Print what the import and the audit of a history take."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QC_DAEMON_STORE__URL"] = f"sqlite:///{folder}/qc.db"
        schema.upgrade(load(None).store.url)
        path = write_history(Path(folder) / "history", seed, findings)
        # A process each: the largest memory of the import must not hide the audit's.
        processes = get_context("spawn")
        for name, step in (("import", import_history), ("audit", audit_last_day)):
            arguments = (f"{name} of {findings}", step, path)
            process = processes.Process(target=measure, args=arguments)
            process.start()
            process.join()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("planted", "null", "cost"))
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "LAST"), required=True)
    parser.add_argument("--findings", type=int, default=10_000)
    options = parser.parse_args()
    first, last = options.seeds
    if options.kind == "cost":
        for seed in range(first, last + 1):
            measure_cost(seed, options.findings)
        return
    counts = Counter[str]()
    for seed in range(first, last + 1):
        truth, content = audit_history(seed, options.findings, is_null=options.kind == "null")
        if options.kind == "null":
            problems = false_alarms(content)
        else:
            missed = [f"missed: {each}" for each in misses(truth, content)]
            problems = missed + extras(truth, content)
        print(f"seed {seed}: {'; '.join(problems) or 'right'}", flush=True)
        counts.update(problems)
        counts.update(["any"] if problems else [])
    total = last - first + 1
    for name, count in counts.most_common():
        low, high = Proportion(count, total).interval()
        print(f"{name}: {count} of {total} ({low:.3f} to {high:.3f})")
    if options.kind == "null":
        print(f"stated: at most {FALSE_DISCOVERY_RATE}, of trends {TREND_FALSE_DISCOVERY_RATE}")


if __name__ == "__main__":
    main()
