"""The storage SCP: an object is on the disk and in the database before its sender hears success.

What happens to a C-STORE (PS3.4 Annex B): chunks to the spool, header against the command, SHA-256
name, fsync of file and folder, one transaction with row, jobs and the exam's hold, then 0x0000. No
pixel is decoded and no text can refuse an object on the way.
"""

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.dicom.associate_pdu import CALLED_NOT_RECOGNISED, Rejection
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.dicom.status import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
)
from qc_daemon.dicom.uids import VERIFICATION, is_uid
from qc_daemon.observe import counters, log
from qc_daemon.receive import presentation_contexts, tls
from qc_daemon.receive.access import (
    NOT_RECOGNISED,
    TEMPORARY,
    AccessPolicy,
    Caller,
    ReportingDestinations,
    caller_of,
)
from qc_daemon.receive.back_pressure import Level, Pressure
from qc_daemon.receive.commitment_scp import StorageCommitment
from qc_daemon.receive.dimse import RefusedRequestError, calling_ae, check
from qc_daemon.receive.group_commit import GroupCommit
from qc_daemon.receive.identifiers import HeaderError, Identity, read_identity
from qc_daemon.receive.listener import ConnectionListener, OnRequest
from qc_daemon.receive.mpps import ProcedureSteps
from qc_daemon.receive.slots import AssociationSlots
from qc_daemon.receive.upper_layer.association import Acceptor, Server
from qc_daemon.records.received import exams, receipts
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.routing import SOURCE, Routes, Traits
from qc_daemon.settings import DestinationSettings, ReceiveSettings
from qc_daemon.spool.spool import Incoming, Spool

# Fragments go to the spool as they come, so that a long PDU takes no more memory than a short one.
MAX_PDU = 1 << 20
BACKLOG = 1024
# Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21): try again later.
LOCAL_LIMIT: Rejection = (0x02, 0x03, 0x02)
# An LO has 64 characters (PS3.5 6.2); a longer one that a machine in use makes is taken, one that
# no index can hold is not.
MAX_PATIENT_ID = 256
# Event and counter of an association that is not accepted; others are of the protocol.
_REJECTION_EVENTS: dict[Rejection | None, tuple[str, str]] = {
    NOT_RECOGNISED: ("caller refused", "rejected_unknown"),
    CALLED_NOT_RECOGNISED: ("association rejected", "rejected_called"),
    TEMPORARY: ("association rejected", "rejected_busy"),
    LOCAL_LIMIT: ("too many associations", "rejected_busy"),
}
# TLS handshakes at once; each takes a thread.
MAX_HANDSHAKES = 32
# An exam is held open by a live association for this long after its last sign of life, so that a
# receiver killed in mid-association cannot hold it for ever.
HOLD_SECONDS = 20.0


