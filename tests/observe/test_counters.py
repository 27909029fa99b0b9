"""Counts of several processes add up, and outlive the process that made them."""

import json
import subprocess
import sys

import pytest

from qc_daemon.observe import counters
from qc_daemon.observe.counters import SharedCounters

COUNT = """
import json, os, sys, signal
from qc_daemon.observe import counters
fd, row, times = map(int, sys.argv[1:4])
counters.use(counters.SharedCounters(fd, ["delivered pacs", "failed pacs"]), row)
counters.set("associations", 5)
for _ in range(times):
    counters.count_stored("new", 100)
    counters.count_delivery("pacs", done=True)
    counters.count_delivery("gone", done=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counts_of_two_processes_add_up_and_a_successor_continues_them() -> None:
    shared = SharedCounters.create(["delivered pacs", "failed pacs"])

    def run(row: int, times: int) -> None:
        process = subprocess.run(
            [sys.executable, "-c", COUNT, str(shared.fd), str(row), str(times)],
            pass_fds=[shared.fd],
            stderr=subprocess.PIPE,
            check=False,
        )
        assert process.returncode == -9, process.stderr.decode()

    run(1, 3)
    run(2, 4)
    assert shared.total("stored_new") == 7
    assert shared.total("stored_bytes") == 700
    assert shared.total("delivered pacs") == 7
    assert (shared.total("associations"), shared.maximum("associations")) == (10, 5)
    shared.reset_gauges(1)
    assert shared.total("associations") == 5
    run(1, 1)
    assert shared.total("stored_new") == 8


def test_child_process_opens_the_counters_from_fd_and_names() -> None:
    shared = SharedCounters.create(counters.delivery_names(["a", "b"]))
    orders = json.loads(json.dumps({"fd": shared.fd, "more": shared.more}))
    same = SharedCounters(**orders)
    same.set(3, "failed b", 2.0)
    assert shared.get(3, "failed b") == 2.0
    assert same.names == shared.names


def test_refusals_count_under_their_status_or_as_other() -> None:
    before = {name: counters.shared().total(name) for name in counters.shared().names}
    counters.count_refused(0xA700)
    counters.count_refused(0x0122)
    shared = counters.shared()
    assert shared.total("refused_A700") == before["refused_A700"] + 1
    assert shared.total("refused_other") == before["refused_other"] + 1


def test_unknown_counter_raises_key_error() -> None:
    with pytest.raises(KeyError):
        counters.add("patients")
