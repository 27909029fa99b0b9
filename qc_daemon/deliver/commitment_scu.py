"""Requests storage commitment of destinations, as SCU (PS3.4 Annex J, Push Model).

One request names all objects that a destination was sent meanwhile. It may report on the
association of the request, which stays open for some seconds, or on one of its own to our receiver.
"""

import random
import threading
import time
from datetime import timedelta
from typing import Any

from pydicom.uid import generate_uid
from pynetdicom import build_context, evt

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.circuit_breaker import CircuitBreaker, CommitmentRefusals
from qc_daemon.deliver.commitment_scp import CommitmentWorker
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.dimse_request import refusal_of
from qc_daemon.dicom.status import INVALID_ARGUMENT_VALUE, PROCESSING_FAILURE, SUCCESS
from qc_daemon.dicom.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    action_information,
    read_report,
)
from qc_daemon.dicom.tls import tls_args
from qc_daemon.observe import counters
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.commitment import scu
from qc_daemon.records.commitment.scu import CommitmentRequest
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results import destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentSupport, JobState
from qc_daemon.settings import DestinationSettings, Settings

# The association of a request stays open so long for its report.
_REPORT_WAIT_SECONDS = 5.0
# While it is open, the database is read this often: the report may have come elsewhere.
_POLL_SECONDS = 0.1
# A destination that does not answer holds the others up for no longer.
_MAX_TIMEOUT_SECONDS = 25.0
_PRUNE_INTERVAL_SECONDS = 3600.0
# Requests older than this are deleted, unless a sent job still waits for their report.
_RETENTION = timedelta(days=30)


