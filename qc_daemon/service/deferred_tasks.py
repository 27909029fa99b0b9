"""Tasks that must not hold the supervisor up."""

import queue
import threading
import time
from collections.abc import Callable

from detector.errors import QCError
from qc_daemon.observe import log

_RETRY_SECONDS = 1.0


class DeferredTasks:
    """Runs tasks in order in a thread of its own, each again until it succeeds.

    After the end of a process the supervisor must wait neither for a locked database nor for a disk
    that hangs.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pending = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="deferred", daemon=True).start()

    def add(self, task: Callable[[], None]) -> None:
        """Run the task after the others. If it raises QCError or OSError, it is tried again."""
        with self._changed:
            self._pending += 1
        self._tasks.put(task)

    def wait(self, seconds: float) -> bool:
        """Whether all tasks have succeeded within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, seconds)

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            has_failed = False
            while not self._succeeds(task, quietly=has_failed):
                has_failed = True
                time.sleep(_RETRY_SECONDS)
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()

    def _succeeds(self, task: Callable[[], None], *, quietly: bool) -> bool:
        try:
            task()
        except (QCError, OSError) as error:
            if not quietly:
                reason = error.message if isinstance(error, QCError) else str(error.strerror)
                log.get(role="supervisor").warning("leases not released", reason=reason)
            return False
        return True
