"""Associations that we ask for: pynetdicom's, with two races mended.

A peer that rejects at once has closed the connection before whoever asked looks whether there is
one: pynetdicom (3.0.4) then aborts, and the rejection lies unread.

Before a `send_*` pynetdicom stops its thread (`_reactor_checkpoint`) and waits until it says so
(`_is_paused`). A thread that was let go a moment ago but has not run since still says so: it then
takes the answer for a message of its own, and the sender waits in vain until its timeout. So does a
sender whose association ends between its look at `is_established` and the stop.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ

_MOMENT = 0.0005
# How long the thread stays stopped before it looks whether there still is a connection.
_LOOK_SECONDS = 0.5


class _Checkpoint(threading.Event):
    """Where the thread stops; cleared by a sender, set when that has its answer.

    The thread looks again once it has said that it goes on. Between two sends it has its turn, or
    it would never learn that the association has ended. Neither waits for the other once the
    association's provider, which brings every answer, has ended.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self._turn = False
        self.set()

    def set(self) -> None:
        self._turn = True
        super().set()

    def clear(self) -> None:
        while self._turn and self._lives():
            time.sleep(_MOMENT)
        super().clear()
        while not self._association._is_paused and self._lives():
            time.sleep(_MOMENT)
        self._association._is_paused = True
        if not (self._association.is_established and self._lives()):
            # No answer will come.
            self._association.dimse.msg_queue.put((None, None))

    def wait(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while until is None or time.monotonic() < until:
            if super().wait(_LOOK_SECONDS):
                self._association._is_paused = False
                if self.is_set():
                    self._turn = False
                    return True
                self._association._is_paused = True
            elif not self._lives():
                # The thread goes on, finds that, and ends.
                return True
        return False

    def _lives(self) -> bool:
        return bool(self._association.is_alive() and self._association.dul.is_alive())


def associate(
    ae: AE, host: str, port: int, *, evt_handlers: Sequence[Any] = (), **options: Any
) -> Any:
    """The association that `AE.associate` makes of the same arguments, established or not."""
    rejections: list[A_ASSOCIATE_RJ] = []

    def received(event: Any) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    association = ae.associate(
        host, port, evt_handlers=[*evt_handlers, (evt.EVT_PDU_RECV, received)], **options
    )
    if rejections and not association.is_rejected:
        association.is_rejected, association.is_aborted = True, False
        association.acceptor.primitive = rejections[0].to_primitive()
    return steady(association)


def steady(association: Any) -> Any:
    """An association whose thread steals no answer; give it before the first `send_*`."""
    association._reactor_checkpoint = _Checkpoint(association)
    return association
