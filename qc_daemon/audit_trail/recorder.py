"""Recording: at once, by who decides something; or by a thread, for what machines do all day.

`record` returns once the record is on disk. `enqueue` and `count_transfer` return at once, and a
thread of the process writes what has come meanwhile with one fdatasync: nothing that a sender or a
page waits for waits for the log. A process that is killed loses what its thread had not written, at
most FLUSH_SECONDS of transfers, whose objects the database has with their sender and time.

A record that cannot be written is logged and stops nothing.
"""

import atexit
import contextlib
import contextvars
import os
import pwd
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qc_daemon.audit_trail.chain import AuditChain, chain_name
from qc_daemon.audit_trail.event import (
    Actor,
    ActorKind,
    AuditEvent,
    AuditKind,
    AuditSource,
    Peer,
)
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings

FLUSH_SECONDS = 5.0
"""Transfers of one peer and study that follow each other within this time are one record."""
MAX_WAITING = 20_000
"""Events that wait for a disk that does not write; more are counted and left out."""
_STOP_SECONDS = 5.0

_actor: contextvars.ContextVar[Actor | None] = contextvars.ContextVar("actor", default=None)


def act_as(actor: Actor) -> None:
    """Have what follows in this context be of this actor."""
    _actor.set(actor)


def current_actor() -> Actor:
    """Who acts: who `act_as` named, else the user of this machine who runs the process."""
    actor = _actor.get()
    if actor is not None:
        return actor
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Actor(ActorKind.MACHINE_USER, name)


def chain_folder(settings: Settings) -> Path:
    """The folder of this machine's chain."""
    return log_folder(settings) / chain_name()


def log_folder(settings: Settings) -> Path:
    """The folder of all machines' chains: of the settings, else beside the spool."""
    return settings.audit_log.folder or settings.store.spool.parent / "audit-log"


def chain_of(settings: Settings) -> AuditChain:
    """This machine's chain."""
    return AuditChain(chain_folder(settings), settings.audit_log.segment_megabytes * 2**20)


def source_of(settings: Settings) -> AuditSource:
    """This machine as the source of audit messages."""
    ours, host = settings.receive.ae_title, chain_name()
    return AuditSource(f"{ours}@{host}", host, ours, settings.audit_log.enterprise_site)


def record(
    settings: Settings,
    kind: AuditKind,
    *,
    is_success: bool = True,
    study: str | None = None,
    patient_id: str | None = None,
    objects: Mapping[str, object] | None = None,
    detail: Mapping[str, object] | None = None,
    actor: Actor | None = None,
    clock: Clock = utc_now,
) -> None:
    """Record what the current actor did; on disk when it returns."""
    event = AuditEvent(
        kind,
        is_success,
        actor or current_actor(),
        study=study,
        patient_id=patient_id,
        objects=_texts(objects),
        detail=_texts(detail),
    )
    _write(chain_of(settings), [(clock(), event)])


def _texts(values: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (values or {}).items() if value is not None}


def _write(chain: AuditChain, events: list[tuple[datetime, AuditEvent]]) -> bool:
    try:
        chain.append(events)
    except OSError as error:
        log.get().error(
            "audit record not written",
            count=len(events),
            path=str(chain.folder),
            reason=(error.strerror or "error").lower(),
        )
        return False
    return True


@dataclass(slots=True)
class _Transfer:
    """Objects of one study from or to one peer that are not recorded yet."""

    begun: float
    at: datetime
    instances: dict[str, int]


class Recorder:
    """Writes one process's events in a thread of its own."""

    def __init__(self, chain: AuditChain, service: str, clock: Clock = utc_now) -> None:
        self.chain = chain
        self.service = Actor(ActorKind.SERVICE, service)
        self.clock = clock
        self._events: queue.Queue[tuple[datetime, AuditEvent]] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._transfers: dict[tuple[AuditKind, Peer, str, str], _Transfer] = {}
        self._left_out = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def enqueue(self, event: AuditEvent) -> None:
        """Have the thread write the event."""
        try:
            self._events.put_nowait((self.clock(), event))
        except queue.Full:
            with self._lock:
                self._left_out += 1

    def count_transfer(
        self, kind: AuditKind, peer: Peer, study: str, patient_id: str, sop_class_uid: str
    ) -> None:
        """Count one object as transferred; the thread writes a record of several."""
        key = (kind, peer, study, patient_id)
        with self._lock:
            transfer = self._transfers.get(key)
            if transfer is None:
                transfer = self._transfers[key] = _Transfer(time.monotonic(), self.clock(), {})
            number = transfer.instances.get(sop_class_uid, 0)
            transfer.instances[sop_class_uid] = number + 1

    def _run(self) -> None:
        while not self._stop.is_set():
            self._write_waiting(self._next(), at_end=False)
        self._write_waiting([], at_end=True)

    def _next(self) -> list[tuple[datetime, AuditEvent]]:
        with contextlib.suppress(queue.Empty):
            return [self._events.get(timeout=0.25)]
        return []

    def _write_waiting(self, events: list[tuple[datetime, AuditEvent]], *, at_end: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                events.append(self._events.get_nowait())
        now = time.monotonic()
        with self._lock:
            due = [
                key
                for key, transfer in self._transfers.items()
                if at_end or now - transfer.begun >= FLUSH_SECONDS
            ]
            transfers = [(key, self._transfers.pop(key)) for key in due]
            left_out, self._left_out = self._left_out, 0
        for (kind, peer, study, patient_id), transfer in transfers:
            event = AuditEvent(
                kind,
                actor=self.service,
                peer=peer,
                study=study,
                patient_id=patient_id,
                instances=transfer.instances,
            )
            events.append((transfer.at, event))
        if left_out:
            reason = {"reason": f"{left_out} events were left out: the disk did not write"}
            events.append((self.clock(), AuditEvent(AuditKind.LOG_REPAIRED, False, detail=reason)))
        if events:
            _write(self.chain, events)


_recorder: Recorder | None = None


def use(settings: Settings, service: str) -> None:
    """Have this process write what is enqueued, until it ends; `service` says which process."""
    global _recorder
    _recorder = Recorder(chain_of(settings), service)
    _recorder.start()
    atexit.register(_recorder.stop)


@contextlib.contextmanager
def used(recorder: Recorder) -> Iterator[None]:
    """Use this recorder within; at the end all it had is written."""
    global _recorder
    before, _recorder = _recorder, recorder
    recorder.start()
    try:
        yield
    finally:
        _recorder = before
        recorder.stop()


def is_used() -> bool:
    """Whether this process has a thread that writes."""
    return _recorder is not None


def enqueue(settings: Settings | None, kind: AuditKind, **facts: Any) -> None:
    """Record what the current actor did, by the process's thread; without one at once, where there
    are settings."""
    if _recorder is None:
        if settings is not None:
            record(settings, kind, **facts)
        return
    peer = facts.pop("peer", None)
    actor = facts.pop("actor", None) or _actor.get() or _recorder.service
    objects, detail = _texts(facts.pop("objects", None)), _texts(facts.pop("detail", None))
    facts.pop("clock", None)
    event = AuditEvent(kind, actor=actor, peer=peer, objects=objects, detail=detail, **facts)
    _recorder.enqueue(event)


def count_transfer(
    kind: AuditKind, peer: Peer, study: str, patient_id: str, sop_class_uid: str
) -> None:
    """Count one object as received or sent, in a process that records."""
    if _recorder is not None:
        _recorder.count_transfer(kind, peer, study, patient_id, sop_class_uid)
