"""Storage commitment on the wire: the well-known UIDs and what a report says (PS3.4 Annex J).

Two stages tell it: `receive` on the association of the request, `deliver` on one of its own.
"""

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from qc_daemon.records.commitments import Reference, Report

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"

ALL_COMMITTED, FAILURES_EXIST = 1, 2


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
