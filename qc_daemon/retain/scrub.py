"""The scrub: once a night each spooled file is read and compared with its SHA-256.

Disks lose bits in files that nobody reads. A file that differs is moved to the spool's folder
`damaged`, logged as an alarm, and fetched from a destination that has the same bytes, each night
until one has. A pass reads slowly, so that receiving and scoring are not delayed, and continues
after a restart.
"""

import json
import threading
import time as clock_time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, time, timedelta
from pathlib import Path

from detector.errors import QCError
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import retention, revisions
from qc_daemon.records.received.retention import Original
from qc_daemon.records.received.revisions import Originals
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files
from qc_daemon.spool.verification import (
    Condition,
    content_hash,
    damaged_files,
    examine,
    move_to_damaged,
)

NAME = "scrub.json"
# Files of one query, and the most that are read again after a restart.
_PAGE = 100
# Seconds between two checks whether a pass is due.
_POLL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the spool, as scrub.json stores it.

    `begun` and `finished` (None while it runs) are ISO 8601 in UTC; `after` is the last revision
    that was examined; `fetched` counts the damaged files that a destination gave back.
    """

    begun: str
    finished: str | None = None
    after: int = 0
    files: int = 0
    damaged: int = 0
    missing: int = 0
    unreadable: int = 0
    fetched: int = 0

    @property
    def faults(self) -> int:
        """How many files are damaged, missing or unreadable."""
        return self.damaged + self.missing + self.unreadable


@dataclass(frozen=True, slots=True)
class Progress:
    """The pass that runs or was the last to end, and the last one that ended before it."""

    current: Pass | None = None
    previous: Pass | None = None

    @property
    def finished(self) -> Pass | None:
        """The last pass that has ended."""
        for each in (self.current, self.previous):
            if each is not None and each.finished is not None:
                return each
        return None


def read_progress(spool: Path) -> Progress:
    """How far the scrub of the spool is; an empty Progress if that cannot be read."""
    try:
        progress = json.loads((spool / NAME).read_bytes())
        return Progress(
            *(
                None if progress[name] is None else Pass(**progress[name])
                for name in ("current", "previous")
            )
        )
    except (OSError, ValueError, TypeError, KeyError):
        return Progress()


def is_due(now: datetime, last: datetime | None, at: time) -> bool:
    """Whether a pass must begin: none ever did, or the time of day `at`, in this machine's zone,
    has come since the last one began."""
    if last is None:
        return True
    local = now.astimezone()
    night = local.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
    if night > local:
        night -= timedelta(days=1)
    return last < night


class Pace:
    """Waits after each block, so that no more than `rate` bytes are read in a second."""

    def __init__(
        self, rate: float, wait: Callable[[float], object], monotonic: Callable[[], float]
    ) -> None:
        self._rate, self._wait, self._monotonic = rate, wait, monotonic
        self._free = monotonic()

    def __call__(self, count: int) -> None:
        self._free = max(self._free, self._monotonic()) + count / self._rate
        ahead = self._free - self._monotonic()
        if ahead > 0:
            self._wait(ahead)


class Scrub:
    """The passes over one spool; `run` is for a thread of its own, until `stop`."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        stop: threading.Event,
        clock: Clock = utc_now,
        originals: Originals | None = None,
    ) -> None:
        self.store = store
        self.originals = originals
        self.spool = settings.store.spool
        self.at = settings.store.scrub_at
        self.stop = stop
        self.clock = clock
        rate = settings.store.scrub_megabytes_per_second * 1e6
        self.pace = Pace(rate, stop.wait, clock_time.monotonic) if rate else None
        self.log = log.get(role="schedule")

    def run(self) -> None:
        """Run a pass each night, and continue one that was interrupted."""
        if self.pace is None:
            return
        self._set_metrics(read_progress(self.spool).finished)
        while not self.stop.is_set():
            try:
                self.step()
            except (QCError, OSError) as error:
                self.log.warning("scrub stalled", error_type=type(error).__name__)
            self.stop.wait(_POLL_SECONDS)

    def step(self) -> Pass | None:
        """Run or continue the pass that is due, to its end or until `stop`; None if none is due.

        Raises QCError STORAGE; OSError where the spool cannot be written.
        """
        progress = read_progress(self.spool)
        current = progress.current
        if current is None or current.finished is not None:
            last = None if current is None else datetime.fromisoformat(current.begun)
            if not self.spool.is_dir() or not is_due(self.clock(), last, self.at):
                return None
            progress = Progress(Pass(self._now()), progress.finished)
        return self._run_pass(progress)

    def _run_pass(self, progress: Progress) -> Pass:
        current = progress.current
        assert current is not None
        while not self.stop.is_set():
            with self.store.read() as session:
                page = retention.originals(session, current.after, limit=_PAGE)
            if not page:
                current = replace(current, finished=self._now())
                self._store(replace(progress, current=current))
                self._log_result(current)
                return current
            for original in page:
                current = self._examine(current, original)
                if self.stop.is_set():
                    break
            self._store(replace(progress, current=current))
        return current

    def _examine(self, current: Pass, original: Original) -> Pass:
        condition = self._condition(original)
        if self.stop.is_set() and condition is not Condition.INTACT:
            # The reading may have been interrupted: it is read again after the next start.
            return current
        is_fetched = condition is Condition.DAMAGED and self._fetch(original)
        return replace(
            current,
            after=original.revision_id,
            fetched=current.fetched + is_fetched,
            files=current.files + 1,
            damaged=current.damaged + (condition is Condition.DAMAGED),
            missing=current.missing + (condition is Condition.MISSING),
            unreadable=current.unreadable + (condition is Condition.UNREADABLE),
        )

    def _condition(self, original: Original) -> Condition:
        """The condition of the file; a damaged one is moved to `damaged` and logged.

        One that lies there already is still damaged, and not missing.
        """
        path = self.spool / original.path
        sha256 = content_hash(path, "")
        if not sha256:
            # There is no hash in its name: only `reconcile` can compare its size.
            return Condition.INTACT
        condition = examine(path, sha256, original.size, self._pace_reading)
        if self.stop.is_set():
            return condition
        if condition is Condition.INTACT or not self._is_unchanged(original):
            return Condition.INTACT
        if condition is Condition.DAMAGED:
            damaged_path = move_to_damaged(self.spool, path, sha256)
            if damaged_path is None:
                # A receiver has just written the right bytes.
                return Condition.INTACT
            counters.add("spool_damaged")
            self.log.critical(
                "spool file damaged",
                sha256=sha256,
                revision=original.revision_id,
                path=damaged_path.relative_to(self.spool),
            )
        elif condition is Condition.MISSING and damaged_files(self.spool, sha256):
            # An earlier pass or a stage set it aside, with an alarm; a destination may have the
            # bytes by now.
            return Condition.DAMAGED
        elif condition is Condition.UNREADABLE:
            self.log.critical("spool file unreadable", sha256=sha256, path=original.path)
        return condition

    def _fetch(self, original: Original) -> bool:
        """Fetch the bytes of a damaged file from a destination; returns whether one had them."""
        if self.originals is None:
            return False
        with self.store.read() as session:
            facts = revisions.facts(session, original.revision_id)
        try:
            self.originals(facts)
        except QCError as error:
            self.log.error("original not fetched back", code=error.code.value, reason=error.message)
            return False
        return True

    def _pace_reading(self, count: int) -> None:
        """Wait for the pace; raises InterruptedError at `stop`, which ends the reading."""
        if self.pace is not None:
            self.pace(count)
        if self.stop.is_set():
            raise InterruptedError

    def _is_unchanged(self, original: Original) -> bool:
        """Whether the row is still the same: retention may have just dropped the file."""
        with self.store.read() as session:
            page = retention.originals(session, original.revision_id - 1, limit=1)
        return page == [original]

    @staticmethod
    def _set_metrics(result: Pass | None) -> None:
        if result is not None and result.finished is not None:
            counters.set("scrub_finished", datetime.fromisoformat(result.finished).timestamp())
            counters.set("scrub_faults", result.faults)

    def _log_result(self, result: Pass) -> None:
        self._set_metrics(result)
        write = self.log.info if not result.faults else self.log.error
        write("spool scrubbed", count=result.files)
        for kind, count in (
            ("damaged", result.damaged),
            ("missing", result.missing),
            ("unreadable", result.unreadable),
        ):
            if count:
                self.log.error("spool and database differ", kind=kind, count=count)

    def _store(self, progress: Progress) -> None:
        part = self.spool / f".{NAME}.part"
        private_files.write(part, json.dumps(asdict(progress)).encode())
        part.replace(self.spool / NAME)

    def _now(self) -> str:
        return self.clock().isoformat(timespec="seconds")
