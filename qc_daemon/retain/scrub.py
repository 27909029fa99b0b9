"""The scrub: each spooled file read through once a night, and compared with what was acknowledged.

Disks lose bits in files that nobody reads. A file that differs is set aside (`spool_file`), told as
an alarm, and fetched again from a destination that gives the very same bytes back. The pass goes
slowly, so that receiving and scoring do not feel it, and goes on after a restart where it was.
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
from qc_daemon.spool.verification import Condition, content_hash, examine, set_aside

NAME = "scrub.json"
_PAGE = 100
_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the spool; `after` is the last revision that was looked at, `finished` None
    while it goes on, `fetched` how many of the damaged a destination gave back. Moments are
    ISO 8601, UTC."""

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
        """Files that are not what was received, or not there."""
        return self.damaged + self.missing + self.unreadable


@dataclass(frozen=True, slots=True)
class Progress:
    """The pass that goes on or was the last to end, and the one before it."""

    current: Pass | None = None
    previous: Pass | None = None

    @property
    def finished(self) -> Pass | None:
        """The last pass that came to its end."""
        for each in (self.current, self.previous):
            if each is not None and each.finished is not None:
                return each
        return None


def read(spool: Path) -> Progress:
    """How far the scrub of the spool is; nothing yet where that cannot be read."""
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


def due(now: datetime, last: datetime | None, at: time) -> bool:
    """Whether a pass is to begin: the time of day `at`, of this machine's zone, has come since the
    last one began, or none ever did."""
    if last is None:
        return True
    local = now.astimezone()
    night = local.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
    if night > local:
        night -= timedelta(days=1)
    return last < night


class Pace:
    """Waits as long as it takes to stay below `rate` bytes a second, in small pieces."""

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
    """The passes of one spool, in a thread of their own until `stop`."""

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
        """Begin a pass each night, and go on with one that was cut short."""
        if self.pace is None:
            return
        self._measure(read(self.spool).finished)
        while not self.stop.is_set():
            try:
                self.step()
            except (QCError, OSError) as error:
                self.log.warning("scrub stalled", error_type=type(error).__name__)
            self.stop.wait(_LOOK_SECONDS)

    def step(self) -> Pass | None:
        """Begin or go on with the pass that is due, to its end or until `stop`; None if none is.

        Raises QCError STORAGE; OSError where the spool cannot be written.
        """
        progress = read(self.spool)
        current = progress.current
        if current is None or current.finished is not None:
            last = None if current is None else datetime.fromisoformat(current.begun)
            if not self.spool.is_dir() or not due(self.clock(), last, self.at):
                return None
            progress = Progress(Pass(self._now()), progress.finished)
        return self._go_on(progress)

    def _go_on(self, progress: Progress) -> Pass:
        current = progress.current
        assert current is not None
        while not self.stop.is_set():
            with self.store.read() as session:
                page = retention.originals(session, current.after, limit=_PAGE)
            if not page:
                current = replace(current, finished=self._now())
                self._keep(replace(progress, current=current))
                self._tell(current)
                return current
            for original in page:
                current = self._looked_at(current, original)
                if self.stop.is_set():
                    break
            self._keep(replace(progress, current=current))
        return current

    def _looked_at(self, current: Pass, original: Original) -> Pass:
        condition = self._condition(original)
        if self.stop.is_set() and condition is not Condition.INTACT:
            # It may have been cut short: the next start looks again.
            return current
        fetched = condition is Condition.DAMAGED and self._fetched(original)
        return replace(
            current,
            after=original.revision_id,
            fetched=current.fetched + fetched,
            files=current.files + 1,
            damaged=current.damaged + (condition is Condition.DAMAGED),
            missing=current.missing + (condition is Condition.MISSING),
            unreadable=current.unreadable + (condition is Condition.UNREADABLE),
        )

    def _condition(self, original: Original) -> Condition:
        """What the file is; a damaged one is set aside and told."""
        path = self.spool / original.path
        sha256 = content_hash(path, "")
        if not sha256:
            # Named by no hash: only the reconciliation of sizes can judge it.
            return Condition.INTACT
        condition = examine(path, sha256, original.size, self._paced)
        if self.stop.is_set():
            return condition
        if condition is Condition.INTACT or not self._still(original):
            return Condition.INTACT
        if condition is Condition.DAMAGED:
            moved = set_aside(self.spool, path, sha256)
            if moved is None:
                # A receiver has just put the right bytes back.
                return Condition.INTACT
            counters.add("spool_damaged")
            self.log.critical(
                "spool file damaged",
                sha256=sha256,
                revision=original.revision_id,
                path=moved.relative_to(self.spool),
            )
        elif condition is Condition.UNREADABLE:
            self.log.critical("spool file unreadable", sha256=sha256, path=original.path)
        return condition

    def _fetched(self, original: Original) -> bool:
        """Whether a destination gave the bytes of a file that was set aside back."""
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

    def _paced(self, count: int) -> None:
        """Waits; raises InterruptedError, which leaves the file unread, once we are to stop."""
        if self.pace is not None:
            self.pace(count)
        if self.stop.is_set():
            raise InterruptedError

    def _still(self, original: Original) -> bool:
        """Whether the row says so still: retention may have dropped the file in this moment."""
        with self.store.read() as session:
            again = retention.originals(session, original.revision_id - 1, limit=1)
        return again == [original]

    @staticmethod
    def _measure(done: Pass | None) -> None:
        if done is not None and done.finished is not None:
            counters.set("scrub_finished", datetime.fromisoformat(done.finished).timestamp())
            counters.set("scrub_faults", done.faults)

    def _tell(self, done: Pass) -> None:
        self._measure(done)
        say = self.log.info if not done.faults else self.log.error
        say("spool scrubbed", count=done.files)
        for kind, count in (
            ("damaged", done.damaged),
            ("missing", done.missing),
            ("unreadable", done.unreadable),
        ):
            if count:
                self.log.error("spool and database differ", kind=kind, count=count)

    def _keep(self, progress: Progress) -> None:
        part = self.spool / f".{NAME}.part"
        private_files.write(part, json.dumps(asdict(progress)).encode())
        part.replace(self.spool / NAME)

    def _now(self) -> str:
        return self.clock().isoformat(timespec="seconds")
