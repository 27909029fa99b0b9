"""Decides storage commitment requested of us, and reports it to the requester (PS3.4 J, as SCP).

A commitment is about the destinations that an original goes to: an object is committed to once its
bytes here are what was received and each of these destinations has it (or, without any, the spool
keeps it for ever). Until then the report waits.
"""

import ipaddress
import random
import ssl
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pynetdicom import build_context, build_role

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.circuit_breaker import CircuitBreaker
from qc_daemon.dicom import tls
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.status import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
)
from qc_daemon.dicom.storage_commitment import (
    COMMITTED,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Report,
    event_information,
)
from qc_daemon.job_runner import run_loop
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.commitment import scp
from qc_daemon.records.commitment.scp import Claim, DeliveryState, PendingItem, SpoolFile
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import PeerSettings, Settings
from qc_daemon.spool import verification
from qc_daemon.spool.verification import Condition

_LEASE_SECONDS = 120.0
# Decisions are recorded at least this often, so that a long request outlives its worker.
_WRITE_INTERVAL_SECONDS = 2.0
# A request that waits for long is checked again at least this often.
_MAX_PAUSE_SECONDS = 60.0
_REASONS = {
    NO_SUCH_SOP_INSTANCE: "never received",
    CLASS_INSTANCE_CONFLICT: "received with another SOP class",
    PROCESSING_FAILURE: "kept for good neither here nor by every destination",
}


