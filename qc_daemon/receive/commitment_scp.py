"""Storage Commitment Push Model (PS3.4 Annex J): requests as SCP, reports to us as SCU.

A request is in the database before it is answered; the deliver role decides it. For some seconds,
while its association lasts, the outcome is reported there; after that the deliver role reports it
on an association of its own.

As SCU we ask destinations for commitment, which they may report on an association that they open.
Such a report is accepted only from the destination that was asked.
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
from qc_daemon.receive.commitment_same_association import SameAssociationReporter
from qc_daemon.receive.upper_layer.association import Acceptor
from qc_daemon.records.clock import Clock
from qc_daemon.records.commitment import scp, scu
from qc_daemon.records.store import Store

# Operations that a destination may ask for which is no peer, and calls to report.
REPORTING_OPERATIONS = frozenset({"C-ECHO", "N-EVENT-REPORT"})


class StorageCommitment:
    """Serves the commitment requests and reports that come over one process's associations."""

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
        """The context of the push model; a requestor may select either role (PS3.7 D.3.3.4)."""
        context = build_context(PUSH_MODEL)
        context.scu_role = context.scp_role = True
        return [context]

    def served(self) -> dict[str, tuple[str, ...]]:
        """The SOP class of each operation."""
        return {"N-ACTION": (PUSH_MODEL,), "N-EVENT-REPORT": (PUSH_MODEL,)}

    def handlers(self) -> list[tuple[evt.EventType, Callable[[Any], Any]]]:
        """pynetdicom's events and what handles them, each in its association's thread."""
        return [
            (evt.EVT_N_ACTION, self._on_request),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
        ]

    def restrict(self, association: Acceptor) -> None:
        """Permit nothing but reports and C-ECHO; call it before the association is accepted."""
        association.acceptor.supported_contexts = [build_context(VERIFICATION), *self.contexts()]
        association.permitted = REPORTING_OPERATIONS

    def _on_report(self, event: Any) -> tuple[Dataset | int, None]:
        try:
            check(event)
            with parsing:
                report = _read_report(event)
            self._record_report(report, self._find_destinations(event))
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

    def _find_destinations(self, event: Any) -> list[str]:
        """Names of the destinations that the caller may be: a peer by its AE title, others by
        address too."""
        caller = caller_of(event.assoc)
        if _may_only_report(event):
            return self.reporting_destinations.with_title_and_address(caller)
        return self.reporting_destinations.with_title(caller.ae_title)

    def _record_report(self, report: Report, destinations: list[str]) -> None:
        """Raises RefusedRequestError if none of the destinations was asked this."""
        try:
            with self.store.begin() as session:
                is_known = scu.record_report(session, report, destinations)
        except (QCError, SQLAlchemyError) as error:
            raise RefusedRequestError(PROCESSING_FAILURE, "database cannot be used") from error
        if not is_known:
            raise RefusedRequestError(INVALID_ARGUMENT_VALUE, "no such transaction")

    def _on_request(self, event: Any) -> tuple[Dataset | int, None]:
        try:
            check(event)
            reporter = self._same_association_reporter(event)
            with parsing:
                request = _read_request(event, reporter.token)
            is_new = self._record_request(request)
        except RefusedRequestError as refusal:
            self.log.warning(
                "commitment refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                calling_ae=calling_ae(event),
            )
            return refusal.response(), None
        reporter.prolong()
        self.log.info(
            "commitment requested" if is_new else "commitment requested again",
            transaction=request.transaction_uid,
            count=len(request.references),
            calling_ae=request.requested_by,
        )
        return SUCCESS, None

    def _record_request(self, request: Request) -> bool:
        """Whether it is a new one. Raises RefusedRequestError."""
        try:
            with self.store.begin() as session:
                return scp.record_request(session, request, self.clock())
        except ValueError as error:
            raise RefusedRequestError(INVALID_ARGUMENT_VALUE, str(error)) from error
        except (QCError, SQLAlchemyError) as error:
            raise RefusedRequestError(PROCESSING_FAILURE, "database cannot be used") from error

    def _same_association_reporter(self, event: Any) -> SameAssociationReporter:
        """The association's reporter, made with its first request, always in its own thread."""
        association: Acceptor = event.assoc
        reporter = association.interceptor
        if not isinstance(reporter, SameAssociationReporter):
            reporter = SameAssociationReporter(association, event.context, self.store, self.clock)
            association.interceptor = reporter
        return reporter


def _may_only_report(event: Any) -> bool:
    """Whether the caller may do nothing but report."""
    return bool(event.assoc.permitted == REPORTING_OPERATIONS)


def _read_report(event: Any) -> Report:
    """The report as values. Raises RefusedRequestError."""
    if event.request.AffectedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        raise RefusedRequestError(NO_SUCH_SOP_INSTANCE, "not the well-known SOP instance")
    if event.event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        raise RefusedRequestError(NO_SUCH_EVENT_TYPE, "not a report of storage commitment")
    try:
        return read_report(event.event_information)
    except ValueError as error:
        raise RefusedRequestError(INVALID_ARGUMENT_VALUE, str(error)) from error


def _read_request(event: Any, association: str) -> Request:
    """The request as values. Raises RefusedRequestError."""
    if event.request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        raise RefusedRequestError(NO_SUCH_SOP_INSTANCE, "not the well-known SOP instance")
    if event.action_type != REQUEST_STORAGE_COMMITMENT:
        raise RefusedRequestError(NO_SUCH_ACTION, "not a request for storage commitment")
    try:
        transaction, references = _read_action(event.action_information)
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
        # An object that is named twice counts once.
        references=tuple(dict.fromkeys(each for each in references if each is not None)),
    )


def _read_action(information: Dataset) -> tuple[str | None, list[Reference | None]]:
    """Transaction UID and references; None for each that is absent or invalid."""
    return uid(information, "TransactionUID"), [
        _reference(item) for item in information.get("ReferencedSOPSequence") or ()
    ]


def _reference(item: Dataset) -> Reference | None:
    sop_class = uid(item, "ReferencedSOPClassUID")
    sop_instance = uid(item, "ReferencedSOPInstanceUID")
    return Reference(sop_class, sop_instance) if sop_class and sop_instance else None
