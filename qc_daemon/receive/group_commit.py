"""Group commit: the writes of several associations go into one transaction.

A commit costs a flush of the disk and, on SQLite, the one write lock. The thread that gets the lock
first commits the writes of all that wait for it too.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from sqlalchemy.orm import Session

from qc_daemon.records.store import Store

T = TypeVar("T")


class _Request(Generic[T]):
    """A write, and its result or error once it is done."""

    def __init__(self, order: str, work: Callable[[Session], T]) -> None:
        self.order = order
        self.work = work
        self.is_done = False
        self.result: T | None = None
        self.error: Exception | None = None


class GroupCommit:
    """Groups the writes of this process's threads to one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._waiting: list[_Request[object]] = []

    def write(self, order: str, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction and commit it; returns its result.

        If the shared transaction fails, `work` runs again in one of its own. `order` sorts the
        writes of a transaction, so that two processes lock rows in the same order. Raises what
        `work` raises, QCError, SQLAlchemyError.
        """
        request: _Request[T] = _Request(order, work)
        with self._lock:
            self._waiting.append(request)  # type: ignore[arg-type]
        with self._write_lock:
            if not request.is_done:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                self._run(sorted(batch, key=lambda each: each.order))
        if request.error is not None:
            raise request.error
        return cast(T, request.result)

    def _run(self, batch: list[_Request[object]]) -> None:
        try:
            with self.store.begin() as session:
                for each in batch:
                    each.result = each.work(session)
        except Exception as error:
            if len(batch) > 1:
                # One of them cannot be written; the others must not fail with it.
                for each in batch:
                    self._run([each])
                return
            batch[0].error = error
        for each in batch:
            each.is_done = True
