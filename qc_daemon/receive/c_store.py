"""C-STORE (PS3.4 Annex B): success is answered once the object is on disk and in the database.

The data set goes to the spool while it comes in. Then: header against the command, SHA-256 as name,
fsync of file and folder, one transaction with row, jobs and the exam's hold, status 0x0000. No
pixel is decoded, and no text can refuse an object on the way.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import AuditKind, Peer
from qc_daemon.dicom.dimse_request import RefusedRequestError, calling_ae, check
from qc_daemon.dicom.status import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
)
from qc_daemon.dicom.uids import VERIFICATION, is_uid
from qc_daemon.observe import counters, log
from qc_daemon.receive import presentation_contexts
from qc_daemon.receive.back_pressure import BackPressure, Level
from qc_daemon.receive.exam_holds import ExamHolds
from qc_daemon.receive.group_commit import GroupCommit
from qc_daemon.receive.identifiers import HeaderError, Identity, read_identity
from qc_daemon.records.clock import Clock
from qc_daemon.records.received import exams, receipts
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.routing import SOURCE, Routes, Traits
from qc_daemon.spool.spool import Incoming, Spool

# Characters of a Patient ID. An LO has 64 (PS3.5 6.2); a longer one that a machine in use makes is
# accepted, one that no index can hold is not.
MAX_PATIENT_ID = 256


class StorageSCP:
    """Stores the objects that come over one process's associations; answers C-ECHO too."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        routes: Routes,
        clock: Clock,
        back_pressure: BackPressure,
        group_commit: GroupCommit,
        exam_holds: ExamHolds,
    ) -> None:
        self.store = store
        self.spool = spool
        self.routes = routes
        self.clock = clock
        self.back_pressure = back_pressure
        self.group_commit = group_commit
        self.exam_holds = exam_holds
        self.log = log.get(role="receive")

    def contexts(self) -> list[PresentationContext]:
        """Every SOP class that is stored in every transfer syntax, and Verification."""
        return presentation_contexts.accepted()

    def served(self) -> dict[str, Collection[str]]:
        """The SOP classes of each operation."""
        return {
            "C-ECHO": (VERIFICATION,),
            "C-STORE": frozenset(presentation_contexts.SOP_CLASSES),
        }

    def handlers(self) -> list[tuple[evt.EventType, Callable[[Any], Any]]]:
        """pynetdicom's events and what handles them, each in its association's thread."""
        return [(evt.EVT_C_ECHO, _on_c_echo), (evt.EVT_C_STORE, self._on_c_store)]

    def _on_c_store(self, event: Any) -> int | Dataset:
        begun = time.monotonic()
        try:
            admission, receipt = self._receive_object(event)
        except RefusedRequestError as refusal:
            counters.count_refused(refusal.status)
            self.log.warning(
                "object refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                # A text in its place may be a patient's name.
                sop_instance=_uid_or_none(event.request.AffectedSOPInstanceUID),
                calling_ae=calling_ae(event),
            )
            return refusal.response()
        except Exception as error:
            # A fault of ours: the sender keeps the object and may send it again.
            counters.count_refused(PROCESSING_FAILURE)
            self.log.error(
                "object not taken", error_type=type(error).__name__, error_at=log.where(error)
            )
            return RefusedRequestError(PROCESSING_FAILURE, "internal error").response()
        # A thread writes it: nothing of the audit log is waited for here.
        recorder.count_transfer(
            AuditKind.RECEIVED,
            Peer(receipt.calling_ae, event.assoc.requestor.address_info.address),
            receipt.study_instance_uid,
            receipt.patient_id,
            receipt.sop_class_uid,
        )
        counters.count_stored(admission.kind, receipt.size)
        counters.count_duration("store", time.monotonic() - begun)
        self.log.info(
            "object stored",
            kind=admission.kind,
            instance=admission.instance_id,
            exam=admission.exam_id,
            sop_instance=receipt.sop_instance_uid,
            study=receipt.study_instance_uid,
            bytes=receipt.size,
            calling_ae=receipt.calling_ae,
        )
        return SUCCESS

    def _receive_object(self, event: Any) -> tuple[receipts.Admission, receipts.Receipt]:
        """Check, store and record the object of a C-STORE request. Raises RefusedRequestError."""
        check(event)
        data_set_file = event.request._dataset_file
        if data_set_file is None:
            raise RefusedRequestError(CANNOT_UNDERSTAND, "no data set")
        syntax = str(event.context.transfer_syntax)
        incoming: Incoming = data_set_file.incoming
        with incoming:
            if self.back_pressure.level() is Level.HARD:
                raise RefusedRequestError(OUT_OF_RESOURCES, "no room for now")
            identity = self._read_identity(event, incoming, syntax)
            try:
                path, sha256 = self.spool.adopt(incoming)
            except OSError as error:
                raise RefusedRequestError(OUT_OF_RESOURCES, f"spool: {_errno(error)}") from error
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
            association=self.exam_holds.token(event.assoc),
        )
        traits = Traits(receipt.calling_ae, identity.station_name, identity.study_description)
        destinations = self.routes.route(SOURCE, [traits]).to
        return self._record(event.assoc, receipt, destinations), receipt

    def _read_identity(self, event: Any, incoming: Incoming, syntax: str) -> Identity:
        """The object's identifiers, which agree with the command. Raises RefusedRequestError."""
        try:
            incoming.flush()
            identity = read_identity(
                incoming.path, incoming.data_set_offset, syntax, with_description=True
            )
        except HeaderError as error:
            raise RefusedRequestError(CANNOT_UNDERSTAND, str(error)) from error
        except OSError as error:
            raise RefusedRequestError(OUT_OF_RESOURCES, f"spool: {_errno(error)}") from error
        if identity.sop_instance_uid != str(event.request.AffectedSOPInstanceUID):
            raise RefusedRequestError(
                DATA_SET_MISMATCH, "SOP Instance UID differs from the command's"
            )
        if identity.sop_class_uid != str(event.request.AffectedSOPClassUID):
            raise RefusedRequestError(DATA_SET_MISMATCH, "SOP Class UID differs from the command's")
        _check_identifiers(identity)
        return identity

    def _record(
        self, association: Any, receipt: receipts.Receipt, destinations: Sequence[str]
    ) -> receipts.Admission:
        """Write rows, jobs and the exam's hold. Raises RefusedRequestError if that fails."""
        now = self.clock()
        until = self.exam_holds.end_of_hold(now)

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
            has_hold = self.exam_holds.has_hold(receipt.association, admission.exam_id, now)
            if not has_hold:
                exams.hold_open(session, receipt.association, admission.exam_id, now, until)
            return admission, has_hold

        try:
            admission, has_hold = self.group_commit.write(receipt.study_instance_uid, admit)
        except (QCError, SQLAlchemyError) as error:
            # The file stays: it may be the bytes of an earlier revision, and a resend needs it.
            raise RefusedRequestError(OUT_OF_RESOURCES, "database cannot be used") from error
        if not has_hold:
            self.exam_holds.remember(association, receipt.association, admission.exam_id, until)
        return admission


def _check_identifiers(identity: Identity) -> None:
    """Raise RefusedRequestError for identifiers that no database row or log line shall hold.

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
            raise RefusedRequestError(
                CANNOT_UNDERSTAND, f"{name} is none: digits and dots, 64 at most"
            )
    if not identity.sop_instance_uid or not identity.sop_class_uid:
        raise RefusedRequestError(CANNOT_UNDERSTAND, "no SOP Instance UID or no SOP Class UID")
    if len(identity.patient_id) > MAX_PATIENT_ID:
        raise RefusedRequestError(CANNOT_UNDERSTAND, "Patient ID is longer than any can be")


def _uid_or_none(value: object) -> str | None:
    """The value for the log; None where it is no UID."""
    return str(value) if is_uid(str(value)) else None


def _on_c_echo(event: Any) -> int:
    """C-ECHO (PS3.7 9.1.5)."""
    try:
        check(event)
    except RefusedRequestError as refusal:
        return refusal.status
    return SUCCESS


def _errno(error: OSError) -> str:
    """The system's words for an error, without the path that OSError's own text carries."""
    return (error.strerror or "short write").lower()
