"""The thread of an association that we asked for takes no answer meant for a sender."""

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from qc_daemon.requestor import steady
from tests.wire import Pacs, association, eventually, ultrasound


class Association:
    """What pynetdicom's Association does between its thread and a `send_*`, and nothing else."""

    def __init__(self) -> None:
        self._reactor_checkpoint = threading.Event()
        self._reactor_checkpoint.set()
        self._is_paused = False
        self.is_established = True
        self.answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.stolen = 0
        self.over = False

    def run(self) -> None:
        while not self.over:
            time.sleep(0)
            self._is_paused = True
            self._reactor_checkpoint.wait()
            self._is_paused = False
            try:
                self.answers.get_nowait()
                self.stolen += 1
            except queue.Empty:
                pass

    def send(self, number: int) -> None:
        self._reactor_checkpoint.clear()
        while not self._is_paused:
            time.sleep(0)
        self.answers.put(number)
        time.sleep(0)
        with contextlib.suppress(queue.Empty):
            self.answers.get_nowait()
        self._reactor_checkpoint.set()


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads that change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_an_association_that_has_just_ended_keeps_no_sender_waiting() -> None:
    """Its thread has swallowed the news before the sender stops it."""
    pacs = Pacs().start()
    with association(pacs.port, called="PACS") as made:
        pacs.stop()
        eventually(lambda: not made.is_alive())
        # As a sender that looked a moment before.
        made.is_established = True
        made.kill = lambda: None
        made._reactor_checkpoint._association = SimpleNamespace(
            _is_paused=True, is_established=False, dimse=made.dimse
        )
        assert "Status" not in made.send_c_store(ultrasound())
        made.is_established = False


def test_no_answer_is_stolen(hurried: None) -> None:
    association: Any = steady(Association())
    thread = threading.Thread(target=association.run)
    thread.start()
    for number in range(20_000):
        association.send(number)
    association.over = True
    thread.join()
    assert association.stolen == 0
