"""Group commit: what several associations want written goes into one transaction.

A commit costs a disk flush and, on SQLite, a turn at the one write lock. Whoever gets the turn
first takes along all that came meanwhile; the others find theirs done.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from sqlalchemy.orm import Session

from qc_daemon.records.store import Store

T = TypeVar("T")


class _Request(Generic[T]):
    def __init__(self, order: str, work: Callable[[Session], T]) -> None:
        self.order = order
        self.work = work
        self.done = False
        self.result: T | None = None
        self.error: Exception | None = None


class GroupCommit:
    """Writes of this process's threads to one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Request[object]] = []

    def write(self, order: str, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction, committed when this returns; its result.

        It may be run again in one of its own if the shared one fails. `order` sorts the works of a
        transaction, so that two processes lock rows in the same order. Raises what `work` raises,
        QCError, SQLAlchemyError.
        """
        request: _Request[T] = _Request(order, work)
        with self._lock:
            self._waiting.append(request)  # type: ignore[arg-type]
        with self._turn:
            if not request.done:
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
                # One of them cannot be written: the others must not pay for it.
                for each in batch:
                    self._run([each])
                return
            batch[0].error = error
        for each in batch:
            each.done = True
