"""Exam holds: an exam stays open while an association that has stored to it is open."""

import itertools
import threading
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.observe import counters, log
from qc_daemon.receive.group_commit import GroupCommit
from qc_daemon.records.clock import Clock
from qc_daemon.records.received import exams
from qc_daemon.records.store import Store

# Seconds that a hold lasts unless it is renewed, so that a receiver killed in mid-association
# cannot hold an exam for ever.
HOLD_SECONDS = 20.0


class ExamHolds:
    """The open associations of one process and the exams that each holds.

    Each association has a token, which names it in the database. Safe to use from many threads.
    """

    def __init__(
        self,
        store: Store,
        group_commit: GroupCommit,
        owner: str,
        clock: Clock,
    ) -> None:
        self.store = store
        self.group_commit = group_commit
        self.clock = clock
        self.log = log.get(role="receive")
        self._tokens = (f"{owner}/{number}" for number in itertools.count(1))
        self._lock = threading.Lock()
        self._tokens_by_association: dict[Any, str] = {}
        # Until when each exam is held, by token and exam ID.
        self._ends_by_token: dict[str, dict[int, datetime]] = {}

    def begin(self, association: Any) -> None:
        """Give an association that was accepted its token."""
        with self._lock:
            token = self._tokens_by_association[association] = next(self._tokens)
            self._ends_by_token[token] = {}
            counters.set("associations", len(self._tokens_by_association))

    def end(self, association: Any) -> None:
        """Release what the association held; nothing if it has ended before."""
        with self._lock:
            token = self._tokens_by_association.pop(association, None)
            holds = self._ends_by_token.pop(token, {}) if token is not None else {}
            counters.set("associations", len(self._tokens_by_association))
        if token is not None and holds:
            self._release(token)

    def token(self, association: Any) -> str:
        """The association's token; a new one if it has ended."""
        with self._lock:
            return self._tokens_by_association.get(association) or next(self._tokens)

    def end_of_hold(self, now: datetime) -> datetime:
        """When a hold that begins now ends."""
        return now + timedelta(seconds=HOLD_SECONDS)

    def has_hold(self, token: str, exam_id: int, now: datetime) -> bool:
        """Whether the hold lasts for at least another half of its time, and needs no new row."""
        with self._lock:
            until = self._ends_by_token.get(token, {}).get(exam_id)
        return until is not None and now < until - timedelta(seconds=HOLD_SECONDS / 2)

    def remember(self, association: Any, token: str, exam_id: int, until: datetime) -> None:
        """Keep a hold that is in the database; release it if the association ended meanwhile."""
        with self._lock:
            is_open = self._tokens_by_association.get(association) == token
            if is_open:
                self._ends_by_token[token][exam_id] = until
        if not is_open:
            self._release(token)

    def renew(self) -> None:
        """Renew every hold in the database; a failure is logged, and the next call tries again."""
        with self._lock:
            holds = [
                (token, exam_id)
                for token, exam_ids in self._ends_by_token.items()
                for exam_id in exam_ids
            ]
        if not holds:
            return
        now = self.clock()
        until = self.end_of_hold(now)
        try:
            with self.store.begin() as session:
                for token, exam_id in holds:
                    exams.hold_open(session, token, exam_id, now, until)
        except (QCError, SQLAlchemyError) as error:
            self.log.warning("hold not renewed", error_type=type(error).__name__)
            return
        with self._lock:
            for token, exam_id in holds:
                if token in self._ends_by_token:
                    self._ends_by_token[token][exam_id] = until

    def _release(self, token: str) -> None:
        try:
            self.group_commit.write("", lambda session: exams.end_association(session, token))
        except (QCError, SQLAlchemyError) as error:
            # The hold runs out by itself.
            self.log.warning("hold not released", error_type=type(error).__name__)
