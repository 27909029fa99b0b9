"""The processes of the service, one function a role: `python -m qc_daemon.service.roles ROLE`.

The settings come as JSON on standard input, resolved as the parent had them. Imports stand inside
the roles: the receiver must stay small and never load a model library.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.process_id import lease_owner
from qc_daemon.audit_trail import recorder
from qc_daemon.job_runner import JobRunner, run_loop
from qc_daemon.observe import counters, log
from qc_daemon.records.clock import utc_now
from qc_daemon.records.results.renditions import Rendition, RenditionReference
from qc_daemon.records.store import Store
from qc_daemon.routing import Routes
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files
from qc_daemon.spool.verification import hash_in_name

if TYPE_CHECKING:
    from detector.frame import Frame
    from qc_daemon.hl7.receiver import MessageReceiver
    from qc_daemon.score.convert import Converter

DONE, CRASHED, WRONG_SETTINGS, ALARM = 0, 1, 2, 3
# With one of these at its first start the service ends: another start would fail the same way.
_UNUSABLE_BUNDLE = (ErrorCode.BUNDLE_MISMATCH, ErrorCode.BUNDLE_INCOMPLETE)
# A reason is cut to what a pipe takes in one write (PIPE_BUF), so that writing it never blocks.
REASON_BYTES = 4096
# The kinds of listening socket.
PLAIN, TLS, WEB, HL7 = "plain", "tls", "web", "hl7"

DRAIN_SECONDS = 25.0
_HOLD_EVERY_SECONDS = 5.0
_CLOCK_SECONDS = 1.0
# What waits for people is counted when the start's work is done, and then now and then.
_FIRST_COUNT_SECONDS, _COUNT_SECONDS = 60.0, 300.0
_WORKLIST_SECONDS = 5.0
_DIGEST_SECONDS = 60.0  # Between two looks at whether an audit is done.
_WEB_PRIORITY = 5  # Niceness: above the nightly processes, below receiving and scoring.
_PR_SET_PDEATHSIG = 1
_DECODERS = ("numpy", "gdcm", "pylibjpeg", "libjpeg", "openjpeg", "rle", "PIL", "jpeg_ls")


@dataclass(frozen=True)
class RoleContext:
    """What a role needs: settings, its database, its name as lease owner, its listening sockets."""

    settings: Settings
    store: Store
    owner: str
    listeners: dict[str, int]
    slots: int | None = None
    # What takes up other settings while the role runs; a role adds its own.
    on_reload: list[Callable[[Settings], None]] = field(default_factory=list)


def receive(context: RoleContext, stop: threading.Event) -> None:
    """Receive objects; at the end wait for open associations to finish."""
    _block_decoders()
    from qc_daemon.receive import AssociationSlots, Handshake, Receiver, Spool

    assert context.slots is not None
    settings = context.settings
    limits = settings.receive
    receiver = Receiver(
        settings.receive,
        context.store,
        Spool(settings.store.spool),
        context.owner,
        slots=AssociationSlots(
            context.slots, limits.max_associations, limits.max_associations_per_ae
        ),
        destinations=settings.destination,
        routes=Routes.of(settings),
    )
    for kind, listener in context.listeners.items():
        tls = settings.receive.tls if kind == TLS else None
        receiver.start(socket.socket(fileno=listener), None if tls is None else Handshake(tls))
    context.on_reload.append(
        lambda new: receiver.reload(new.receive.peer, new.destination, Routes.of(new))
    )
    # Imported objects are never garbage, so that collections need not visit them.
    gc.freeze()
    _ready("receive")
    while not stop.wait(_HOLD_EVERY_SECONDS):
        receiver.renew_holds()
    aborted = receiver.drain(DRAIN_SECONDS)
    if aborted:
        log.get(role="receive").warning("associations aborted", count=aborted)


def work(context: RoleContext, stop: threading.Event) -> None:
    """Score objects and write reports; a due report comes first, because a person waits for it."""
    from model.device import choose_device

    # Before the models' libraries, which take seconds to load: an absent device is reported first.
    choose_device(context.settings.score.device)
    from qc_daemon.report.worker import ReportHandler
    from qc_daemon.retain import Originals
    from qc_daemon.score.decode import DecodeProcess
    from qc_daemon.score.worker import ScoreHandler

    store, settings = context.store, context.settings
    with contextlib.closing(DecodeProcess.of(settings.score)) as decoder:

        def frames(path: Path, numbers: Sequence[int]) -> "Iterator[Frame]":
            return decoder.frames(path, numbers, hash_in_name(path))

        originals = Originals(store, settings, decoder.pixel_sha256)
        score_handler = ScoreHandler(store, settings, decoder, originals)
        # Before the first claim: a broken bundle is reported at the start, and a worker killed
        # while it loads counts against no job.
        score_handler.models.load_active()
        handlers = [ReportHandler(settings, frames, originals), score_handler]
        runner = JobRunner(store, handlers, context.owner, settings.jobs, role="work", stop=stop)
        _ready("work")
        runner.run()


def deliver(context: RoleContext, stop: threading.Event) -> None:
    """Send due objects to their destinations."""
    from qc_daemon.deliver import run
    from qc_daemon.retain import Originals
    from qc_daemon.score.pixel_hash import pixel_hash

    def render(
        payload: bytes, sop_class_uid: str, held_references: Mapping[str, RenditionReference]
    ) -> Rendition:
        # Only where a destination does not take a report as it is.
        from qc_daemon.report.objects.renditions import render_report

        return render_report(payload, sop_class_uid, held_references)

    @contextlib.contextmanager
    def convert(path: Path, sha256: str | None, transfer_syntax: str) -> Iterator[Path]:
        # Only where a destination does not take an object's transfer syntax.
        with converter()(path, sha256, transfer_syntax) as converted:
            yield converted

    @functools.cache
    def converter() -> "Converter":
        from qc_daemon.score.convert import Converter

        return Converter(context.settings.score, context.settings.store.spool / "incoming")

    originals = Originals(context.store, context.settings, pixel_hash(context.settings.score))
    _ready("deliver")
    run(context.store, context.settings, context.owner, stop, originals, render, convert)


def _no_pixels(_path: Path) -> str:
    raise QCError(ErrorCode.DECODE_FAILED, "this role decodes no pixels")


def schedule(context: RoleContext, stop: threading.Event) -> None:
    """Close exams that are due, and once an hour remove originals that are due.

    In threads of their own the scrub reads through the spool each night, what an older version did
    not read of its images is read, sites are fitted, what waits for people is counted, messages
    about patients come in, and a process does the nightly audit, another one the nightly backup.
    """
    from qc_daemon.records.received import exams
    from qc_daemon.retain import Originals, Retention, Scrub
    from qc_daemon.service.nightly_audits import NightlyAudits
    from qc_daemon.service.nightly_backups import NightlyBackups

    # What the scrub asks back must be the very same bytes, so that no pixels are compared.
    originals = Originals(context.store, context.settings, _no_pixels)
    scrubbing = Scrub(context.store, context.settings, stop, originals=originals)
    scrub = threading.Thread(target=scrubbing.run, daemon=True)
    propose = threading.Thread(target=_propose_sites, args=(context, stop), daemon=True)
    fill = threading.Thread(target=_fill_acquisitions, args=(context, stop), daemon=True)
    count = threading.Thread(target=_count_waiting, args=(context, stop), daemon=True)
    digests = threading.Thread(target=_send_digests, args=(context, stop), daemon=True)
    nightly = NightlyAudits(context.settings, context.store)
    audit = threading.Thread(target=nightly.run, args=(stop,), daemon=True)
    backups = NightlyBackups(context.settings)
    backup = threading.Thread(target=backups.run, args=(stop,), daemon=True)
    worklist = threading.Thread(target=_fill_from_worklist, args=(context, stop), daemon=True)
    retention = Retention(context.store, context.settings)
    settings = context.settings.receive

    def step() -> bool:
        with context.store.begin() as session:
            closed = exams.close_due(
                session, utc_now(), settings.quiet_seconds, settings.max_open_minutes
            )
        for exam_id in closed:
            log.get(role="schedule").info("exam closed", exam=exam_id)
        retention.step()
        return False

    messages = _receive_messages(context)
    _ready("schedule")
    scrub.start()
    fill.start()
    propose.start()
    count.start()
    digests.start()
    audit.start()
    backup.start()
    worklist.start()
    run_loop(step, stop, log.get(role="schedule"), lambda: _CLOCK_SECONDS)
    if messages is not None:
        messages.close()
    scrub.join()
    fill.join()
    propose.join()
    count.join()
    digests.join()
    audit.join()
    backup.join()
    worklist.join()


def _propose_sites(context: RoleContext, stop: threading.Event) -> None:
    """Each night, as the scrub begins, fit the calibration of each site anew."""
    from qc_daemon.retain.scrub import is_due

    if context.settings.score.site_calibration == "off":
        return
    # After a start nothing is fitted before the night: the database may be large.
    last = utc_now()
    while not stop.wait(_CLOCK_SECONDS):
        now = utc_now()
        if not is_due(now, last, context.settings.store.scrub_at):
            continue
        last = now
        from qc_daemon.operations.sites import propose_all

        try:
            count = propose_all(context.settings, context.store)
            log.get(role="schedule").info("sites fitted", count=count)
        except Exception as error:
            # A night without a proposal is no reason to stop closing exams.
            kind, place = type(error).__name__, log.where(error)
            log.get(role="schedule").error("sites not fitted", error_type=kind, error_at=place)


def _send_digests(context: RoleContext, stop: threading.Event) -> None:
    """Every minute, tell the recipients of the settings of an audit that is done."""
    if not context.settings.mail.recipient and not context.settings.webhook:
        return
    while not stop.wait(_DIGEST_SECONDS):
        from qc_daemon.operations.digests import send_due

        try:
            send_due(context.settings, context.store, utc_now, stop.wait)
        except Exception as error:
            kind, place = type(error).__name__, log.where(error)
            log.get(role="schedule").error("digests not sent", error_type=kind, error_at=place)


def _fill_from_worklist(context: RoleContext, stop: threading.Event) -> None:
    """Ask the worklist about new exams that lack something."""
    if context.settings.worklist.host is None:
        return
    from qc_daemon.worklist.filling import WorklistFilling

    filling = WorklistFilling(context.settings, context.store)
    while not stop.wait(_WORKLIST_SECONDS):
        try:
            filling.step()
        except Exception as error:
            kind, place = type(error).__name__, log.where(error)
            log.get(role="schedule").error("worklist not asked", error_type=kind, error_at=place)


def _receive_messages(context: RoleContext) -> "MessageReceiver | None":
    """Start to take HL7 messages, where there is a port for them."""
    if HL7 not in context.listeners:
        return None
    from qc_daemon.hl7.receiver import MessageReceiver
    from qc_daemon.operations.patients.adt_messages import MessageHandler
    from qc_daemon.receive import Handshake

    settings = context.settings.hl7
    receiver = MessageReceiver(
        socket.socket(fileno=context.listeners[HL7]),
        MessageHandler(context.settings, context.store).handle,
        settings.allow,
        settings.message_seconds,
        None if settings.tls is None else Handshake(settings.tls, "schedule"),
    )
    receiver.open()
    return receiver


def _count_waiting(context: RoleContext, stop: threading.Event) -> None:
    """Soon after the start and then every few minutes count for /metrics what waits for people; in
    a large store less often, so that it takes no more than a hundredth of the time."""
    wait = _FIRST_COUNT_SECONDS
    while not stop.wait(wait):
        from qc_daemon.operations.waiting import read_gauges

        begun = time.monotonic()
        try:
            values = read_gauges(context.settings, context.store, lambda: not stop.is_set())
        except Exception as error:
            kind, place = type(error).__name__, log.where(error)
            log.get(role="schedule").error("reviews not counted", error_type=kind, error_at=place)
            values = {}
        for name, value in values.items():
            counters.set(name, value)
        wait = max(_COUNT_SECONDS, 100 * (time.monotonic() - begun))


def _fill_acquisitions(context: RoleContext, stop: threading.Event) -> None:
    from qc_daemon.records.acquisition import acquisitions

    with contextlib.suppress(QCError), context.store.read() as session:
        if not acquisitions.unread(session, 0, 1):
            # Seldom is there anything to read, and the decoder's libraries are large.
            return
    from qc_daemon.score.acquisition_fill import fill_in_background
    from qc_daemon.score.decode import DecodeProcess

    spool, limits = context.settings.store.spool, context.settings.score
    fill_in_background(context.store, spool, lambda: DecodeProcess.of(limits), stop)


def web(context: RoleContext, stop: threading.Event) -> None:
    """Serve pages and REST API."""
    from qc_daemon.operations.shared import shared_store
    from qc_daemon.records.tables import IdentityKind
    from qc_daemon.web.app import create_app
    from qc_daemon.web.server import run

    # A person waits a moment for a page; a machine whose image waits may give up.
    os.nice(_WEB_PRIORITY)
    listener = socket.socket(fileno=context.listeners[WEB])
    with shared_store(context.settings) as store:
        app = create_app(context.settings, store)
        for kind in IdentityKind:
            app.state.context.image_counts.renew(kind)
        # As in the receiver: a collection that visits them would hold a page up for 0.2 s.
        gc.freeze()
        _ready("web")
        run(app, context.settings.web, listener, stop)


ROLES: dict[str, Callable[[RoleContext, threading.Event], None]] = {
    "receive": receive,
    "work": work,
    "deliver": deliver,
    "schedule": schedule,
    "web": web,
}


def _block_decoders() -> None:
    """Keep pydicom from loading codecs and numpy, 35 MB of each receiver: it decodes no pixel."""
    for name in _DECODERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _ready(role: str) -> None:
    """Note in the shared counters and in the log that the role is ready."""
    counters.set("ready", 1)
    log.get(role=role).info("ready", pid=os.getpid())


def handle_signals(handle: Callable[[], None], *signals: signal.Signals) -> None:
    """Call `handle` in a thread of its own when a signal comes.

    Not in the handler: that interrupts the main thread anywhere, even inside the very Event that
    `handle` is about to set, whose lock would then never come free.
    """

    def handler(_signal: int, _frame: object) -> None:
        threading.Thread(target=handle, daemon=True).start()

    for each in signals:
        signal.signal(each, handler)


def _end(stop: threading.Event) -> None:
    """Stop in an orderly way; at once while the role is not ready, and holds no job."""
    stop.set()
    if not counters.get("ready"):
        os._exit(DONE)


def _reload(context: RoleContext, descriptor: int) -> None:
    """Take up the settings that the supervisor has written."""
    settings = Settings(**read_settings(descriptor))
    log.configure_service(settings.observe.log_level)
    for take_up in context.on_reload:
        take_up(settings)


def write_settings(descriptor: int, settings: Settings) -> None:
    """Write the settings to shared memory, for every process of the service."""
    content = json.dumps(settings.model_dump(mode="json")).encode()
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def read_settings(descriptor: int) -> dict[str, Any]:
    """The settings that were written last."""
    content: dict[str, Any] = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    return content


def exit_with_parent(parent: int) -> None:
    """Have the kernel kill us when the supervisor dies, and stop if it has already (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(CRASHED)


def main() -> int:
    """Run the role; the exit status says whether starting again could help."""
    role = sys.argv[1]
    orders = json.load(sys.stdin)
    exit_with_parent(orders["parent"])
    stop = threading.Event()
    # Ctrl-C reaches the whole terminal; the supervisor decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle_signals(lambda: _end(stop), signal.SIGTERM)
    private_files.set_umask()
    log.configure()
    log.quiet_libraries()
    log.quiet_crashes()
    settings = Settings(**orders["settings"])
    log.configure_service(settings.observe.log_level)
    counters.use(counters.SharedCounters(**orders["counters"]), orders["row"])
    store = Store(settings.store.url)
    recorder.use(settings, role)
    context = RoleContext(
        settings, store, lease_owner(role, os.getpid()), orders["listeners"], orders["slots"]
    )
    handle_signals(lambda: _reload(context, orders["settings_memory"]), signal.SIGHUP)
    try:
        ROLES[role](context, stop)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_SETTINGS
    except QCError as error:
        log.get(role=role).critical("failed", code=error.code.value, reason=error.message)
        _write_reason(orders["reason"], error.message)
        if error.code not in _UNUSABLE_BUNDLE:
            # A database, a disk or a device that is missing may come back.
            return CRASHED
        print(f"error: {error}", file=sys.stderr)
        return ALARM
    except Exception as error:
        kind, code_location = type(error).__name__, log.where(error)
        if counters.get("ready"):
            # The message may quote data that was read since the start.
            _write_reason(orders["reason"], f"{kind} at {code_location}")
            raise
        reason = f"{kind}: {log.first_line(error)}"
        log.get(role=role).critical(
            "failed", error_type=kind, error_at=code_location, reason=reason
        )
        _write_reason(orders["reason"], reason)
        return CRASHED
    return DONE


def _write_reason(descriptor: int, reason: str) -> None:
    """Write the supervisor a line that says why this process ends."""
    with contextlib.suppress(OSError):
        os.write(descriptor, reason.encode()[:REASON_BYTES])


def _exit(status: int) -> None:
    """End the process without the interpreter's own end.

    That takes every module apart (0.4 s of CPU time, with torch more), and waits for each thread
    that still waits for a peer. Nothing is left to be written: what is stored is committed.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(main())
