"""The mixed load of benchmarks/soak.py, shortened: healthy throughout, and nothing grows."""

import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks import soak
from tests.support.environment import require


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mixed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    require(shutil.which("Orthanc") is not None, "Orthanc")
    load, watch, outcome = soak.run(
        tmp_path, seconds=40, cine_seconds=30, hostile=True, drain_seconds=0
    )
    assert watch.failed == 0
    for what in ("examination", "burst", "again", "cine", "commitment reports"):
        assert load.sent[what], what
    assert not {what: count for what, count in load.refused.items() if count}
    assert load.served
    assert "0000H" not in load.served
    # Scoring all of it takes minutes: `make bench-soak` waits for that.
    assert not outcome.failed_jobs
    samples = defaultdict(list)
    for each in watch.samples:
        if each.role == "receive":
            samples[each.pid].append(each)
    assert len(samples) == 2
    for mine in samples.values():
        third = len(mine) // 3
        assert soak.is_flat(mine[third : 2 * third], mine[2 * third :])
