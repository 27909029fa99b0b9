"""Whether a DIMSE request may be served on the presentation context that it came over.

A presentation context is accepted for one SOP class (PS3.8 7.1.1.13), and a request over it must
name that class: else access rules, which are about classes, could be evaded over any context that
is open to all. None of the SOP classes that we negotiate is a meta SOP class (PS3.7 annex F),
under which a request would name a member's UID, so that the two must be equal.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import dimse_primitives

from qc_daemon.dicom import data_set_size
from qc_daemon.dicom.status import (
    MISTYPED_ARGUMENT,
    NOT_AUTHORISED,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    UNRECOGNISED_OPERATION,
)

# The requests that name the class of an instance that exists already (PS3.7 10.1).
_REQUESTED = frozenset({"N-SET", "N-ACTION", "N-GET", "N-DELETE"})
# Where a request names an instance. N-CREATE may leave that to the SCP (PS3.7 10.1.5.1.4).
_INSTANCE = {
    "C-STORE": "AffectedSOPInstanceUID",
    "N-EVENT-REPORT": "AffectedSOPInstanceUID",
    "N-SET": "RequestedSOPInstanceUID",
    "N-ACTION": "RequestedSOPInstanceUID",
}
# The elements of a DIMSE-N request that are data sets.
_DATA_SETS = ("ActionInformation", "EventInformation", "AttributeList", "ModificationList")

# Held while a request's data set is parsed: one at a time in a process, so that the memory of all
# is bounded as that of one is.
parsing = threading.Lock()


class RefusedRequestError(Exception):
    """A request that is answered with a failure: DIMSE status, reason, and an Error ID if any.

    The reason quotes no value of the request.
    """

    def __init__(self, status: int, reason: str, error_id: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.error_id = error_id

    def response(self) -> Dataset:
        """The status elements (PS3.7 Annex C); Error Comment is an LO of 64 characters."""
        elements = Dataset()
        elements.Status = self.status
        elements.ErrorComment = self.reason[:64]
        if self.error_id is not None:
            elements.ErrorID = self.error_id
        return elements


@dataclass(frozen=True, slots=True)
class Refusal:
    """A DIMSE status, and a reason without any value of the request (64 characters at most)."""

    status: int
    reason: str


def operation(primitive: Any) -> str:
    """The DIMSE service of one of pynetdicom's primitives, as "C-STORE"."""
    return type(primitive).__name__.replace("_", "-")


def is_request(primitive: Any) -> bool:
    """Whether it is a request, complete or not; a response names the message that it answers."""
    if isinstance(primitive, dimse_primitives.C_CANCEL):
        return False
    return getattr(primitive, "MessageIDBeingRespondedTo", None) is None


def refusal(
    request: Any,
    abstract_syntax: str,
    served: Mapping[str, Collection[str]],
    permitted: Collection[str],
) -> Refusal | None:
    """Why a request must not be served; None if it may be.

    `abstract_syntax` is that of its presentation context, `served` has the SOP classes of each
    operation, `permitted` the operations that the caller may ask for.
    """
    operation_name = operation(request)
    sop_classes = _sop_classes(request, operation_name)
    if not sop_classes:
        return Refusal(MISTYPED_ARGUMENT, f"{operation_name} names no SOP class")
    if any(each != abstract_syntax for each in sop_classes):
        return Refusal(SOP_CLASS_NOT_SUPPORTED, "the SOP class is not its presentation context's")
    if abstract_syntax not in served.get(operation_name, ()):
        # Where the service exists, it is the class that it does not support (PS3.7 9.1.1.1.9).
        status = SOP_CLASS_NOT_SUPPORTED if operation_name in served else UNRECOGNISED_OPERATION
        return Refusal(status, f"no {operation_name} for this SOP class")
    if operation_name not in permitted:
        return Refusal(NOT_AUTHORISED, f"the caller may not ask for {operation_name}")
    if operation_name in _INSTANCE and not getattr(request, _INSTANCE[operation_name]):
        return Refusal(MISTYPED_ARGUMENT, f"{operation_name} names no SOP instance")
    if not request.is_valid_request:
        return Refusal(MISTYPED_ARGUMENT, f"{operation_name} lacks a parameter")
    reason = getattr(request, "excess", None)
    return None if reason is None else Refusal(RESOURCE_LIMITATION, reason)


def refusal_of(event: Any) -> Refusal | None:
    """`refusal` of an event's request, as the association that it came over decides."""
    reason: Refusal | None = event.assoc.refusal(event.request, str(event.context.abstract_syntax))
    return reason


def check(event: Any) -> None:
    """Raise RefusedRequestError unless the request may be served for this caller and context.

    Each handler calls it, though the association has checked before: no way to a handler, now or
    later, shall go around the access rules.
    """
    answer = refusal_of(event)
    if answer is not None:
        raise RefusedRequestError(answer.status, answer.reason)


def calling_ae(event: Any) -> str:
    """The AE title of the requestor of the event's association."""
    return str(event.assoc.calling_ae)


def response(request: Any, answer: Refusal) -> Any | None:
    """The response primitive that refuses; None if the request has no Message ID to answer."""
    if request.MessageID is None:
        return None
    response = type(request)()
    response.MessageIDBeingRespondedTo = request.MessageID
    for kind in ("Class", "Instance"):
        for role in ("Requested", "Affected"):
            value = getattr(request, f"{role}SOP{kind}UID", None)
            if value is not None and hasattr(response, f"AffectedSOP{kind}UID"):
                setattr(response, f"AffectedSOP{kind}UID", value)
    response.Status = answer.status
    if hasattr(response, "ErrorComment"):
        response.ErrorComment = answer.reason[:64]
    return response


def data_set(request: Any) -> Any | None:
    """The encoded data set (a BytesIO) of a DIMSE-N request; None if it has none."""
    return next(
        (value for name in _DATA_SETS if (value := getattr(request, name, None)) is not None), None
    )


def measure(request: Any, transfer_syntax: str) -> None:
    """Set `excess` of a DIMSE-N request: the reason not to parse its data set, for `refusal`."""
    encoded = data_set(request)
    if encoded is not None and getattr(request, "excess", None) is None:
        request.excess = data_set_size.excess(encoded.getvalue(), transfer_syntax)


def _sop_classes(request: Any, operation_name: str) -> list[str]:
    """The SOP class that the request is about; beside it, others that it names."""
    role = "Requested" if operation_name in _REQUESTED else "Affected"
    first = getattr(request, f"{role}SOPClassUID", None)
    if not first:
        return []
    uids = (first, getattr(request, "AffectedSOPClassUID", None))
    return [str(each) for each in uids if each]
