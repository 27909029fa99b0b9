"""What each process of the service does; started by `daemon` as `python -m qc_daemon.roles ROLE`.

The settings come as JSON on standard input, resolved as the parent had them. Imports stand inside
the roles: the receiver must stay small and never load a model library.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from detector.codes import FailureClass, QCError
from detector.console import UsageError
from qc_daemon.observe import log
from qc_daemon.owner import owner
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

DONE, CRASHED, WRONG_SETTINGS, ALARM = 0, 1, 2, 3

DRAIN_SECONDS = 25.0
_HOLD_EVERY_SECONDS = 5.0
_CLOCK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Brief:
    """What a role needs: settings, its database, its name as lease owner, its listening socket."""

    settings: Settings
    store: Store
    owner: str
    listener: int | None


def receive(brief: Brief, stop: threading.Event) -> None:
    """Take objects in; at the end let associations finish."""
    from qc_daemon.receive import Receiver, Spool

    assert brief.listener is not None
    settings = brief.settings
    receiver = Receiver(
        settings.receive,
        brief.store,
        Spool(settings.store.spool),
        brief.owner,
        tuple(each.name for each in settings.destination if "source" in each.objects),
    )
    receiver.start(socket.socket(fileno=brief.listener))
    _ready("receive")
    while not stop.wait(_HOLD_EVERY_SECONDS):
        receiver.hold()
    aborted = receiver.drain(DRAIN_SECONDS)
    if aborted:
        log.get(role="receive").warning("associations aborted", count=aborted)


def work(brief: Brief, stop: threading.Event) -> None:
    """Score objects and write reports: a due report first, for someone waits for it."""
    from qc_daemon.report import worker as report_worker
    from qc_daemon.score.worker import ScoreWorker

    scorer = ScoreWorker(brief.store, brief.settings, brief.owner)
    # Load before the first claim: a broken bundle is told at the start, and a worker killed while
    # it loads counts against no job.
    scorer.models.judge(None)

    def step() -> bool:
        told = report_worker.run_one(
            brief.store, brief.settings, brief.owner, datetime.now(UTC), scorer.decoder.frames
        )
        return scorer.run_one() or told

    _ready("work")
    try:
        _loop("work", step, brief.settings.jobs.poll_seconds, stop)
    finally:
        scorer.close()


def deliver(brief: Brief, stop: threading.Event) -> None:
    """Send what is due."""
    from qc_daemon.deliver import run

    _ready("deliver")
    run(brief.store, brief.settings, brief.owner, stop)


def schedule(brief: Brief, stop: threading.Event) -> None:
    """The exam clock: close exams whose time has come."""
    from qc_daemon.records import exams

    settings = brief.settings.receive

    def step() -> bool:
        with brief.store.begin() as session:
            closed = exams.close_due(
                session, datetime.now(UTC), settings.quiet_seconds, settings.max_open_minutes
            )
        for exam_id in closed:
            log.get(role="schedule").info("exam closed", exam=exam_id)
        return False

    _ready("schedule")
    _loop("schedule", step, _CLOCK_SECONDS, stop)


ROLES: dict[str, Callable[[Brief, threading.Event], None]] = {
    "receive": receive,
    "work": work,
    "deliver": deliver,
    "schedule": schedule,
}


def _loop(role: str, step: Callable[[], bool], idle: float, stop: threading.Event) -> None:
    """Step on until `stop`; rest where there is nothing to do or the database is away."""
    while not stop.is_set():
        try:
            busy = step()
        except QCError as error:
            log.get(role=role).error("stalled", code=error.code.value, reason=error.message)
            busy = False
        if not busy:
            stop.wait(idle)


def _ready(role: str) -> None:
    log.get(role=role).info("ready", pid=os.getpid())


def on_signals(handle: Callable[[], None], *signals: signal.Signals) -> None:
    """Call `handle` in a thread of its own when a signal comes.

    Not in the handler: that interrupts the main thread anywhere, even inside the very Event that
    `handle` is about to set, whose lock would then never come free.
    """

    def handler(_signal: int, _frame: object) -> None:
        threading.Thread(target=handle, daemon=True).start()

    for each in signals:
        signal.signal(each, handler)


def _die_with(parent: int) -> None:
    """Have the kernel kill us when the supervisor dies, and stop if it has already (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(CRASHED)


def main() -> int:
    """Run the role; the exit status says whether starting again could help."""
    role = sys.argv[1]
    orders = json.load(sys.stdin)
    _die_with(orders["parent"])
    stop = threading.Event()
    # Ctrl-C reaches the whole terminal; the supervisor decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    on_signals(stop.set, signal.SIGTERM)
    log.configure()
    log.quiet_libraries()
    log.quiet_crashes()
    settings = Settings(**orders["settings"])
    brief = Brief(settings, Store(settings.store.url), owner(role, os.getpid()), orders["listener"])
    try:
        ROLES[role](brief, stop)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_SETTINGS
    except QCError as error:
        log.get(role=role).critical("failed", code=error.code.value, reason=error.message)
        if error.failure_class is not FailureClass.ALARM:
            return CRASHED
        print(f"error: {error}", file=sys.stderr)
        return ALARM
    return DONE


if __name__ == "__main__":
    sys.exit(main())
