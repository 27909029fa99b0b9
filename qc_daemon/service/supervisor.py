"""Starts the service's processes and keeps them running: one for each role, more for receiving.

The supervisor owns the listening sockets, so that callers wait for the successor of a receiver that
died instead of being refused; and it releases the leases of a dead worker at once.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from detector.code_digest import code_digest
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.process_id import has_exited, lease_owner
from qc_daemon.audit_trail import forwarding
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.observe import counters, endpoint, log, metrics
from qc_daemon.observe.audit_log_watch import AuditLogWatch
from qc_daemon.observe.machine_watch import MachineWatch
from qc_daemon.operations.bundles import active_bundle, seed_bundle
from qc_daemon.receive import AssociationSlots, Spool
from qc_daemon.records import schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobState
from qc_daemon.retain.reconcile import log_differences, reconcile
from qc_daemon.service.certificate_watch import CertificateWatch
from qc_daemon.service.child import Child
from qc_daemon.service.deferred_tasks import DeferredTasks
from qc_daemon.service.listeners import Listeners, listen_dicom, listen_hl7, listen_web
from qc_daemon.service.roles import (
    ALARM,
    DONE,
    HL7,
    ROLES,
    WEB,
    WRONG_SETTINGS,
    handle_signals,
)
from qc_daemon.service.settings_reload import SettingsReload, compare
from qc_daemon.service.systemd import SystemdNotifier
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files, running_services, service_lock

STOP_SECONDS = 30.0
# A stop waits so long for leases to be released; the next start releases the others.
_RELEASE_SECONDS = 10.0
_POLL_SECONDS = 0.1
# Spool and rows are compared after each such interval: it lists every file, and changes are slow.
_RECONCILE_SECONDS = 3600.0
# After this many seconds of life the delay before a next start is the shortest again.
_STABLE_SECONDS = 60.0


def serve(settings: Settings, roles: Sequence[str], config_path: Path | None = None) -> int:
    """Run the roles until SIGTERM or SIGINT; returns the exit status.

    Raises UsageError (unknown role, port in use) or QCError (database, spool) before anything has
    started. `config_path` is only named in messages.
    """
    log.configure_service(settings.observe.log_level)
    log.quiet_libraries()
    role_names = _role_names(roles, settings)
    private_files.set_umask()
    spool = Spool(settings.store.spool)
    _prepare(spool)
    with (
        service_lock.shared(spool.root),
        running_services.announce(
            spool.root, version("qc-daemon"), code_digest(), role_names, utc_now()
        ),
    ):
        return _serve(settings, role_names, spool, config_path)


def _serve(settings: Settings, roles: Sequence[str], spool: Spool, config_path: Path | None) -> int:
    schema.upgrade(settings.store.url)
    store = Store(settings.store.url)
    if "work" in roles:
        # Before the first object comes: an exam is fixed to a bundle when it opens.
        seed_bundle(settings, store)
    listeners: Listeners = {}
    if "receive" in roles:
        listeners = listen_dicom(settings, config_path)
        spool.sweep()
    if "web" in roles:
        listeners[WEB] = listen_web(settings, config_path)
    if "schedule" in roles and settings.hl7.port is not None:
        listeners[HL7] = listen_hl7(settings, config_path)
    _log_start(settings, store, roles, config_path)
    supervisor = Supervisor(settings, store, spool, listeners, config_path=config_path)
    detail = {
        "version": version("qc-daemon"),
        "roles": ", ".join(roles),
        "settings_sha256": hashlib.sha256(settings.model_dump_json().encode()).hexdigest(),
    }
    _begin_forwarding(settings)
    record(settings, AuditKind.START, detail=detail)
    try:
        return supervisor.run(roles)
    finally:
        record(settings, AuditKind.STOP, detail={"roles": ", ".join(roles)})
        for listener in listeners.values():
            listener.close()
        store.close()
        _settle(settings.store.url)


def _begin_forwarding(settings: Settings) -> None:
    """Note where the audit log ends for servers that are new, so that they get what follows."""
    try:
        forwarding.begin(settings)
    except OSError as error:
        reason = (error.strerror or "error").lower()
        log.get(role="supervisor").error("audit messages not sent", reason=reason)


def _settle(url: str) -> None:
    """Checkpoint the database into one file, so that it can be copied or replaced as a file."""
    try:
        schema.checkpoint(url)
    except QCError as error:
        log.get().warning("database not checkpointed", code=error.code.value, reason=error.message)


def _log_start(
    settings: Settings, store: Store, roles: Sequence[str], config_path: Path | None
) -> None:
    """Log what runs here in one line, which is read first when something is wrong."""
    bundle = active_bundle(store)
    log.get(role="supervisor").info(
        "starting",
        version=version("qc-daemon"),
        settings=str(config_path or "defaults"),
        spool=str(settings.store.spool),
        roles=", ".join(roles),
        database=store.kind,
        bundle=bundle.name if bundle else None,
        bundle_version=bundle.version if bundle else None,
        destinations=", ".join(each.name for each in settings.destination),
    )


def _role_names(roles: Sequence[str], settings: Settings) -> list[str]:
    """The roles in their order; `all` has pages only where the settings name a port for them.

    Raises UsageError.
    """
    unknown = [role for role in roles if role != "all" and role not in ROLES]
    if unknown:
        raise UsageError(f"--role {unknown[0]}: give all or one of {', '.join(ROLES)}")
    if "web" in roles and settings.web.port is None:
        raise UsageError("--role web: web.port is not set; give the port of the pages")
    every = set(ROLES) if settings.web.port is not None else set(ROLES) - {"web"}
    names = every if "all" in roles or not roles else set(roles)
    return [role for role in ROLES if role in names]


def _prepare(spool: Spool) -> None:
    try:
        spool.prepare()
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE,
            f"the spool {spool.root} cannot be written: {(error.strerror or 'error').lower()};"
            " correct that or set store.spool",
        ) from error


class Supervisor:
    """Starts children, restarts those that die, stops them all."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        spool: Spool,
        listeners: Listeners,
        clock: Clock = utc_now,
        config_path: Path | None = None,
    ) -> None:
        self.settings = settings
        self.config_path = config_path
        self.reloading = SettingsReload(settings)
        self.store = store
        self.spool = spool
        self.listeners = listeners
        self.clock = clock
        receive = settings.receive
        self.slots = AssociationSlots.create(
            receive.max_associations, receive.max_associations_per_ae
        )
        tls = receive.tls
        self.expiry = CertificateWatch(tls.certificate) if tls is not None and listeners else None
        self.log = log.get(role="supervisor")
        self.deferred = DeferredTasks()
        self.children: list[Child] = []
        self.shared_counters = counters.SharedCounters.create(
            counters.delivery_names(destination.name for destination in settings.destination)
        )
        counters.use(self.shared_counters, 0)
        self.machine_watch = MachineWatch(settings, store, clock)
        self.audit_log_watch = AuditLogWatch(settings)
        self.systemd = SystemdNotifier.from_environment(os.environ)
        self._stop = threading.Event()
        self._at_once = threading.Event()
        self._reload_asked = threading.Event()

    def run(self, roles: Sequence[str]) -> int:
        handle_signals(self._on_signal, signal.SIGTERM, signal.SIGINT)
        handle_signals(self._reload_asked.set, signal.SIGHUP)
        self._release_dead()
        self.children = [
            Child(role)
            for role in roles
            for _ in range(self.settings.receive.processes if role == "receive" else 1)
        ]
        service = self._metrics_source()
        if "receive" in roles:
            threading.Thread(target=self._reconcile, daemon=True).start()
        if "schedule" in roles:
            # One of several hosts, so that each machine is told of once.
            threading.Thread(target=self.machine_watch.run, args=(self._stop,), daemon=True).start()
        threading.Thread(target=self.audit_log_watch.run, args=(self._stop,), daemon=True).start()
        forwarding.start(self.settings, self._stop)
        status = DONE
        try:
            while not self._stop.is_set() and status == DONE:
                service.heartbeat()
                self.systemd.update(self._processes)
                if self._reload_asked.is_set():
                    self._reload_asked.clear()
                    self._reload(service)
                for child in self.children:
                    status = status or self._check_child(child)
                if self.expiry is not None:
                    self.expiry.check()
                self._stop.wait(_POLL_SECONDS)
        finally:
            self._stop_all()
        return status

    def _on_signal(self) -> None:
        """The first signal asks for an orderly stop, a second one for one at once."""
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    def _reload(self, service: metrics.Service) -> None:
        """Read the settings again and have every process take them up."""
        before = self.reloading.settings
        self.systemd.reloading()
        try:
            has_changed = self.reloading.read(self.config_path)
        finally:
            self.systemd.reloaded()
        if not has_changed:
            return
        self.settings = self.reloading.settings
        changed = compare(before, self.settings).reloadable
        record(self.settings, AuditKind.SETTINGS_CHANGED, detail={"settings": ", ".join(changed)})
        log.configure_service(self.settings.observe.log_level)
        service.use_settings(self.settings)
        self.machine_watch.use_settings(self.settings)

    def _give_settings(self, child: Child) -> None:
        """Have a process that is ready take up newer settings: in place, or as a new process."""
        assert child.process is not None
        if child.version == self.reloading.version or child.is_replaced:
            return
        if not self.shared_counters.get(self._row(child), "ready"):
            return
        if child.role in self.reloading.roles_to_replace(child.version):
            child.is_replaced = True
            child.process.terminate()
        else:
            child.version = self.reloading.version
            child.process.send_signal(signal.SIGHUP)

    def _check_child(self, child: Child) -> int:
        """Start the child if it is due, handle its exit if it died; returns an exit status other
        than DONE if the service cannot run."""
        if child.process is None:
            if time.monotonic() >= child.due:
                self._start(child)
            return DONE
        ended = child.process.poll()
        if ended is None:
            self._give_settings(child)
            return DONE
        if child.is_replaced and ended == DONE:
            self._replace(child)
            return DONE
        if child.starts == 1 and ended in (WRONG_SETTINGS, ALARM):
            # It has printed the reason; another start would only fail the same way.
            return WRONG_SETTINGS if ended == WRONG_SETTINGS else 1
        self._handle_exit(child, ended)
        return DONE

    def _start(self, child: Child) -> None:
        """Start the child's process; without handles or memory for it, try again later."""
        try:
            self._spawn(child)
        except OSError as error:
            child.quick_deaths += 1
            child.reason = f"the process cannot be started: {(error.strerror or 'error').lower()}"
            self.log.error(
                "process not started",
                kind=child.role,
                reason=child.reason,
                retry_in=child.delay_start(),
            )

    def _spawn(self, child: Child) -> None:
        child.reason_pipe, theirs = os.pipe()
        try:
            os.set_blocking(child.reason_pipe, False)
            orders = self._orders(child) | {"reason": theirs}
            inherited = [self.shared_counters.fd, self.reloading.memory, theirs]
            inherited += [each.fileno() for each in self._listeners_of(child).values()]
            if child.role == "receive":
                inherited.append(self.slots.descriptor)
            child.process = subprocess.Popen(
                # -P: what lies in the working directory is no part of the service.
                [sys.executable, "-P", "-m", "qc_daemon.service.roles", child.role],
                stdin=subprocess.PIPE,
                text=True,
                pass_fds=inherited,
                # The orders are the whole settings; the environment must not be applied twice.
                env={k: v for k, v in os.environ.items() if not k.upper().startswith("QC_DAEMON_")},
            )
        except OSError:
            child.read_reason()
            raise
        finally:
            os.close(theirs)
        child.owner = lease_owner(child.role, child.process.pid)
        child.started = time.monotonic()
        child.starts += 1
        child.version, child.is_replaced = self.reloading.version, False
        assert child.process.stdin is not None
        # It may have died before it read them; the next round finds that.
        with contextlib.suppress(BrokenPipeError), child.process.stdin as orders_pipe:
            json.dump(orders, orders_pipe)

    def _orders(self, child: Child) -> dict[str, object]:
        receives = child.role == "receive"
        listeners = self._listeners_of(child)
        return {
            "parent": os.getpid(),
            "settings": self.settings.model_dump(mode="json"),
            "settings_memory": self.reloading.memory,
            "counters": {"fd": self.shared_counters.fd, "more": self.shared_counters.more},
            "row": self._row(child),
            "listeners": {kind: each.fileno() for kind, each in listeners.items()},
            "slots": self.slots.descriptor if receives else None,
        }

    def _listeners_of(self, child: Child) -> Listeners:
        """The sockets that the role accepts connections on."""
        if child.role == "web":
            return {WEB: self.listeners[WEB]}
        if child.role == "schedule":
            return {kind: each for kind, each in self.listeners.items() if kind == HL7}
        if child.role != "receive":
            return {}
        return {kind: each for kind, each in self.listeners.items() if kind not in (HL7, WEB)}

    def _handle_exit(self, child: Child, ended: int) -> None:
        lived = time.monotonic() - child.started
        child.quick_deaths = 1 if lived > _STABLE_SECONDS else child.quick_deaths + 1
        delay = child.delay_start()
        assert child.process is not None
        pid, ended_owner = child.process.pid, child.owner
        child.process = None
        name = signal.Signals(-ended).name if ended < 0 else None
        child.reason = child.read_reason() or (f"killed by {name}" if name else f"exit {ended}")
        self.log.error(
            "process died",
            kind=child.role,
            exit_status=ended if ended >= 0 else None,
            signal=name,
            reason=child.reason,
            retry_in=delay,
        )
        self.shared_counters.reset_gauges(self._row(child))
        self.deferred.add(lambda: self._release(ended_owner, count_death=True))
        if child.role == "receive":
            self.deferred.add(lambda: self._free_slots(pid))

    def _replace(self, child: Child) -> None:
        """Start a process in the place of one that ended for newer settings."""
        self.log.info("process replaced", kind=child.role)
        ended_owner, child.process, child.is_replaced = child.owner, None, False
        child.replacements += 1
        child.read_reason()
        child.due = time.monotonic()
        self.shared_counters.reset_gauges(self._row(child))
        self._release_later(ended_owner)

    def _free_slots(self, pid: int) -> None:
        self.slots.clear(pid)
        self.spool.sweep()

    def _stop_all(self) -> None:
        self.systemd.stopping()
        for listener in self.listeners.values():
            listener.close()
        for child in self.children:
            if child.process is not None and child.running:
                child.process.terminate()
        until = time.monotonic() + STOP_SECONDS
        while any(child.running for child in self.children):
            if time.monotonic() > until or self._at_once.is_set():
                break
            time.sleep(_POLL_SECONDS)
        for child in self.children:
            if child.process is None:
                continue
            if child.running:
                self.log.warning("process killed", kind=child.role)
                child.process.kill()
            child.process.wait()
            self._release_later(child.owner)
        if not self.deferred.wait(_RELEASE_SECONDS):
            self.log.warning("leases not released", reason="the next start releases them")
        self.log.info("stopped")

    def _release_later(self, stopped: str) -> None:
        self.deferred.add(lambda: self._release(stopped, count_death=False))

    def _row(self, child: Child) -> int:
        """The child's row of the shared counters; the supervisor has row 0."""
        return next(row for row, each in enumerate(self.children, 1) if each is child)

    def _metrics_source(self) -> metrics.Service:
        """The source of the metrics, served over HTTP if the settings say so. Raises UsageError."""
        service = metrics.Service(
            self.settings,
            self.store,
            self.shared_counters,
            self._processes,
            machines=self.machine_watch.machines,
            audit_log=self.audit_log_watch.state,
        )
        observe = self.settings.observe
        if observe.port is None:
            return service
        try:
            server = endpoint.listen(observe.host, observe.port, service)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {observe.host}:{observe.port}:"
                f" {(error.strerror or 'error').lower()}; change observe.host or observe.port"
            ) from None
        host, port = server.server_address[:2]
        self.log.info("metrics", host=str(host), port=port)
        return service

    def _processes(self) -> list[metrics.Process]:
        return [
            metrics.Process(
                child.role,
                child.running,
                self.shared_counters.get(self._row(child), "ready") > 0,
                max(0, child.starts - 1 - child.replacements),
                child.reason,
            )
            for child in self.children
        ]

    def _reconcile(self) -> None:
        """Compare spool and database at the start and then at intervals, in a thread of its own."""
        self._reconcile_once(fix=True)
        while not self._stop.wait(_RECONCILE_SECONDS):
            self._reconcile_once(fix=False)

    def _reconcile_once(self, *, fix: bool) -> None:
        try:
            result = reconcile(self.store, self.spool.root, self.clock(), self._stop, fix=fix)
        except (QCError, OSError) as error:
            self.log.warning("spool not reconciled", error_type=type(error).__name__)
            return
        if self._stop.is_set():
            # Only a part was compared.
            return
        log_differences(result)
        counters.set("spool_orphans", result.orphans)
        counters.set("spool_missing", result.missing + result.damaged)

    def _release_dead(self) -> None:
        """Release the leases of this host's processes that ended with the whole service."""
        with self.store.read() as session:
            leased = jobs.listing(session, states=[JobState.LEASED])
        for name in {
            job.owner for job in leased if job.owner is not None and has_exited(job.owner)
        }:
            # It is not known that a job killed them, so no death is counted.
            self._release_later(name)

    def _release(self, name: str, *, count_death: bool) -> None:
        """Release the leases of this owner; `count_death` counts one death against their jobs.

        Raises QCError STORAGE.
        """
        limit = self.settings.jobs.max_deaths
        with self.store.begin() as session:
            count = jobs.release_owner(session, name, self.clock(), limit, count_death=count_death)
        if count:
            self.log.info("leases released", owner=name, count=count)
