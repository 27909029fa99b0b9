"""Associations that we ask for: pynetdicom's, whose own thread steals no answer.

Before a `send_*` pynetdicom stops its thread (`_reactor_checkpoint`) and waits until it says so
(`_is_paused`). A thread that was let go a moment ago but has not run since still says so: it then
takes the answer for a message of its own, and the sender waits in vain until its timeout. So does a
sender whose association ends between its look at `is_established` and the stop.
"""

import threading
import time
from typing import Any


class _Checkpoint(threading.Event):
    """Where the thread stops; it looks again once it has said that it goes on.

    A sender clears it, then waits for an answer; without an association none will come.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self.set()

    def clear(self) -> None:
        super().clear()
        while not self._association._is_paused:
            time.sleep(0.001)
        if not self._association.is_established:
            self._association.dimse.msg_queue.put((None, None))

    def wait(self, timeout: float | None = None) -> bool:
        while super().wait(timeout):
            self._association._is_paused = False
            if self.is_set():
                return True
            self._association._is_paused = True
        return False


def steady(association: Any) -> Any:
    """The association just asked for, with that race mended; give it before the first `send_*`."""
    association._reactor_checkpoint = _Checkpoint(association)
    return association
