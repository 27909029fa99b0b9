"""What the DIMSE-N services share: refusing with a status."""

import threading
from typing import Any

from pydicom.dataset import Dataset

from qc_daemon.dicom.dimse_request import refusal_of

# What a process parses of requests it parses one by one: as what one takes is bounded, so is the
# sum.
parsing = threading.Lock()


class RefusedRequestError(Exception):
    """A request we do not do: DIMSE status, a reason without any value of it, and an Error ID."""

    def __init__(self, status: int, reason: str, error_id: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.error_id = error_id

    def response(self) -> Dataset:
        """The status elements (PS3.7 Annex C); Error Comment is an LO of 64 characters."""
        made = Dataset()
        made.Status = self.status
        made.ErrorComment = self.reason[:64]
        if self.error_id is not None:
            made.ErrorID = self.error_id
        return made


def check(event: Any) -> None:
    """Raise RefusedRequestError unless the request may be served for this caller and context.

    Asked in each handler, though the association asks before: no other way to a handler, now or
    later, shall walk around the access rules.
    """
    refusal = refusal_of(event)
    if refusal is not None:
        raise RefusedRequestError(refusal.status, refusal.reason)


def calling_ae(event: Any) -> str:
    """The AE title of the requestor of the event's association."""
    return str(event.assoc.calling_ae)
