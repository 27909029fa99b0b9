"""Storage commitment: whether what was asked can be promised, and telling the requester.

A promise is about the destinations that an original goes to: an object is committed to once its
bytes here are what was received and each of these destinations holds it (or, without any, the spool
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
from qc_daemon.dicom.status import CLASS_INSTANCE_CONFLICT, NO_SUCH_SOP_INSTANCE, PROCESSING_FAILURE
from qc_daemon.dicom.storage_commitment import (
    COMMITTED,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Report,
    event_information,
)
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.commitment import scp
from qc_daemon.records.commitment.scp import Claim, Hold, KeptFile, Standing
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState
from qc_daemon.routing import SOURCE, Routes
from qc_daemon.settings import PeerSettings, Settings
from qc_daemon.spool import verification
from qc_daemon.spool.verification import Condition

_LEASE_SECONDS = 120.0
# Decisions are written down at least this often, so that a long request outlives its worker.
_WRITE_EVERY_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 60.0
_REASONS = {
    NO_SUCH_SOP_INSTANCE: "never received",
    CLASS_INSTANCE_CONFLICT: "received with another SOP class",
    PROCESSING_FAILURE: "kept for good neither here nor by every destination",
}


class CommitmentWorker:
    """What all have: a loop that rests where there is nothing to do or the database is away."""

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
        while not stop.is_set():
            try:
                busy = self.run_once()
            except QCError as error:
                self.log.error("commitment stalled", code=error.code, reason=error.message)
                busy = False
            if not busy:
                stop.wait(self.settings.jobs.poll_seconds)

    def run_once(self) -> bool:
        """Take one request and settle it; False if none is due. Raises QCError STORAGE."""
        raise NotImplementedError

    def _claim(self, state: CommitmentState) -> Claim | None:
        with self.store.begin() as session:
            return scp.claim(session, state, self.owner, self.clock(), _LEASE_SECONDS)


class CommitmentJudge(CommitmentWorker):
    """Decides, object by object, what can be promised."""

    def run_once(self) -> bool:
        if not self.settings.store.spool.is_dir():
            # A file system that is away says nothing about the objects on it.
            raise QCError(ErrorCode.STORAGE, "the spool is not there; mount it or set store.spool")
        claim = self._claim(CommitmentState.WAITING)
        if claim is None:
            return False
        if self._decide_all(claim, self._standings(claim)):
            now = self.clock()
            with self.store.begin() as session:
                ready = scp.settle(session, claim, now + self._pause(claim, now))
            if ready:
                self.log.info("commitment decided", transaction=claim.transaction_uid)
        return True

    def _standings(self, claim: Claim) -> list[Standing]:
        routes = Routes.of(self.settings)
        for_ever = self.settings.store.keep_pixels_days == "forever"
        with self.store.read() as session:
            return scp.standings(
                session,
                claim,
                routes.certain(SOURCE),
                kept_for_ever=for_ever,
                routed=routes.possible(SOURCE),
            )

    def _pause(self, claim: Claim, now: datetime) -> timedelta:
        """Until the next look: soon for a fresh request, seldom for one that waits for hours."""
        age = (now - claim.requested_at).total_seconds()
        shortest = self.settings.jobs.poll_seconds
        return timedelta(seconds=max(shortest, min(age / 10, _LONGEST_WAIT_SECONDS)))

    def _decide_all(self, claim: Claim, standings: list[Standing]) -> bool:
        """False if the lease was lost on the way."""
        decisions: dict[int, int] = {}
        written = time.monotonic()
        for standing in standings:
            failure = self._decide(standing)
            if failure is not None:
                decisions[standing.position] = failure
            if time.monotonic() - written >= _WRITE_EVERY_SECONDS:
                if not self._write(claim, decisions):
                    return False
                decisions, written = {}, time.monotonic()
        return self._write(claim, decisions)

    def _write(self, claim: Claim, decisions: dict[int, int]) -> bool:
        with self.store.begin() as session:
            return scp.decide(session, claim, decisions, self.clock(), _LEASE_SECONDS)

    def _decide(self, standing: Standing) -> int | None:
        """COMMITTED, a Failure Reason, or None while a destination still waits for the object."""
        if standing.failure is not None:
            failure, reason = standing.failure, _REASONS[standing.failure]
        elif any(self._damaged(standing, file) for file in standing.files):
            failure, reason = PROCESSING_FAILURE, "damaged in the spool"
        else:
            return COMMITTED if standing.hold is Hold.ALL else None
        self.log.warning(
            "object not committed",
            sop_instance=standing.reference.sop_instance_uid,
            status=f"{failure:04X}",
            reason=reason,
        )
        return failure

    def _damaged(self, standing: Standing, file: KeptFile) -> bool:
        """Whether a file is missing or altered; its hash is taken only when that decides."""
        path = self.settings.store.spool / file.path
        whole = _intact(path, file) if standing.hold is Hold.ALL else _same_size(path, file)
        if whole:
            return False
        with self.store.read() as session:
            if not scp.still_kept(session, file):
                return False
        self.log.critical(
            "spool file missing or altered",
            sop_instance=standing.reference.sop_instance_uid,
            path=file.path,
        )
        return True


class CommitmentReporter(CommitmentWorker):
    """Reports what is decided, each on an association of its own."""

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
            told = scp.report(session, claim)
        try:
            self._report(claim, told)
        except QCError as error:
            self._failed(claim, error)
            return True
        with self.store.begin() as session:
            scp.reported(session, claim, self.clock())
        self.log.info(
            "commitment reported", transaction=claim.transaction_uid, ae_title=claim.requested_by
        )
        return True

    def _failed(self, claim: Claim, error: QCError) -> None:
        policy = RetryPolicy.of(self.settings.jobs)
        with self.store.begin() as session:
            state = scp.not_reported(session, claim, error.message, self.clock(), policy, self._rng)
        dead = state is CommitmentState.DEAD
        (self.log.critical if dead else self.log.warning)(
            "commitment report given up" if dead else "commitment not reported",
            transaction=claim.transaction_uid,
            ae_title=claim.requested_by,
            code=error.code,
            reason=error.message,
        )

    def _report(self, claim: Claim, told: Report) -> None:
        """One association, one N-EVENT-REPORT. Raises QCError."""
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
            self._send(association, claim, told)
        finally:
            if association.is_established:
                association.release()

    def _send(self, association: Any, claim: Claim, told: Report) -> None:
        event_type, information = event_information(told)
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
        if answer.Status != 0x0000:
            raise _error(
                ErrorCode.DELIVERY_REFUSED, claim, f"answered the report {answer.Status:04X}"
            )

    def _peer(self, claim: Claim) -> tuple[PeerSettings, int]:
        """The requester's settings, and the port that they say it takes reports on."""
        for peer in self.settings.receive.peer:
            if (
                peer.ae_title == claim.requested_by
                and peer.port is not None
                and _within(claim.address, peer.address)
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


def _intact(path: Path, file: KeptFile) -> bool:
    """Raises QCError STORAGE where the spool does not let the file be read."""
    condition = verification.examine(path, verification.content_hash(path, file.sha256), file.size)
    if condition is Condition.UNREADABLE:
        raise _unreadable()
    return condition is Condition.INTACT


def _same_size(path: Path, file: KeptFile) -> bool:
    """Raises QCError STORAGE where the spool does not let the file be looked at."""
    try:
        return path.stat().st_size == file.size
    except FileNotFoundError:
        return False
    except OSError:
        raise _unreadable() from None


def _unreadable() -> QCError:
    """Says nothing about the object: its requester waits."""
    return QCError(ErrorCode.STORAGE, "a file in the spool cannot be read; see its permissions")


def _within(address: str, network: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    net = ipaddress.ip_network(network, strict=False)
    return found.version == net.version and found in net


def _error(code: ErrorCode, claim: Claim, what: str) -> QCError:
    return QCError(code, f"requester {claim.requested_by} {what}")