class CommitmentWorker:
    """A loop over requests, which pauses where none is due or the database is away."""

    def __init__(
        self, store: Store, settings: Settings, owner: str, clock: Clock = utc_now
    ) -> None:
        self.store = store
        self.settings = settings
        self.owner = owner
        self.clock = clock
        self.log = log.get(role="deliver")

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`."""
        poll_seconds = self.settings.jobs.poll_seconds
        run_loop(self.run_once, stop, self.log, lambda: poll_seconds, "commitment stalled")

    def run_once(self) -> bool:
        """Do what one due request needs; False if none is due. Raises QCError STORAGE."""
        raise NotImplementedError

    def _claim(self, state: CommitmentState) -> Claim | None:
        with self.store.begin() as session:
            return scp.claim(session, state, self.owner, self.clock(), _LEASE_SECONDS)


class CommitmentVerifier(CommitmentWorker):
    """Decides, object by object, what can be committed to."""

    def run_once(self) -> bool:
        if not self.settings.store.spool.is_dir():
            # A file system that is away says nothing about the objects on it.
            raise QCError(ErrorCode.STORAGE, "the spool is not there; mount it or set store.spool")
        claim = self._claim(CommitmentState.WAITING)
        if claim is None:
            return False
        if self._decide_all(claim, self._pending_items(claim)):
            now = self.clock()
            with self.store.begin() as session:
                is_ready = scp.finish_if_decided(session, claim, now + self._pause(claim, now))
            if is_ready:
                self.log.info("commitment decided", transaction=claim.transaction_uid)
        return True

    def _pending_items(self, claim: Claim) -> list[PendingItem]:
        routes = Routes.of(self.settings)
        is_permanent = self.settings.store.keep_pixels_days == "forever"
        with self.store.read() as session:
            return scp.pending_items(
                session,
                claim,
                routes.certain(SOURCE),
                is_spool_permanent=is_permanent,
                routed=routes.possible(SOURCE),
            )

    def _pause(self, claim: Claim, now: datetime) -> timedelta:
        """How long until the next check: seconds for a fresh request, more the longer it waits."""
        age = (now - claim.requested_at).total_seconds()
        shortest = self.settings.jobs.poll_seconds
        return timedelta(seconds=max(shortest, min(age / 10, _MAX_PAUSE_SECONDS)))

    def _decide_all(self, claim: Claim, items: list[PendingItem]) -> bool:
        """False if the lease was lost on the way."""
        decisions: dict[int, int] = {}
        last_write = time.monotonic()
        for item in items:
            failure = self._decide(item)
            if failure is not None:
                decisions[item.position] = failure
            if time.monotonic() - last_write >= _WRITE_INTERVAL_SECONDS:
                if not self._write(claim, decisions):
                    return False
                decisions, last_write = {}, time.monotonic()
        return self._write(claim, decisions)

    def _write(self, claim: Claim, decisions: dict[int, int]) -> bool:
        with self.store.begin() as session:
            return scp.record_decisions(session, claim, decisions, self.clock(), _LEASE_SECONDS)

    def _decide(self, item: PendingItem) -> int | None:
        """COMMITTED, a Failure Reason, or None while a destination still waits for the object."""
        if item.failure is not None:
            failure, reason = item.failure, _REASONS[item.failure]
        elif any(self._is_damaged(item, file) for file in item.files):
            failure, reason = PROCESSING_FAILURE, "damaged in the spool"
        else:
            return COMMITTED if item.delivery is DeliveryState.COMPLETE else None
        self.log.warning(
            "object not committed",
            sop_instance=item.reference.sop_instance_uid,
            status=f"{failure:04X}",
            reason=reason,
        )
        return failure

    def _is_damaged(self, item: PendingItem, file: SpoolFile) -> bool:
        """Whether a file is missing or altered; its hash is taken only when that decides."""
        path = self.settings.store.spool / file.path
        is_whole = (
            _is_intact(path, file)
            if item.delivery is DeliveryState.COMPLETE
            else _has_size(path, file)
        )
        if is_whole:
            return False
        with self.store.read() as session:
            if not scp.is_in_spool(session, file):
                return False
        self.log.critical(
            "spool file missing or altered",
            sop_instance=item.reference.sop_instance_uid,
            path=file.path,
        )
        return True


class CommitmentReporter(CommitmentWorker):
    """Reports decided requests, each on an association of its own."""

    def __init__(
        self, store: Store, settings: Settings, owner: str, clock: Clock = utc_now
    ) -> None:
        super().__init__(store, settings, owner, clock)
        self.breaker = CircuitBreaker()
        # Jitter only spreads load; it guards nothing.
        self._rng = random.Random()
        # All timeouts together stay within the lease.
        timeout = min(25.0, settings.receive.network_timeout)
        self._ae = requestor(settings.receive.ae_title, timeout)

    def run_once(self) -> bool:
        claim = self._claim(CommitmentState.READY)
        if claim is None:
            return False
        with self.store.read() as session:
            report = scp.compose_report(session, claim)
        try:
            self._send_report(claim, report)
        except QCError as error:
            self._record_failure(claim, error)
            return True
        with self.store.begin() as session:
            scp.mark_reported(session, claim, self.clock())
        self.log.info(
            "commitment reported", transaction=claim.transaction_uid, ae_title=claim.requested_by
        )
        return True

    def _record_failure(self, claim: Claim, error: QCError) -> None:
        policy = RetryPolicy.of(self.settings.jobs)
        with self.store.begin() as session:
            state = scp.record_failed_report(
                session, claim, error.message, self.clock(), policy, self._rng
            )
        dead = state is CommitmentState.DEAD
        (self.log.critical if dead else self.log.warning)(
            "commitment report given up" if dead else "commitment not reported",
            transaction=claim.transaction_uid,
            ae_title=claim.requested_by,
            code=error.code,
            reason=error.message,
        )

    def _send_report(self, claim: Claim, report: Report) -> None:
        """Send one N-EVENT-REPORT on an association of its own. Raises QCError."""
        peer, port = self._peer(claim)
        self.breaker.check(claim.requested_by)
        began = time.monotonic()
        # We are the SCP of this SOP class though we open the association (PS3.4 J.3.3, PS3.7 D.3).
        secure = _tls_args(claim, peer)
        association = associate(
            self._ae,
            claim.address,
            port,
            contexts=[build_context(PUSH_MODEL)],
            ext_neg=[build_role(PUSH_MODEL, scp_role=True)],
            ae_title=claim.requested_by,
            tls_args=secure,
        )
        if not association.is_established:
            why = cause(association, claim.address, port, secure)
            self.breaker.record_failure(claim.requested_by, time.monotonic() - began)
            raise _error(ErrorCode.DELIVERY_UNREACHABLE, claim, f"cannot be reached: {why}")
        try:
            self._send_event(association, claim, report)
        finally:
            if association.is_established:
                association.release()

    def _send_event(self, association: Any, claim: Claim, report: Report) -> None:
        event_type, information = event_information(report)
        try:
            answer, _ = association.send_n_event_report(
                information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except ValueError as error:
            raise _error(
                ErrorCode.DELIVERY_REFUSED, claim, "accepts no storage commitment"
            ) from error
        except (RuntimeError, OSError) as error:
            raise _error(ErrorCode.DELIVERY_UNREACHABLE, claim, "lost the association") from error
        if "Status" not in answer:
            raise _error(ErrorCode.DELIVERY_UNREACHABLE, claim, "did not answer the report")
        if answer.Status != SUCCESS:
            raise _error(
                ErrorCode.DELIVERY_REFUSED, claim, f"answered the report {answer.Status:04X}"
            )

    def _peer(self, claim: Claim) -> tuple[PeerSettings, int]:
        """The requester's settings, and the port that they say it takes reports on."""
        for peer in self.settings.receive.peer:
            if (
                peer.ae_title == claim.requested_by
                and peer.port is not None
                and _is_within(claim.address, peer.address)
            ):
                return peer, peer.port
        raise _error(
            ErrorCode.DELIVERY_UNREACHABLE, claim, "has no port; set port in its [[receive.peer]]"
        )


def _tls_args(claim: Claim, peer: PeerSettings) -> tuple[ssl.SSLContext, str] | None:
    """pynetdicom's `tls_args`; None for a plain association. Raises QCError."""
    if peer.tls is None:
        return None
    try:
        return tls.client_context(peer.tls), peer.tls.server_name or claim.address
    except (OSError, ValueError) as error:
        raise _error(
            ErrorCode.DELIVERY_UNREACHABLE,
            claim,
            f"cannot be called: its tls files cannot be used: {tls.reason(error)}",
        ) from error


def _is_intact(path: Path, file: SpoolFile) -> bool:
    """Whether the file is what was received, by its hash.

    Raises QCError STORAGE where the spool does not let it be read.
    """
    condition = verification.examine(path, verification.content_hash(path, file.sha256), file.size)
    if condition is Condition.UNREADABLE:
        raise _unreadable()
    return condition is Condition.INTACT


def _has_size(path: Path, file: SpoolFile) -> bool:
    """Whether the file is there with its size. Raises QCError STORAGE where that cannot be read."""
    try:
        return path.stat().st_size == file.size
    except FileNotFoundError:
        return False
    except OSError:
        raise _unreadable() from None


def _unreadable() -> QCError:
    """The spool cannot be read: that says nothing about the object, and its requester waits."""
    return QCError(ErrorCode.STORAGE, "a file in the spool cannot be read; see its permissions")


def _is_within(address: str, network: str) -> bool:
    host = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
        host = host.ipv4_mapped
    net = ipaddress.ip_network(network, strict=False)
    return host.version == net.version and host in net


def _error(code: ErrorCode, claim: Claim, what: str) -> QCError:
    return QCError(code, f"requester {claim.requested_by} {what}")
