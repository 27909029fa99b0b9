"""Fills in what images lack from the worklist, an exam at a time, beside scoring.

An exam is asked about once it is known that it lacks something, while it is new: a worklist forgets
what was done. What it said is stored, so that images which come later get the same.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from detector.errors import QCError
from qc_daemon.dicom.acquisition import Operator
from qc_daemon.observe import log
from qc_daemon.records.acquisition import worklist_answers
from qc_daemon.records.acquisition.worklist_answers import LackingExam, WorklistFacts
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.records.tables import WorklistState
from qc_daemon.settings import Settings
from qc_daemon.worklist.item import age_years, choose
from qc_daemon.worklist.query import Worklist, open_worklist

NEW = timedelta(hours=24)
"""An exam is asked about for so long after it began."""
RETRY = timedelta(minutes=1)
"""After a worklist that cannot be reached; nobody is asked meanwhile."""
LEAVE = timedelta(hours=1)
"""An exam that it does not answer for is left alone so long: others must not wait for it."""
BATCH = 20
_log = log.get(role="schedule")

Opened = AbstractContextManager[Worklist]


class WorklistFilling:
    """Each step asks about the exams that lack something and were not asked about."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock = utc_now,
        opened: Callable[[], Opened] | None = None,
    ) -> None:
        self._settings, self._store, self._clock = settings, store, clock
        worklist, calling_ae = settings.worklist, settings.receive.ae_title
        self._open = opened or (lambda: open_worklist(worklist, calling_ae))
        self._pause_until = clock()
        # Exams that it does not answer for, until when they are left alone.
        self._left: dict[int, datetime] = {}
        self._has_failed = False

    def step(self) -> int:
        """Ask about a batch; returns of how many exams the worklist knew. Raises QCError STORAGE
        where the database cannot be used."""
        now = self._clock()
        self._fill_later_images()
        if now < self._pause_until:
            return 0
        with self._store.read() as session:
            new = worklist_answers.lacking(session, now - NEW, BATCH + len(self._left))
        self._left = {exam_id: until for exam_id, until in self._left.items() if until > now}
        lacking = [exam for exam in new if exam.exam_id not in self._left]
        if not lacking:
            return 0
        count = 0
        try:
            with self._open() as worklist:
                for exam in lacking:
                    self._left[exam.exam_id] = now + LEAVE
                    count += self._ask(worklist, exam)
                    del self._left[exam.exam_id]
        except QCError as error:
            self._pause_until = now + RETRY
            if not self._has_failed:
                _log.warning("worklist not asked", code=error.code.value, reason=error.message)
            self._has_failed = True
            return count
        self._has_failed = False
        return count

    def _ask(self, worklist: Worklist, exam: LackingExam) -> bool:
        items = worklist.find(exam.patient_id)
        item, is_ambiguous = choose(
            items, exam.patient_id, exam.study_instance_uid, exam.calling_aes
        )
        state = WorklistState.AMBIGUOUS if is_ambiguous else WorklistState.NONE
        facts = WorklistFacts()
        if item is not None:
            state = WorklistState.FOUND
            age = age_years(item.birth_date, exam.made_on)
            facts = WorklistFacts(item.accession_number, item.operator, age)
        now = self._clock()
        with self._store.begin() as session:
            worklist_answers.store(session, exam.exam_id, state, facts, now)
            operators = [] if facts.operator is None else [Operator(facts.operator)]
            worklist_answers.fill(session, exam.exam_id, facts, operators, now)
        _log.info("worklist asked", exam=exam.exam_id, state=state.value)
        return item is not None

    def _fill_later_images(self) -> None:
        """Images of an exam that was asked about before they were read."""
        now = self._clock()
        with self._store.read() as session:
            later = worklist_answers.with_later_images(session, now - NEW, BATCH)
        for exam_id, facts in later:
            operators = [] if facts.operator is None else [Operator(facts.operator)]
            with self._store.begin() as session:
                worklist_answers.fill(session, exam_id, facts, operators, now)
