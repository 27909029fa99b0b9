"""Reporting a storage commitment on the very association that asked for it (PS3.4 J.3.3)."""

import io
import queue
import threading
import time
from typing import Any
from uuid import uuid4

from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContextTuple
from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.dicom.status import SUCCESS
from qc_daemon.dicom.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Report,
    event_information,
)
from qc_daemon.observe import log
from qc_daemon.receive.upper_layer.association import Acceptor
from qc_daemon.records.clock import Clock
from qc_daemon.records.commitment import scp
from qc_daemon.records.commitment.scp import Claim
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState

# Seconds between two queries for outcomes.
_POLL_SECONDS = 0.25
# Seconds that the requester has to answer a report.
_ANSWER_SECONDS = 30.0
# Seconds of the lease on a request while it is reported; longer than an answer may take.
_LEASE_SECONDS = _ANSWER_SECONDS + 30.0


class SameAssociationReporter:
    """Waits for the outcomes of the commitment requests of one association; reports them over it.

    pynetdicom's own `send_n_event_report` takes the next message that comes for its answer, even if
    that is the peer's next C-STORE. So the report is put into the queue of incoming messages: the
    association's thread passes it to `intercept`, which sends it between two requests, and passes
    on the answer when it comes.
    """

    def __init__(
        self,
        association: Acceptor,
        context: PresentationContextTuple,
        store: Store,
        clock: Clock,
    ) -> None:
        # Names the association in the database.
        self.token = uuid4().hex
        self.store = store
        self.clock = clock
        self.log = log.get(role="receive")
        self._association = association
        self._context = context
        self._lock = threading.Lock()
        self._is_running = False
        self._until = 0.0
        self._message_id = 0
        # Message ID and status of each answer.
        self._answers: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def prolong(self) -> None:
        """Wait for outcomes for `REPORT_DELAY_SECONDS`; call it once a request is recorded."""
        with self._lock:
            self._until = time.monotonic() + scp.REPORT_DELAY_SECONDS
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while states := self._open_states():
            if CommitmentState.READY in states:
                try:
                    self._report_next()
                except (QCError, SQLAlchemyError) as error:
                    # Once our lease has run out the deliver role reports it.
                    self.log.warning("commitment not told", error_type=type(error).__name__)
            time.sleep(_POLL_SECONDS)

    def _open_states(self) -> set[CommitmentState]:
        """States of the requests still to report here; none ends the thread until `prolong`."""
        with self._lock:
            states = self._query_states()
            self._is_running = bool(states)
            return states

    def _query_states(self) -> set[CommitmentState]:
        is_active = self._association.is_established and time.monotonic() < self._until
        try:
            if is_active:
                with self.store.read() as session:
                    return scp.open_states(session, self.token)
            with self.store.begin() as session:
                scp.end_association(session, self.token, self.clock())
        except (QCError, SQLAlchemyError):
            # Without the database nothing is decided either; it may come back in time.
            return {CommitmentState.WAITING} if is_active else set()
        return set()

    def _report_next(self) -> None:
        with self.store.begin() as session:
            claim = scp.claim(
                session,
                CommitmentState.READY,
                f"receive/{self.token}",
                self.clock(),
                _LEASE_SECONDS,
                association=self.token,
            )
            report = None if claim is None else scp.compose_report(session, claim)
        if claim is not None and report is not None:
            self._record_outcome(claim, self._send(report))

    def _record_outcome(self, claim: Claim, status: int | None) -> None:
        is_reported = status == SUCCESS
        with self.store.begin() as session:
            if is_reported:
                scp.mark_reported(session, claim, self.clock())
            else:
                scp.report_elsewhere(session, claim, self.clock())
        self.log.info(
            "commitment reported" if is_reported else "commitment to be reported elsewhere",
            transaction=claim.transaction_uid,
            calling_ae=claim.requested_by,
            status=None if status is None else f"{status:04X}",
        )

    def _send(self, report: Report) -> int | None:
        """Send the N-EVENT-REPORT; returns the answer's status, None if no answer came."""
        event_type, information = event_information(report)
        syntax = self._context.transfer_syntax
        self._message_id = self._message_id % 0xFFFF + 1
        message = N_EVENT_REPORT()
        message.MessageID = self._message_id
        message.AffectedSOPClassUID = PUSH_MODEL
        message.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
        message.EventTypeID = event_type
        message.EventInformation = io.BytesIO(
            encode(information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        )
        self._association.dimse.msg_queue.put((self._context.context_id, _OutgoingMessage(message)))
        until = time.monotonic() + _ANSWER_SECONDS
        while self._association.is_established and time.monotonic() < until:
            try:
                message_id, status = self._answers.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if message_id == message.MessageID:
                return status
        return None

    def intercept(self, message: Any, context_id: int) -> bool:
        """Send a report of ours, or keep the answer to one; False for every other message."""
        if isinstance(message, _OutgoingMessage):
            self._association.dimse.send_msg(message.primitive, context_id)
        elif isinstance(message, N_EVENT_REPORT) and not message.is_valid_request:
            self._answers.put((message.MessageIDBeingRespondedTo, message.Status))
        else:
            return False
        return True


class _OutgoingMessage:
    """A message to send, in the queue of incoming ones."""

    def __init__(self, primitive: N_EVENT_REPORT) -> None:
        self.primitive = primitive
