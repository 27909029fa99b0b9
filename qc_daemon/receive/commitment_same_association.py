"""Reporting a storage commitment on the very association that asked for it (PS3.4 J.3.3)."""

import io
import queue
import threading
import time
from typing import Any
from uuid import uuid4

from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
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
from qc_daemon.records.clock import Clock
from qc_daemon.records.commitment import scp
from qc_daemon.records.commitment.scp import Claim
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState

_LOOK_EVERY_SECONDS = 0.25
_ANSWER_SECONDS = 30.0
_LEASE_SECONDS = _ANSWER_SECONDS + 30.0


class CommitmentWatch:
    """Waits for the outcome of what one association asked for, and reports over it.

    pynetdicom's own `send_n_event_report` takes the next message that comes for its answer, even if
    that is the peer's next C-STORE. So the report is put among the incoming messages: the
    association's thread sends it between two requests, and hands us the answer when it comes.
    """

    def __init__(self, event: Any, store: Store, clock: Clock) -> None:
        self.token = uuid4().hex
        self.store = store
        self.clock = clock
        self.log = log.get(role="receive")
        self._association = event.assoc
        self._context = event.context
        self._lock = threading.Lock()
        self._running = False
        self._until = 0.0
        self._sent = 0
        self._answers: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._serve_others = event.assoc._serve_request
        event.assoc._serve_request = self._serve

    def prolong(self) -> None:
        """Watch for `REPORT_DELAY_SECONDS` from now; called once the request is in the database."""
        with self._lock:
            self._until = time.monotonic() + scp.REPORT_DELAY_SECONDS
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while states := self._under_way():
            if CommitmentState.READY in states:
                try:
                    self._report_next()
                except (QCError, SQLAlchemyError) as error:
                    # Once our lease has run out the deliver role reports it.
                    self.log.warning("commitment not told", error_type=type(error).__name__)
            time.sleep(_LOOK_EVERY_SECONDS)

    def _under_way(self) -> set[CommitmentState]:
        """States of the requests to report here; none ends the watch, as `prolong` then knows."""
        with self._lock:
            states = self._look()
            self._running = bool(states)
            return states

    def _look(self) -> set[CommitmentState]:
        lasts = self._association.is_established and time.monotonic() < self._until
        try:
            if lasts:
                with self.store.read() as session:
                    return scp.open_states(session, self.token)
            with self.store.begin() as session:
                scp.end_association(session, self.token, self.clock())
        except (QCError, SQLAlchemyError):
            # Without the database nothing is decided either; it may come back in time.
            return {CommitmentState.WAITING} if lasts else set()
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
            told = None if claim is None else scp.compose_report(session, claim)
        if claim is not None and told is not None:
            self._settle(claim, self._report(told))

    def _settle(self, claim: Claim, status: int | None) -> None:
        done = status == SUCCESS
        with self.store.begin() as session:
            if done:
                scp.mark_reported(session, claim, self.clock())
            else:
                scp.report_elsewhere(session, claim, self.clock())
        self.log.info(
            "commitment reported" if done else "commitment to be reported elsewhere",
            transaction=claim.transaction_uid,
            calling_ae=claim.requested_by,
            status=None if status is None else f"{status:04X}",
        )

    def _report(self, told: Report) -> int | None:
        """Send the N-EVENT-REPORT; its status, None if no answer came."""
        event_type, information = event_information(told)
        syntax = self._context.transfer_syntax
        self._sent = self._sent % 0xFFFF + 1
        message = N_EVENT_REPORT()
        message.MessageID = self._sent
        message.AffectedSOPClassUID = PUSH_MODEL
        message.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
        message.EventTypeID = event_type
        message.EventInformation = io.BytesIO(
            encode(information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        )
        self._association.dimse.msg_queue.put((self._context.context_id, _Outgoing(message)))
        until = time.monotonic() + _ANSWER_SECONDS
        while self._association.is_established and time.monotonic() < until:
            try:
                answered, status = self._answers.get(timeout=_LOOK_EVERY_SECONDS)
            except queue.Empty:
                continue
            if answered == message.MessageID:
                return status
        return None

    def _serve(self, message: Any, context_id: int) -> None:
        """Stands in the place of the association's own `_serve_request`, in its thread."""
        if isinstance(message, _Outgoing):
            self._association.dimse.send_msg(message.primitive, context_id)
        elif isinstance(message, N_EVENT_REPORT) and not message.is_valid_request:
            self._answers.put((message.MessageIDBeingRespondedTo, message.Status))
        else:
            self._serve_others(message, context_id)


class _Outgoing:
    """A message of ours among the incoming ones."""

    def __init__(self, primitive: N_EVENT_REPORT) -> None:
        self.primitive = primitive
