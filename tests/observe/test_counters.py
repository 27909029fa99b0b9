"""Counts of several processes add up, and outlive the process that made them."""

import json
import subprocess
import sys

import pytest

from qc_daemon.observe import counters
from qc_daemon.observe.counters import Board

COUNT = """
import json, os, sys, signal
from qc_daemon.observe import counters
fd, row, times = map(int, sys.argv[1:4])
counters.use(counters.Board(fd, ["delivered pacs", "failed pacs"]), row)
counters.put("associations", 5)
for _ in range(times):
    counters.stored("new", 100)
    counters.delivery("pacs", done=True)
    counters.delivery("gone", done=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_processes_add_up_and_a_successor_goes_on() -> None:
    board = Board.create(["delivered pacs", "failed pacs"])

    def run(row: int, times: int) -> None:
        done = subprocess.run(
            [sys.executable, "-c", COUNT, str(board.fd), str(row), str(times)],
            pass_fds=[board.fd],
            stderr=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == -9, done.stderr.decode()

    run(1, 3)
    run(2, 4)
    assert board.total("stored_new") == 7
    assert board.total("stored_bytes") == 700
    assert board.total("delivered pacs") == 7
    assert (board.total("associations"), board.most("associations")) == (10, 5)
    board.end(1)
    assert board.total("associations") == 5
    run(1, 1)
    assert board.total("stored_new") == 8


def test_a_board_is_made_again_from_what_is_handed_over() -> None:
    board = Board.create(counters.deliveries(["a", "b"]))
    handed = json.loads(json.dumps({"fd": board.fd, "more": board.more}))
    same = Board(**handed)
    same.put(3, "failed b", 2.0)
    assert board.get(3, "failed b") == 2.0
    assert same.names == board.names


def test_refusals_count_under_their_status_or_as_other() -> None:
    before = {name: counters.board().total(name) for name in counters.board().names}
    counters.refused(0xA700)
    counters.refused(0x0122)
    board = counters.board()
    assert board.total("refused_A700") == before["refused_A700"] + 1
    assert board.total("refused_other") == before["refused_other"] + 1


def test_a_name_that_is_not_on_the_board_is_an_error() -> None:
    with pytest.raises(KeyError):
        counters.add("patients")
