"""The Storage Commitment Push Model SCP (PS3.4 Annex J): requests in, reports on the same wire.

A request is in the database before it is answered; whether it can be granted is found out
elsewhere. While its association lasts, and for some seconds at most, we watch for the outcome and
report it there; after that it is the deliver role's, on an association of its own.

As SCU we ask destinations for commitment, which they may report on an association that they open:
such a report is believed from the destination that was asked only, and written down.
"""

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.dicom.dimse_request import RefusedRequestError, calling_ae, check, parsing
from qc_daemon.dicom.status import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
)
from qc_daemon.dicom.storage_commitment import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    Reference,
    Report,
    Request,
    read_report,
)
from qc_daemon.dicom.uids import VERIFICATION, uid
from qc_daemon.observe import log
from qc_daemon.receive.access import ReportingDestinations, caller_of
from qc_daemon.receive.commitment_same_association import CommitmentWatch
from qc_daemon.records.clock import Clock
from qc_daemon.records.commitment import scp, scu
from qc_daemon.records.store import Store

# What a destination may ask for that calls to report and is no peer.
REPORTER = frozenset({"C-ECHO", "N-EVENT-REPORT"})


class StorageCommitment:
    """Takes commitment requests and reports of one process's associations."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        reporting_destinations: ReportingDestinations | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.reporting_destinations = reporting_destinations or ReportingDestinations(())
        self.log = log.get(role="receive")

    def contexts(self) -> list[PresentationContext]:
        """Requestors are SCU by default; one that selects the role is SCP (PS3.7 D.3.3.4)."""
        made = build_context(PUSH_MODEL)
        made.scu_role = made.scp_role = True
        return [made]

    def served(self) -> dict[str, tuple[str, ...]]:
        """The SOP class of each operation."""
        return {"N-ACTION": (PUSH_MODEL,), "N-EVENT-REPORT": (PUSH_MODEL,)}

    def handlers(self) -> list[tuple[evt.EventType, Callable[[Any], Any]]]:
        return [(evt.EVT_N_ACTION, self._asked), (evt.EVT_N_EVENT_REPORT, self._told)]

    def restrict(self, association: Any) -> None:
        """Let an association that is being negotiated carry nothing but reports and C-ECHO."""
        association.acceptor.supported_contexts = [build_context(VERIFICATION), *self.contexts()]
        association.permitted = REPORTER

    def _told(self, event: Any) -> tuple[Dataset | int, None]:
        try:
            check(event)
            with parsing:
                report = _reported(event)
            self._write_down(report, self._reporting(event))
        except RefusedRequestError as refusal:
            self.log.warning(
                "commitment report refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                calling_ae=calling_ae(event),
            )
            return refusal.response(), None
        self.log.info(
            "commitment told",
            transaction=report.transaction_uid,
            count=len(report.committed),
            reason=f"{len(report.failed)} failed" if report.failed else None,
            calling_ae=calling_ae(event),
        )
        return SUCCESS, None

    def _reporting(self, event: Any) -> list[str]:
        """The destinations that the caller may be: a peer by its title, others by address too."""
        caller = caller_of(event.assoc)
        if _reports_only(event):
            return self.reporting_destinations.at(caller)
        return self.reporting_destinations.titled(caller.ae_title)

    def _write_down(self, report: Report, destinations: list[str]) -> None:
        try:
            with self.store.begin() as session:
                known = scu.record_report(session, report, destinations)
        except (QCError, SQLAlchemyError) as error:
            raise RefusedRequestError(PROCESSING_FAILURE, "database cannot be used") from error
        if not known:
            raise RefusedRequestError(INVALID_ARGUMENT_VALUE, "no such transaction")

    def _asked(self, event: Any) -> tuple[Dataset | int, None]:
        try:
            check(event)
            watch = self._watch(event)
            with parsing:
                request = _request(event, watch.token)
            new = self._record(request)
        except RefusedRequestError as refusal:
            self.log.warning(
                "commitment refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                calling_ae=calling_ae(event),
            )
            return refusal.response(), None
        watch.prolong()
        self.log.info(
            "commitment requested" if new else "commitment requested again",
            transaction=request.transaction_uid,
            count=len(request.references),
            calling_ae=request.requested_by,
        )
        return SUCCESS, None

    def _record(self, request: Request) -> bool:
        try:
            with self.store.begin() as session:
                return scp.record_request(session, request, self.clock())
        except ValueError as error:
            raise RefusedRequestError(INVALID_ARGUMENT_VALUE, str(error)) from error
        except (QCError, SQLAlchemyError) as error:
            raise RefusedRequestError(PROCESSING_FAILURE, "database cannot be used") from error

    def _watch(self, event: Any) -> CommitmentWatch:
        """The one watch of the association; an association's events come in its own thread."""
        watch: CommitmentWatch | None = getattr(event.assoc, "commitment_watch", None)
        if watch is None:
            watch = event.assoc.commitment_watch = CommitmentWatch(event, self.store, self.clock)
        return watch


def _reports_only(event: Any) -> bool:
    return bool(event.assoc.permitted == REPORTER)


def _reported(event: Any) -> Report:
    """The report as values. Raises RefusedRequestError."""
    if event.request.AffectedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        raise RefusedRequestError(NO_SUCH_SOP_INSTANCE, "not the well-known SOP instance")
    if event.event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        raise RefusedRequestError(NO_SUCH_EVENT_TYPE, "not a report of storage commitment")
    try:
        return read_report(event.event_information)
    except ValueError as error:
        raise RefusedRequestError(INVALID_ARGUMENT_VALUE, str(error)) from error


def _request(event: Any, association: str) -> Request:
    """The request as values. Raises RefusedRequestError."""
    if event.request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        raise RefusedRequestError(NO_SUCH_SOP_INSTANCE, "not the well-known SOP instance")
    if event.action_type != REQUEST_STORAGE_COMMITMENT:
        raise RefusedRequestError(NO_SUCH_ACTION, "not a request for storage commitment")
    try:
        transaction, references = _read(event.action_information)
    except Exception as error:
        # pydicom's readers raise almost anything on bytes that are no data set.
        raise RefusedRequestError(
            INVALID_ARGUMENT_VALUE, "action information cannot be read"
        ) from error
    if transaction is None:
        raise RefusedRequestError(INVALID_ARGUMENT_VALUE, "no Transaction UID")
    if not references or None in references:
        raise RefusedRequestError(INVALID_ARGUMENT_VALUE, "no or unreadable Referenced SOPs")
    return Request(
        transaction_uid=transaction,
        requested_by=calling_ae(event),
        address=str(event.assoc.requestor.address_info.address),
        association=association,
        # Named twice is asked once.
        references=tuple(dict.fromkeys(each for each in references if each is not None)),
    )


def _read(information: Dataset) -> tuple[str | None, list[Reference | None]]:
    return uid(information, "TransactionUID"), [
        _reference(item) for item in information.get("ReferencedSOPSequence") or ()
    ]


def _reference(item: Dataset) -> Reference | None:
    sop_class = uid(item, "ReferencedSOPClassUID")
    sop_instance = uid(item, "ReferencedSOPInstanceUID")
    return Reference(sop_class, sop_instance) if sop_class and sop_instance else None
