"""The Modality Performed Procedure Step SCP (PS3.4 F.7): machines report what they acquired.

Of a step its study, its status and its objects are stored; nothing of the patient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from detector.errors import QCError
from qc_daemon.dicom.dimse_request import RefusedRequestError, calling_ae, check, parsing
from qc_daemon.dicom.status import (
    DUPLICATE_SOP_INSTANCE,
    INVALID_ATTRIBUTE_VALUE,
    INVALID_OBJECT_INSTANCE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
)
from qc_daemon.dicom.uids import is_uid, uid
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock
from qc_daemon.records.received import mpps
from qc_daemon.records.received.mpps import Change, Step
from qc_daemon.records.store import Store
from qc_daemon.records.tables import StepStatus

MPPS = "1.2.840.10008.3.1.2.3.3"

# Error ID and Error Comment for a step that is completed or discontinued (PS3.4 F.7.2.2.2).
_NO_LONGER_UPDATED = 0xA506
_NO_LONGER_UPDATED_COMMENT = "Performed Procedure Step Object may no longer be updated"

# The sequences of a performed series that refer to its objects (PS3.4 table F.7.2-1).
_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


class ProcedureSteps:
    """Serves the procedure steps that come over one process's associations."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.log = log.get(role="receive")

    def contexts(self) -> list[PresentationContext]:
        """The presentation context of MPPS."""
        return [build_context(MPPS)]

    def served(self) -> dict[str, tuple[str, ...]]:
        """The SOP class of each operation."""
        return {"N-CREATE": (MPPS,), "N-SET": (MPPS,)}

    def handlers(self) -> list[tuple[evt.EventType, Callable[[Any], Any]]]:
        """pynetdicom's events and what handles them, each in its association's thread."""
        return [
            (evt.EVT_N_CREATE, lambda event: self._answer(event, self._create)),
            (evt.EVT_N_SET, lambda event: self._answer(event, self._set)),
        ]

    def _answer(self, event: Any, act: Callable[[Any], None]) -> tuple[Dataset | int, None]:
        try:
            try:
                check(event)
                act(event)
            except (QCError, SQLAlchemyError) as error:
                raise RefusedRequestError(PROCESSING_FAILURE, "database cannot be used") from error
        except RefusedRequestError as refusal:
            self.log.warning(
                "procedure step refused",
                reason=refusal.reason,
                status=f"{refusal.status:04X}",
                calling_ae=calling_ae(event),
            )
            return refusal.response(), None
        return SUCCESS, None

    def _create(self, event: Any) -> None:
        with parsing:
            step = _read_step(event)
        with self.store.begin() as session:
            is_new = mpps.begin(session, step, self.clock())
        if not is_new:
            raise RefusedRequestError(DUPLICATE_SOP_INSTANCE, "the step is known already")
        self._log_step(event, step.sop_instance_uid, StepStatus.IN_PROGRESS)

    def _set(self, event: Any) -> None:
        sop_instance = str(event.request.RequestedSOPInstanceUID)
        with parsing:
            attributes = _read_attributes(lambda: event.modification_list)
        with self.store.begin() as session:
            outcome = mpps.change(
                session, sop_instance, attributes.status, attributes.instances, self.clock()
            )
        if outcome is Change.UNKNOWN:
            raise RefusedRequestError(NO_SUCH_SOP_INSTANCE, "no such step")
        if outcome is Change.FINAL:
            raise RefusedRequestError(
                PROCESSING_FAILURE, _NO_LONGER_UPDATED_COMMENT, _NO_LONGER_UPDATED
            )
        self._log_step(event, sop_instance, attributes.status)

    def _log_step(self, event: Any, sop_instance: str, status: StepStatus | None) -> None:
        self.log.info(
            "procedure step",
            sop_instance=sop_instance,
            state=status or "unchanged",
            calling_ae=calling_ae(event),
        )


def _read_step(event: Any) -> Step:
    """The step that an N-CREATE begins. Raises RefusedRequestError."""
    sop_instance = str(event.request.AffectedSOPInstanceUID or "")
    if not sop_instance:
        raise RefusedRequestError(INVALID_OBJECT_INSTANCE, "no Affected SOP Instance UID")
    if not is_uid(sop_instance):
        raise RefusedRequestError(INVALID_OBJECT_INSTANCE, "Affected SOP Instance UID is none")
    attributes = _read_attributes(lambda: event.attribute_list)
    if attributes.status is None:
        raise RefusedRequestError(MISSING_ATTRIBUTE, "no Performed Procedure Step Status")
    if attributes.status is not StepStatus.IN_PROGRESS:
        raise RefusedRequestError(INVALID_ATTRIBUTE_VALUE, "a step begins IN PROGRESS")
    if not attributes.has_schedule:
        raise RefusedRequestError(MISSING_ATTRIBUTE, "no Scheduled Step Attributes Sequence")
    if attributes.study is None:
        raise RefusedRequestError(MISSING_ATTRIBUTE_VALUE, "no Study Instance UID")
    return Step(sop_instance, attributes.study, attributes.instances or (), calling_ae(event))


class _StepAttributes(NamedTuple):
    """The attributes of a step that we use; None for each that is absent.

    `has_schedule` says whether there is a Scheduled Step Attributes Sequence.
    """

    status: StepStatus | None
    instances: tuple[str, ...] | None
    has_schedule: bool
    study: str | None


def _read_attributes(decode: Callable[[], Dataset]) -> _StepAttributes:
    """The attributes of a data set that `decode` returns. Raises RefusedRequestError."""
    try:
        attributes = decode()
        status = attributes.get("PerformedProcedureStepStatus")
        instances = _instances(attributes)
        scheduled = attributes.get("ScheduledStepAttributesSequence") or ()
        study = uid(scheduled[0], "StudyInstanceUID") if scheduled else None
    except Exception as error:
        # pydicom's readers raise almost anything on bytes that are no data set.
        raise RefusedRequestError(
            INVALID_ATTRIBUTE_VALUE, "the attributes cannot be read"
        ) from error
    return _StepAttributes(_status(status), instances, bool(scheduled), study)


def _status(value: object) -> StepStatus | None:
    if value is None:
        return None
    try:
        return StepStatus(str(value).strip())
    except ValueError:
        raise RefusedRequestError(
            INVALID_ATTRIBUTE_VALUE, "no such Performed Procedure Step Status"
        ) from None


def _instances(attributes: Dataset) -> tuple[str, ...] | None:
    """SOP Instance UIDs of the performed series' images and other composite objects; None if
    there is no Performed Series Sequence."""
    if "PerformedSeriesSequence" not in attributes:
        return None
    uids = [
        uid(item, "ReferencedSOPInstanceUID")
        for series in attributes.PerformedSeriesSequence or ()
        for keyword in _REFERENCES
        for item in series.get(keyword) or ()
    ]
    return tuple(dict.fromkeys(each for each in uids if each is not None))
