"""How often audits of made-up histories are right.

.venv/bin/python benchmarks/audits.py planted --seeds 101 110 --findings 30000
.venv/bin/python benchmarks/audits.py null --seeds 1 200 --findings 10000

`planted` counts what is named of what is planted, and what else is. `null` counts how many audits
call anybody where nothing is planted, for each family of tests, with the Wilson interval; the
stated rate is at most the false discovery rate of the audit, 5 %.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from qc_daemon.audit.audit import FALSE_DISCOVERY_RATE
from qc_daemon.audit.proportions import Proportion
from tests.support.histories import audit_history, extras, false_alarms, misses


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("planted", "null"))
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "LAST"), required=True)
    parser.add_argument("--findings", type=int, default=10_000)
    options = parser.parse_args()
    first, last = options.seeds
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
        print(f"stated: at most {FALSE_DISCOVERY_RATE} a family")


if __name__ == "__main__":
    main()
