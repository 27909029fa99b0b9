"""Readers beside receiving, as benchmarks/web.py measures them, shortened: nothing fails, every
board lives, and memory stays flat. How much slower receiving gets is for the benchmark to say."""

from pathlib import Path

import pytest

from benchmarks import web


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_readers_beside_receiving_leave_nothing_behind(tmp_path: Path) -> None:
    outcome = web.run(
        tmp_path,
        senders=2,
        readers=20,
        boards=4,
        think_seconds=1.0,
        rounds=2,
        alone_seconds=5,
        beside_seconds=30,
    )
    assert min(pace.rate for pace in (*outcome.alone, *outcome.beside)) > 0
    assert len(outcome.ratios) == 2
    assert len(outcome.answers.seconds) > 100
    assert len(outcome.answers.events) == 2 * 4
    assert min(outcome.answers.events) > 0
    assert outcome.memory_ratio < 1.1