class CommitmentRequester(CommitmentWorker):
    """Requests commitment of what destinations were sent, and applies their reports."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        owner: str,
        clock: Clock = utc_now,
        breaker: CircuitBreaker | None = None,
        refusals: CommitmentRefusals | None = None,
    ) -> None:
        super().__init__(store, settings, owner, clock)
        self.breaker = breaker or CircuitBreaker()
        self.refusals = refusals or CommitmentRefusals()
        self._destinations = {each.name: each for each in settings.destination}
        self._lenient = [e.name for e in settings.destination if e.commitment == "auto"]
        self._policy = RetryPolicy.of(settings.jobs)
        # Jitter only spreads load; it guards nothing.
        self._rng = random.Random()
        self._stop = threading.Event()
        self._prune_due = 0.0

    def run(self, stop: threading.Event) -> None:
        self._stop = stop
        super().run(stop)

    def run_once(self) -> bool:
        """Apply reports, then send the requests that are due; False if there was neither."""
        with self.store.read() as session:
            has_reports = scu.has_reports(session)
            due = scu.destinations_due(session, self.clock())
        if has_reports:
            self._apply_reports()
        has_sent = [self._handle(name) for name in due if not self._stop.is_set()]
        self._prune()
        return has_reports or any(has_sent)

    def _apply_reports(self) -> None:
        with self.store.begin() as session:
            outcomes = scu.apply_reports(
                session, self.clock(), self._policy, self._rng, self._lenient
            )
        for each in outcomes:
            counters.count_delivery(each.destination, done=each.error is None)
            if each.error is None:
                self.log.info("delivered", job=each.job_id, destination=each.destination)
                continue
            dead = each.state is JobState.DEAD
            (self.log.critical if dead else self.log.warning)(
                "commitment given up" if dead else "commitment refused",
                job=each.job_id,
                destination=each.destination,
                code=each.error.code,
                reason=each.error.message,
            )

    def _handle(self, name: str) -> bool:
        """Request or waive commitment of what the destination was sent; False if that must wait."""
        destination = self._destinations.get(name)
        if destination is None:
            # Another daemon on the database may know it, or the settings will again.
            return False
        if self._needs_no_commitment(destination):
            self._accept_without(destination)
            return True
        return self._send_request(destination)

    def _needs_no_commitment(self, destination: DestinationSettings) -> bool:
        """Whether what this destination has stored counts as delivered."""
        if destination.kind != "dicom" or destination.commitment == "off":
            return True
        return destination.commitment == "auto" and self.refusals.is_unsupported(destination.name)

    def _accept_without(self, destination: DestinationSettings) -> None:
        with self.store.begin() as session:
            ids = scu.accept_without(session, destination.name, self.clock())
        for each in ids:
            counters.count_delivery(destination.name, done=True)
            self.log.info("delivered", job=each, destination=destination.name)

    def _send_request(self, destination: DestinationSettings) -> bool:
        """Send one request; False if none is due or the destination could not be reached lately."""
        try:
            self.breaker.check(destination.name)
        except QCError:
            return False
        now = self.clock()
        with self.store.begin() as session:
            request = scu.create_request(
                session,
                destination.name,
                # A random UID: only the destination we send it to can know it.
                generate_uid(prefix=None),
                now,
                timedelta(seconds=destination.commitment_timeout),
                self._policy,
                self._rng,
            )
        if request is None:
            return False
        try:
            self._exchange(self._associate(destination, request), destination, request)
        except _RefusedError as error:
            self._postpone(request, error)
            self._record_refusal(destination, error)
        except QCError as error:
            if error.code is not ErrorCode.COMMITMENT_AWAITED:
                raise
            self._postpone(request, error)
        return True

    def _exchange(
        self, association: Any, destination: DestinationSettings, request: CommitmentRequest
    ) -> None:
        try:
            self._send_action(association, destination, request)
            self._record_acceptance(request)
            self._wait_for_report(association, request)
        finally:
            if association.is_established:
                association.release()

    def _associate(self, destination: DestinationSettings, request: CommitmentRequest) -> Any:
        ae = requestor(
            self.settings.receive.ae_title, min(_MAX_TIMEOUT_SECONDS, destination.timeout)
        )
        ae.dimse_timeout = destination.timeout
        began = time.monotonic()
        secure = self._tls_args(destination)
        association = associate(
            ae,
            destination.host,
            destination.port,
            contexts=[build_context(PUSH_MODEL)],
            ae_title=destination.ae_title,
            tls_args=secure,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report, [request.destination])],
        )
        if association.is_established:
            return association
        if association.rejected_contexts and not association.is_rejected:
            raise _RefusedError(destination, "accepts no request", is_offered=False)
        why = cause(association, destination.host, destination.port, secure)
        self.breaker.record_failure(destination.name, time.monotonic() - began)
        raise _awaited(destination, "cannot be asked", f": {why}")

    def _tls_args(self, destination: DestinationSettings) -> Any:
        try:
            return tls_args(destination)
        except QCError as error:
            raise QCError(ErrorCode.COMMITMENT_AWAITED, error.message) from error

    def _send_action(
        self, association: Any, destination: DestinationSettings, request: CommitmentRequest
    ) -> None:
        """Send the N-ACTION. Raises _RefusedError."""
        information = action_information(request.transaction_uid, request.references)
        try:
            answer, _ = association.send_n_action(
                information, REQUEST_STORAGE_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except (RuntimeError, OSError) as error:
            raise _RefusedError(destination, "broke off the request") from error
        if "Status" not in answer:
            raise _RefusedError(destination, "did not answer the request")
        if answer.Status != SUCCESS:
            raise _RefusedError(destination, f"answered {answer.Status:04X} to the request")

    def _record_acceptance(self, request: CommitmentRequest) -> None:
        self.refusals.clear(request.destination)
        with self.store.begin() as session:
            scu.mark_accepted(session, request, self.clock())
            destinations.record_commitment(
                session, request.destination, CommitmentSupport.TAKEN, self.clock()
            )
        self.log.info(
            "commitment asked",
            transaction=request.transaction_uid,
            destination=request.destination,
            count=len(request.references),
        )

    def _wait_for_report(self, association: Any, request: CommitmentRequest) -> None:
        """Keep the association open for the report, unless that comes elsewhere before."""
        until = time.monotonic() + _REPORT_WAIT_SECONDS
        while association.is_established and time.monotonic() < until:
            with self.store.read() as session:
                if scu.is_answered(session, request):
                    return
            if self._stop.wait(_POLL_SECONDS):
                return

    def _on_report(self, event: Any, destination: str) -> tuple[int, None]:
        """Answer a report that comes on the association of the request, in a thread of its own."""
        refusal = refusal_of(event)
        if refusal is not None:
            return refusal.status, None
        try:
            report = read_report(event.event_information)
        except ValueError:
            return INVALID_ARGUMENT_VALUE, None
        try:
            with self.store.begin() as session:
                is_ours = scu.record_report(session, report, [destination])
        except QCError:
            return PROCESSING_FAILURE, None
        self.log.info(
            "commitment told",
            transaction=report.transaction_uid,
            count=len(report.committed),
            reason=f"{len(report.failed)} failed" if report.failed else None,
            destination=destination,
        )
        return (SUCCESS if is_ours else INVALID_ARGUMENT_VALUE), None

    def _postpone(self, request: CommitmentRequest, error: QCError) -> None:
        with self.store.begin() as session:
            scu.postpone(session, request, error, self.clock(), self._policy, self._rng)
        self.log.warning(
            "commitment not asked",
            transaction=request.transaction_uid,
            destination=request.destination,
            reason=error.message,
        )

    def _record_refusal(self, destination: DestinationSettings, error: "_RefusedError") -> None:
        """Record that the destination refused a request.

        One that accepted requests before can commit: its refusal is a fault, and objects wait until
        someone has fixed it.
        """
        with self.store.begin() as session:
            has_accepted = scu.has_accepted(session, destination.name)
            never = CommitmentSupport.REFUSED if error.is_offered else CommitmentSupport.NOT_OFFERED
            support = CommitmentSupport.LOST if has_accepted else never
            destinations.record_commitment(
                session, destination.name, support, self.clock(), error.message
            )
        if not has_accepted:
            self.refusals.record_refusal(destination.name, is_offered=error.is_offered)
        if self._needs_no_commitment(destination):
            self.log.warning(
                "destination commits to nothing",
                destination=destination.name,
                reason="it takes no request; what it has stored counts as delivered",
            )
            self._accept_without(destination)

    def _prune(self) -> None:
        """Now and then, delete requests whose report would be of no use any more."""
        if time.monotonic() < self._prune_due:
            return
        self._prune_due = time.monotonic() + _PRUNE_INTERVAL_SECONDS
        with self.store.begin() as session:
            scu.prune(session, self.clock() - _RETENTION)


class _RefusedError(QCError):
    """The destination did not accept a request; `is_offered` if it negotiates them."""

    def __init__(
        self, destination: DestinationSettings, what: str, *, is_offered: bool = True
    ) -> None:
        super().__init__(ErrorCode.COMMITMENT_AWAITED, _message(destination, what))
        self.is_offered = is_offered


def _awaited(destination: DestinationSettings, what: str, why: str = "") -> QCError:
    return QCError(ErrorCode.COMMITMENT_AWAITED, _message(destination, what) + why)


def _message(destination: DestinationSettings, what: str) -> str:
    return f"destination {destination.name} {what} for storage commitment"
