"""Storage commitment asked of destinations, as SCU (PS3.4 Annex J, Push Model).

Objects that a destination was sent are asked about together. It may report on the association of
the request, which is kept open for some seconds, or on one of its own to our receiver.
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
from qc_daemon.deliver.commitment_scp import Clock, CommitmentWorker, utc_now
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.dimse_request import refusal_of
from qc_daemon.dicom.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    action_information,
    read_report,
)
from qc_daemon.dicom.tls import tls_args
from qc_daemon.observe import counters
from qc_daemon.records.commitment import scu
from qc_daemon.records.commitment.scu import Ask
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results import destinations
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentSupport, JobState
from qc_daemon.settings import DestinationSettings, Settings

# How long a report may come on the association of its request.
_LINGER_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.1
_LONGEST_CALL_SECONDS = 25.0
_FORGET_EVERY_SECONDS = 3600.0
_REMEMBERED = timedelta(days=30)
# Statuses of our answer to a report (PS3.7 Annex C).
_SUCCESS, _PROCESSING_FAILURE, _INVALID_ARGUMENT = 0x0000, 0x0110, 0x0115


class CommitmentAsker(CommitmentWorker):
    """Asks destinations to commit to what they were sent, and settles what they say."""

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
        self._forget_due = 0.0

    def run(self, stop: threading.Event) -> None:
        self._stop = stop
        super().run(stop)

    def run_once(self) -> bool:
        """Settle what was told, ask for what is due; False if there was neither."""
        with self.store.read() as session:
            told = scu.any_told(session)
            waiting = scu.waiting(session, self.clock())
        if told:
            self._settle()
        asked = [self._see_to(name) for name in waiting if not self._stop.is_set()]
        self._forget()
        return told or any(asked)

    def _settle(self) -> None:
        with self.store.begin() as session:
            settled = scu.settle(session, self.clock(), self._policy, self._rng, self._lenient)
        for each in settled:
            counters.delivery(each.destination, done=each.error is None)
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

    def _see_to(self, name: str) -> bool:
        """What is to be done about the objects that the destination was sent; False if it waits."""
        destination = self._destinations.get(name)
        if destination is None:
            # Another daemon on the database may know it, or the settings will again.
            return False
        if self._is_waived(destination):
            self._waive(destination)
            return True
        return self._ask(destination)

    def _is_waived(self, destination: DestinationSettings) -> bool:
        """Whether it is enough for this destination that it has the objects."""
        if destination.kind != "dicom" or destination.commitment == "off":
            return True
        return destination.commitment == "auto" and self.refusals.is_unsupported(destination.name)

    def _waive(self, destination: DestinationSettings) -> None:
        with self.store.begin() as session:
            ids = scu.waive(session, destination.name, self.clock())
        for each in ids:
            counters.delivery(destination.name, done=True)
            self.log.info("delivered", job=each, destination=destination.name)

    def _ask(self, destination: DestinationSettings) -> bool:
        """One request; False if the destination is left alone for now."""
        try:
            self.breaker.check(destination.name)
        except QCError:
            return False
        now = self.clock()
        with self.store.begin() as session:
            asked = scu.ask(
                session,
                destination.name,
                # A random UID, that none but who was asked can know.
                generate_uid(prefix=None),
                now,
                timedelta(seconds=destination.commitment_timeout),
                self._policy,
                self._rng,
            )
        if asked is None:
            return False
        try:
            self._converse(self._associate(destination, asked), destination, asked)
        except _RefusedError as error:
            self._put_off(asked, error)
            self._learn(destination, error)
        except QCError as error:
            if error.code is not ErrorCode.COMMITMENT_AWAITED:
                raise
            self._put_off(asked, error)
        return True

    def _converse(self, association: Any, destination: DestinationSettings, asked: Ask) -> None:
        try:
            self._request(association, destination, asked)
            self._taken(asked)
            self._linger(association, asked)
        finally:
            if association.is_established:
                association.release()

    def _associate(self, destination: DestinationSettings, asked: Ask) -> Any:
        # One that does not answer holds the others up.
        ae = requestor(
            self.settings.receive.ae_title, min(_LONGEST_CALL_SECONDS, destination.timeout)
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
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._told, [asked.destination])],
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

    def _request(self, association: Any, destination: DestinationSettings, asked: Ask) -> None:
        """The N-ACTION. Raises _RefusedError."""
        information = action_information(asked.transaction_uid, asked.references)
        try:
            answer, _ = association.send_n_action(
                information, REQUEST_STORAGE_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except (RuntimeError, OSError) as error:
            raise _RefusedError(destination, "broke off the request") from error
        if "Status" not in answer:
            raise _RefusedError(destination, "did not answer the request")
        if answer.Status != _SUCCESS:
            raise _RefusedError(destination, f"answered {answer.Status:04X} to the request")

    def _taken(self, asked: Ask) -> None:
        self.refusals.clear(asked.destination)
        with self.store.begin() as session:
            scu.taken(session, asked, self.clock())
            destinations.record_commitment(
                session, asked.destination, CommitmentSupport.TAKEN, self.clock()
            )
        self.log.info(
            "commitment asked",
            transaction=asked.transaction_uid,
            destination=asked.destination,
            count=len(asked.references),
        )

    def _linger(self, association: Any, asked: Ask) -> None:
        """Let a report come on the association, unless it comes elsewhere before."""
        until = time.monotonic() + _LINGER_SECONDS
        while association.is_established and time.monotonic() < until:
            with self.store.read() as session:
                if scu.is_told(session, asked):
                    return
            if self._stop.wait(_LOOK_EVERY_SECONDS):
                return

    def _told(self, event: Any, destination: str) -> tuple[int, None]:
        """A report on the association of the request, in a thread of its own."""
        refused = refusal_of(event)
        if refused is not None:
            return refused.status, None
        try:
            report = read_report(event.event_information)
        except ValueError:
            return _INVALID_ARGUMENT, None
        try:
            with self.store.begin() as session:
                known = scu.tell(session, report, [destination])
        except QCError:
            return _PROCESSING_FAILURE, None
        self.log.info(
            "commitment told",
            transaction=report.transaction_uid,
            count=len(report.committed),
            reason=f"{len(report.failed)} failed" if report.failed else None,
            destination=destination,
        )
        return (_SUCCESS if known else _INVALID_ARGUMENT), None

    def _put_off(self, asked: Ask, error: QCError) -> None:
        with self.store.begin() as session:
            scu.put_off(session, asked, error, self.clock(), self._policy, self._rng)
        self.log.warning(
            "commitment not asked",
            transaction=asked.transaction_uid,
            destination=asked.destination,
            reason=error.message,
        )

    def _learn(self, destination: DestinationSettings, error: "_RefusedError") -> None:
        """One that took requests before can commit: there a refusal is a fault, and objects wait
        until someone has fixed it."""
        with self.store.begin() as session:
            was_able = scu.has_taken(session, destination.name)
            never = CommitmentSupport.REFUSED if error.is_offered else CommitmentSupport.NOT_OFFERED
            support = CommitmentSupport.LOST if was_able else never
            destinations.record_commitment(
                session, destination.name, support, self.clock(), error.message
            )
        if not was_able:
            self.refusals.record_refusal(destination.name, is_offered=error.is_offered)
        if self._is_waived(destination):
            self.log.warning(
                "destination commits to nothing",
                destination=destination.name,
                reason="it takes no request; what it has stored counts as delivered",
            )
            self._waive(destination)

    def _forget(self) -> None:
        """Now and then, forget what no report can be of use for any more."""
        if time.monotonic() < self._forget_due:
            return
        self._forget_due = time.monotonic() + _FORGET_EVERY_SECONDS
        with self.store.begin() as session:
            scu.forget(session, self.clock() - _REMEMBERED)


class _RefusedError(QCError):
    """The destination did not take a request; `is_offered` if it negotiates them."""

    def __init__(
        self, destination: DestinationSettings, what: str, *, is_offered: bool = True
    ) -> None:
        super().__init__(ErrorCode.COMMITMENT_AWAITED, _message(destination, what))
        self.is_offered = is_offered


def _awaited(destination: DestinationSettings, what: str, why: str = "") -> QCError:
    return QCError(ErrorCode.COMMITMENT_AWAITED, _message(destination, what) + why)


def _message(destination: DestinationSettings, what: str) -> str:
    return f"destination {destination.name} {what} for storage commitment"
