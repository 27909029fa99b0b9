"""The Storage Commitment Push Model SCP (PS3.4 Annex J): requests in, reports on the same wire.

A request is in the database before it is answered; whether it can be granted is found out
elsewhere. While its association lasts, and for some seconds at most, we watch for the outcome and
report it there; after that it is the deliver role's, on an association of its own.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from detector.codes import QCError
from qc_daemon.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from qc_daemon.observe import log
from qc_daemon.receive.commitment_watch import CommitmentWatch
from qc_daemon.receive.dimse import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_ACTION,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
    RefusedRequestError,
    calling_ae,
    uid,
)
from qc_daemon.records import commitments
from qc_daemon.records.commitments import Reference, Request
from qc_daemon.records.store import Store

REQUEST_STORAGE_COMMITMENT = 1


class StorageCommitment:
    """Takes commitment requests of one process's associations."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self.store = store
        self.clock = clock
        self.log = log.get(role="receive")

    def contexts(self) -> list[PresentationContext]:
        return [build_context(PUSH_MODEL)]

    def handlers(self) -> list[tuple[evt.EventType, Callable[[Any], Any]]]:
        return [(evt.EVT_N_ACTION, self._asked)]

    def _asked(self, event: Any) -> tuple[Dataset | int, None]:
        watch = self._watch(event)
        try:
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
                return commitments.request(session, request, self.clock())
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
