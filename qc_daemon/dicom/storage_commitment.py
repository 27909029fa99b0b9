"""Storage commitment on the wire: the well-known UIDs, requests and reports (PS3.4 Annex J).

Two stages speak it, each in both roles: `receive` on associations that others open, `deliver` on
its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from qc_daemon.dicom.status import PROCESSING_FAILURE
from qc_daemon.dicom.uids import uid

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"

REQUEST_STORAGE_COMMITMENT = 1
ALL_COMMITTED, FAILURES_EXIST = 1, 2

COMMITTED = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """An object as the requester names it."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Request:
    """An N-ACTION request; `association` names the association it came over."""

    transaction_uid: str
    requested_by: str
    address: str
    association: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome: what we commit to, and what not with its Failure Reason."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]


def action_information(transaction_uid: str, references: Iterable[Reference]) -> Dataset:
    """Action Information of the N-ACTION (PS3.4 Table J.3-1)."""
    information = Dataset()
    _put_uid(information, 0x00081195, transaction_uid)
    information.ReferencedSOPSequence = Sequence(map(_item, references))
    return information


def read_report(information: Dataset) -> Report:
    """What an N-EVENT-REPORT's Event Information says, items without a UID left out.

    Raises ValueError if it is none.
    """
    try:
        transaction = uid(information, "TransactionUID")
        committed = [_named(item) for item in information.get("ReferencedSOPSequence") or ()]
        failed = [
            (_named(item), _reason(item)) for item in information.get("FailedSOPSequence") or ()
        ]
    except Exception as error:
        # pydicom's readers raise almost anything on bytes that are no data set.
        raise ValueError("event information cannot be read") from error
    if transaction is None:
        raise ValueError("no Transaction UID")
    return Report(
        transaction,
        committed=tuple(each for each in committed if each is not None),
        failed=tuple((each, reason) for each, reason in failed if each is not None),
    )


def event_information(report: Report) -> tuple[int, Dataset]:
    """Event Type ID and Event Information of the N-EVENT-REPORT (PS3.4 Table J.3-3)."""
    information = Dataset()
    _put_uid(information, 0x00081195, report.transaction_uid)
    if report.committed:
        information.ReferencedSOPSequence = Sequence(map(_item, report.committed))
    if not report.failed:
        return ALL_COMMITTED, information
    information.FailedSOPSequence = Sequence(
        _item(reference, reason) for reference, reason in report.failed
    )
    return FAILURES_EXIST, information


def _named(item: Dataset) -> Reference | None:
    """The object; its class is only for logs and may be left out."""
    instance = uid(item, "ReferencedSOPInstanceUID")
    return Reference(uid(item, "ReferencedSOPClassUID") or "", instance) if instance else None


def _reason(item: Dataset) -> int:
    """The Failure Reason; where it is left out, or says success, it is a failure all the same."""
    return int(item.get("FailureReason") or PROCESSING_FAILURE)


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    _put_uid(item, 0x00081150, reference.sop_class_uid)
    _put_uid(item, 0x00081155, reference.sop_instance_uid)
    if reason is not None:
        item.FailureReason = reason
    return item


def _put_uid(dataset: Dataset, tag: int, value: str) -> None:
    """The UID as the requester gave it, even one that breaks a rule: it knows no other."""
    dataset.add(DataElement(tag, "UI", value, validation_mode=IGNORE))
