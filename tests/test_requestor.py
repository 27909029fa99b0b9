"""Associations that we ask for: no answer goes to the wrong thread, none lies unread."""

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pynetdicom import AE, evt

from qc_daemon.requestor import associate, steady
from tests.wire import US, Pacs, association, eventually, ultrasound


class Association(threading.Thread):
    """What pynetdicom's Association does between its thread and a `send_*`, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._reactor_checkpoint = threading.Event()
        self._reactor_checkpoint.set()
        self._is_paused = False
        self.is_established = True
        self.answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.turns = self.stolen = 0
        self.over = False
        # Its provider runs as long as it does.
        self.dul: Any = self

    def run(self) -> None:
        while not self.over:
            time.sleep(0)
            self._is_paused = True
            self._reactor_checkpoint.wait()
            self._is_paused = False
            self.turns += 1
            with contextlib.suppress(queue.Empty):
                self.answers.get_nowait()
                self.stolen += 1

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


def test_no_answer_is_stolen_and_the_thread_has_its_turns(hurried: None) -> None:
    made: Any = steady(Association())
    made.start()
    for number in range(3_000):
        made.send(number)
    made.over = True
    made.join()
    assert made.stolen == 0
    assert made.turns >= 3_000


def test_a_dead_provider_keeps_neither_thread_nor_sender_waiting() -> None:
    """As it was seen once: the thread stopped, the sender waiting for it, and nobody to bring any
    answer."""
    made: Any = steady(Association())
    made.dul = SimpleNamespace(is_alive=lambda: False)
    made.dimse = SimpleNamespace(msg_queue=queue.SimpleQueue())
    made.start()
    made._reactor_checkpoint.clear()
    assert made.dimse.msg_queue.get(timeout=10) == (None, None)
    # Stopped, it goes on by itself, to find that there is no provider.
    before = made.turns
    eventually(lambda: made.turns > before)
    made.over = True
    made.join(10)
    assert not made.is_alive()


def test_the_end_of_an_association_is_seen_between_two_sends() -> None:
    """However fast they follow one another, and whatever was lost."""
    pacs = Pacs().start()
    sent: list[bool] = []

    def send() -> None:
        with (
            association(pacs.port, called="PACS") as made,
            # It may end between the look and the send.
            contextlib.suppress(RuntimeError),
        ):
            while made.is_established:
                sent.append("Status" in made.send_c_store(ultrasound()))

    sender = threading.Thread(target=send)
    sender.start()
    eventually(lambda: len(sent) > 20)
    pacs.stop()
    sender.join(20)
    assert not sender.is_alive()
    assert sent[:20] == [True] * 20


def test_an_association_that_has_just_ended_keeps_no_sender_waiting() -> None:
    """Its thread has swallowed the news before the sender stops it."""
    pacs = Pacs().start()
    with association(pacs.port, called="PACS") as made:
        pacs.stop()
        eventually(lambda: not made.is_alive())
        # As a sender that looked a moment before.
        made.is_established = True
        made._reactor_checkpoint._association = SimpleNamespace(
            is_alive=made.is_alive,
            _is_paused=True,
            is_established=False,
            dimse=made.dimse,
            dul=made.dul,
        )
        assert "Status" not in made.send_c_store(ultrasound())
        made.is_established = False


def test_a_rejection_is_known_however_soon_it_came() -> None:
    """The connection is over before we look whether there is one."""
    server = AE("PACS")
    server.require_called_aet = True
    server.add_supported_context(US)
    listening = server.start_server(("127.0.0.1", 0), block=False)
    over = threading.Event()
    asker = AE("QCDAEMON")
    asker.add_requested_context(US)
    try:
        made = associate(
            asker,
            *listening.server_address,
            ae_title="ANOTHER",
            evt_handlers=[
                (evt.EVT_REQUESTED, lambda _event: over.wait(20)),
                (evt.EVT_CONN_CLOSE, lambda _event: over.set()),
            ],
        )
    finally:
        listening.shutdown()
    assert over.is_set()
    assert (made.is_rejected, made.is_aborted, made.is_established) == (True, False, False)
    assert made.acceptor.primitive.reason_str == "Called AE title not recognised"