class RefusedError(Exception):
    """An object we do not take: the DICOM status and a reason without any value of the object."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError (in use, no such address)."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class Receiver:
    """The SCP of one process: `start` on a listening socket, `drain` to stop."""

    def __init__(
        self,
        settings: ReceiveSettings,
        store: Store,
        spool: Spool,
        owner: str,
        source_destinations: tuple[str, ...] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        slots: AssociationSlots | None = None,
        destinations: Sequence[DestinationSettings] = (),
        routes: Routes | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.spool = spool
        self.routes = routes or Routes(own={SOURCE: source_destinations})
        self.clock = clock
        self.log = log.get(role="receive")
        reporting_destinations = ReportingDestinations(destinations)
        self.commitment = StorageCommitment(store, clock, reporting_destinations)
        self.procedure_steps = ProcedureSteps(store, clock)
        self.access_policy = AccessPolicy(settings.peer, store, clock, reporting_destinations)
        self.pressure = Pressure(settings.pressure, spool.root, store, clock)
        # Shared with other receivers where the supervisor made it.
        self.slots = slots or AssociationSlots.create(
            settings.max_associations, settings.max_associations_per_ae
        )
        self.group_commit = GroupCommit(store)
        self._tokens = (f"{owner}/{number}" for number in itertools.count(1))
        self._lock = threading.Lock()
        # The exams that each open association has stored to, by its token, and how long they stay
        # held.
        self._holds_by_token: dict[str, dict[int, datetime]] = {}
        self._tokens_by_association: dict[Any, str] = {}
        self._slots: dict[Any, int] = {}
        self._associations: set[Acceptor] = set()
        self._listeners: list[ConnectionListener] = []
        self._served = {
            "C-ECHO": (VERIFICATION,),
            "C-STORE": frozenset(presentation_contexts.SOP_CLASSES),
            **self.commitment.served(),
            **self.procedure_steps.served(),
        }
        self._ae = AE(settings.ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_pdu_size = MAX_PDU
        # The slots decide; pynetdicom would count those of this process, the refused ones too.
        self._ae.maximum_associations = sys.maxsize
        self._ae.network_timeout = settings.network_timeout
        self._ae.acse_timeout = settings.artim_timeout
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME

    def start(self, listener: socket.socket, handshake: tls.Handshake | None = None) -> None:
        """Serve associations in threads of their own; again for another listener, as one for TLS.

        With `handshake` every connection of this listener begins with one.
        """
        self.access_policy.refresh()
        server = Server(
            self._ae,
            self.spool,
            contexts=[
                *presentation_contexts.accepted(),
                *self.commitment.contexts(),
                *self.procedure_steps.contexts(),
            ],
            handlers=[
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_ACCEPTED, self._on_accepted),
                (evt.EVT_C_ECHO, _on_c_echo),
                (evt.EVT_C_STORE, self._on_c_store),
                *self.commitment.handlers(),
                *self.procedure_steps.handlers(),
                (evt.EVT_RELEASED, self._on_end),
                (evt.EVT_ABORTED, self._on_end),
                (evt.EVT_CONN_CLOSE, self._on_end),
            ],
            on_thread_end=self._on_thread_end,
            served=self._served,
            has_room=self.pressure.has_room,
            on_invalid_request=self._on_invalid_request,
        )

        def on_request(connection: socket.socket, address: Any, first_bytes: bytes) -> None:
            association = server.accept(connection, address, first_bytes)
            with self._lock:
                self._associations.add(association)
            association.start()

        connection_listener = ConnectionListener(
            listener,
            on_request if handshake is None else _with_handshake(on_request, handshake),
            self.settings.artim_timeout,
            encrypted=handshake is not None,
            has_more_than_others=self._has_more_than_others,
            on_invalid_request=lambda address, reason: self._report_rejection(
                Caller("", str(address[0])), "", reason
            ),
        )
        self._listeners.append(connection_listener)
        connection_listener.open()

    def drain(self, limit_seconds: float) -> int:
        """Accept nothing more, let associations finish, abort those that outlast the limit.

        Returns how many were aborted.
        """
        while self._listeners:
            self._listeners.pop().close()
        until = time.monotonic() + limit_seconds
        while self._associations and time.monotonic() < until:
            time.sleep(0.05)
        with self._lock:
            remaining = list(self._associations)
        for association in remaining:
            association.abort()
        return len(remaining)

    def hold(self) -> None:
        """Renew the hold of open associations on their exams; called every few seconds."""
        self.access_policy.flush()
        with self._lock:
            holds = [
                (token, exam)
                for token, exam_ids in self._holds_by_token.items()
                for exam in exam_ids
            ]
        if not holds:
            return
        now = self.clock()
        until = _hold_until(now)
        try:
            with self.store.begin() as session:
                for token, exam_id in holds:
                    exams.touch(session, token, exam_id, now, until)
        except (QCError, SQLAlchemyError) as error:
            self.log.warning("hold not renewed", error_type=type(error).__name__)
            return
        with self._lock:
            for token, exam_id in holds:
                if token in self._holds_by_token:
                    self._holds_by_token[token][exam_id] = until

    # Events of pynetdicom, each in its association's thread.

    def _on_requested(self, event: Any) -> None:
        try:
            refusal = self._find_rejection(event.assoc)
        except Exception as error:
            # pynetdicom would log it, and accept the association that nobody has judged.
            self.log.error(
                "caller not judged", error_type=type(error).__name__, error_at=log.where(error)
            )
            refusal = TEMPORARY, "internal error"
        if refusal is not None:
            rejection, reason = refusal
            request = event.assoc.associate_request
            self._report_rejection(caller_of(event.assoc), request.called_ae, reason, rejection)
            event.assoc.acse.send_reject(*rejection)
            event.assoc.kill()

    def _find_rejection(self, association: Any) -> tuple[Rejection, str] | None:
        """The rejection of the request and its reason; None accepts it."""
        request = association.associate_request
        if request.rejection is not None:
            return request.rejection, request.reason
        reports = self.access_policy.only_reports(association)
        rejection = None if reports else self.access_policy.rejection(association)
        if rejection is not None:
            is_temporary = rejection == TEMPORARY
            return rejection, "the database cannot tell" if is_temporary else "unknown caller"
        if request.called_ae != self.settings.ae_title.strip():
            return CALLED_NOT_RECOGNISED, f"our AE title is {self.settings.ae_title.strip()}"
        # A destination that reports brings no object, so that no mark need stop it.
        if not reports and self.pressure.level() >= Level.SOFT:
            return TEMPORARY, "no room for now"
        if not self._reserve_slot(association):
            return LOCAL_LIMIT, "too many associations"
        if reports:
            self.commitment.restrict(association)
        else:
            association.permitted = frozenset(self._served)
        return None

    def _on_invalid_request(self, association: Any, reason: str) -> None:
        """An association ended by its first PDUs."""
        request = association.associate_request
        self._report_rejection(
            caller_of(association), "" if request is None else request.called_ae, reason
        )

    def _report_rejection(
        self, caller: Caller, called_ae: str, reason: str, rejection: Rejection | None = None
    ) -> None:
        """Log and count an association that was not accepted; None: there was none to answer.

        Who may try again as it is, stands on no list.
        """
        event, counter = _REJECTION_EVENTS.get(
            rejection, ("association rejected", "rejected_protocol")
        )
        counters.add(counter)
        self.log.warning(
            event,
            reason=reason,
            calling_ae=caller.ae_title,
            called_ae=called_ae,
            address=caller.address,
            sha256=caller.certificate,
            status=None if rejection is None else "/".join(map(str, rejection)),
        )
        if counter != "rejected_busy" and (caller.ae_title or called_ae):
            self.access_policy.note(caller, called_ae, reason)

    def _on_accepted(self, event: Any) -> None:
        with self._lock:
            token = self._tokens_by_association[event.assoc] = next(self._tokens)
            self._holds_by_token[token] = {}
            counters.put("associations", len(self._tokens_by_association))

    def _on_end(self, event: Any) -> None:
        self._end_association(event.assoc)

    def _end_association(self, association: Any) -> None:
        with self._lock:
            token = self._tokens_by_association.pop(association, None)
            holds = self._holds_by_token.pop(token, {}) if token is not None else {}
            counters.put("associations", len(self._tokens_by_association))
        if token is not None and holds:
            self._release_holds(token)

    def _reserve_slot(self, association: Any) -> bool:
        """Whether there is a slot for the association; it keeps it until its thread ends."""
        title = association.calling_ae
        slot = self.slots.reserve(title)
        if slot is None:
            return False
        with self._lock:
            self._slots[association] = slot
        return True

    def _on_thread_end(self, association: Acceptor) -> None:
        """Free what an association had, when its thread ends for whatever reason."""
        self._end_association(association)
        with self._lock:
            self._associations.discard(association)
            slot = self._slots.pop(association, None)
        if slot is not None:
            self.slots.release(slot)

    def _has_more_than_others(self) -> bool:
        """Whether another receiver has fewer associations, or none, while we have some."""
        counts = self.slots.count_by_process()
        mine = counts.pop(os.getpid(), 0)
        others = self.settings.processes - 1
        return others > 0 and mine > min(counts.values() if len(counts) >= others else [0])

    def _release_holds(self, token: str) -> None:
        try:
            self.group_commit.write("", lambda session: exams.end_association(session, token))
        except (QCError, SQLAlchemyError) as error:
            # The hold runs out by itself.
            self.log.warning("hold not released", error_type=type(error).__name__)

    def _on_c_store(self, event: Any) -> int | Dataset:
        try:
            admission, receipt = self._receive_object(event)
        except RefusedError as refusal:
            counters.refused(refusal.status)
            self.log.warning(
                "object refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                # A text in its place may be a patient's name.
                sop_instance=_uid_or_none(event.request.AffectedSOPInstanceUID),
                calling_ae=calling_ae(event),
            )
            return _refusal(refusal.status, refusal.reason)
        except Exception as error:
            # A fault of ours: the sender keeps the object and may send it again.
            counters.refused(PROCESSING_FAILURE)
            self.log.error(
                "object not taken", error_type=type(error).__name__, error_at=log.where(error)
            )
            return _refusal(PROCESSING_FAILURE, "internal error")
        counters.stored(admission.kind, receipt.size)
        self.log.info(
            "object stored",
            kind=admission.kind,
            sop_instance=receipt.sop_instance_uid,
            study=receipt.study_instance_uid,
            bytes=receipt.size,
            calling_ae=receipt.calling_ae,
        )
        return SUCCESS

    def _receive_object(self, event: Any) -> tuple[receipts.Admission, receipts.Receipt]:
        """Check, store and record the object of a C-STORE request. Raises RefusedError."""
        try:
            check(event)
        except RefusedRequestError as refusal:
            raise RefusedError(refusal.status, refusal.reason) from refusal
        data_set_file = event.request._dataset_file
        if data_set_file is None:
            raise RefusedError(CANNOT_UNDERSTAND, "no data set")
        syntax = str(event.context.transfer_syntax)
        incoming: Incoming = data_set_file.incoming
        with incoming:
            if self.pressure.level() is Level.HARD:
                raise RefusedError(OUT_OF_RESOURCES, "no room for now")
            identity = self._read_identity(event, incoming, syntax)
            try:
                path, sha256 = self.spool.adopt(incoming)
            except OSError as error:
                raise RefusedError(OUT_OF_RESOURCES, f"spool: {_errno(error)}") from error
        receipt = receipts.Receipt(
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            patient_id=identity.patient_id,
            patient_name=identity.patient_name,
            accession_number=identity.accession_number,
            study_date=identity.study_date,
            transfer_syntax_uid=syntax,
            calling_ae=calling_ae(event),
            sha256=sha256,
            size=incoming.size,
            path=path.relative_to(self.spool.root).as_posix(),
            association=self._token(event.assoc),
        )
        traits = Traits(receipt.calling_ae, identity.station_name, identity.study_description)
        destinations = self.routes.route(SOURCE, [traits]).to
        return self._record(event.assoc, receipt, destinations), receipt

    def _read_identity(self, event: Any, incoming: Incoming, syntax: str) -> Identity:
        try:
            incoming.flush()
            identity = read_identity(
                incoming.path,
                incoming.data_set_offset,
                syntax,
                describing=True,
            )
        except HeaderError as error:
            raise RefusedError(CANNOT_UNDERSTAND, str(error)) from error
        except OSError as error:
            raise RefusedError(OUT_OF_RESOURCES, f"spool: {_errno(error)}") from error
        if identity.sop_instance_uid != str(event.request.AffectedSOPInstanceUID):
            raise RefusedError(DATA_SET_MISMATCH, "SOP Instance UID differs from the command's")
        if identity.sop_class_uid != str(event.request.AffectedSOPClassUID):
            raise RefusedError(DATA_SET_MISMATCH, "SOP Class UID differs from the command's")
        _check_identifiers(identity)
        return identity

    def _record(
        self, association: Any, receipt: receipts.Receipt, destinations: Sequence[str]
    ) -> receipts.Admission:
        now = self.clock()
        until = _hold_until(now)

        def bundle_id(session: Session) -> str | None:
            bundle = bundles.active(session)
            return None if bundle is None else bundle.model_id

        def admit(session: Session) -> tuple[receipts.Admission, bool]:
            admission = receipts.admit(
                session,
                receipt,
                source_destinations=destinations,
                bundle_id=lambda: bundle_id(session),
                now=now,
            )
            is_held = self._has_hold(receipt.association, admission.exam_id, now)
            if not is_held:
                exams.touch(session, receipt.association, admission.exam_id, now, until)
            return admission, is_held

        try:
            admission, is_held = self.group_commit.write(receipt.study_instance_uid, admit)
        except (QCError, SQLAlchemyError) as error:
            # The file stays: it may be the bytes of an earlier revision, and a resend needs it.
            raise RefusedError(OUT_OF_RESOURCES, "database cannot be used") from error
        if not is_held:
            self._remember_hold(association, receipt.association, admission.exam_id, until)
        return admission

    def _token(self, association: Any) -> str:
        with self._lock:
            return self._tokens_by_association.get(association) or next(self._tokens)

    def _has_hold(self, token: str, exam_id: int, now: datetime) -> bool:
        """Whether the association holds the exam for some time yet, so that no row need say so."""
        with self._lock:
            until = self._holds_by_token.get(token, {}).get(exam_id)
        return until is not None and now < until - timedelta(seconds=HOLD_SECONDS / 2)

    def _remember_hold(self, association: Any, token: str, exam_id: int, until: datetime) -> None:
        """Remember the hold, or let go at once if the association ended meanwhile."""
        with self._lock:
            is_open = self._tokens_by_association.get(association) == token
            if is_open:
                self._holds_by_token[token][exam_id] = until
        if not is_open:
            self._release_holds(token)


def _check_identifiers(identity: Identity) -> None:
    """Raise RefusedError for identifiers that no database row or log line shall hold.

    Digits and dots are all that is asked of a UID (PS3.5 9.1 asks for more): machines in use break
    the finer rules.
    """
    for name, value in (
        ("SOP Instance UID", identity.sop_instance_uid),
        ("SOP Class UID", identity.sop_class_uid),
        ("Study Instance UID", identity.study_instance_uid),
        ("Series Instance UID", identity.series_instance_uid),
    ):
        if value and not is_uid(value):
            raise RefusedError(CANNOT_UNDERSTAND, f"{name} is none: digits and dots, 64 at most")
    if not identity.sop_instance_uid or not identity.sop_class_uid:
        raise RefusedError(CANNOT_UNDERSTAND, "no SOP Instance UID or no SOP Class UID")
    if len(identity.patient_id) > MAX_PATIENT_ID:
        raise RefusedError(CANNOT_UNDERSTAND, "Patient ID is longer than any can be")


def _uid_or_none(value: object) -> str | None:
    return str(value) if is_uid(str(value)) else None


def _on_c_echo(event: Any) -> int:
    """C-ECHO (PS3.7 9.1.5)."""
    try:
        check(event)
    except RefusedRequestError as refusal:
        return refusal.status
    return SUCCESS


def _with_handshake(on_request: OnRequest, handshake: tls.Handshake) -> OnRequest:
    """`on_request` after a TLS handshake in its own thread, so that a slow one delays nobody."""
    handshake_slots = threading.BoundedSemaphore(MAX_HANDSHAKES)

    def run_handshake(connection: socket.socket, address: Any, first_bytes: bytes) -> None:
        try:
            on_request(handshake(connection), address, first_bytes)
        except OSError as error:
            counters.add("rejected_protocol")
            log.get(role="receive").warning(
                "handshake failed", reason=tls.reason(error), address=address[0]
            )
        finally:
            handshake_slots.release()

    def start_thread(connection: socket.socket, address: Any, first_bytes: bytes) -> None:
        if not handshake_slots.acquire(blocking=False):
            connection.close()
            return
        threading.Thread(
            target=run_handshake, args=(connection, address, first_bytes), daemon=True
        ).start()

    return start_thread


def _hold_until(now: datetime) -> datetime:
    return now + timedelta(seconds=HOLD_SECONDS)


def _errno(error: OSError) -> str:
    """The system's words for an error, without the path that OSError's own text carries."""
    return (error.strerror or "short write").lower()


def _refusal(status: int, comment: str) -> Dataset:
    """A C-STORE response's status; Error Comment is an LO of 64 characters (PS3.7 C)."""
    refusal = Dataset()
    refusal.Status = status
    refusal.ErrorComment = comment[:64]
    return refusal
