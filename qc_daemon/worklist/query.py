"""Asks a worklist for the entries of a patient: Modality Worklist C-FIND (PS3.4 K.4.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_context

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.status import SUCCESS
from qc_daemon.dicom.tls import tls_args
from qc_daemon.settings import DestinationSettings, WorklistSettings
from qc_daemon.worklist.item import WorklistItem, parse_item

MODEL = "1.2.840.10008.5.1.4.31"
"""Modality Worklist Information Model - FIND."""
MAX_ITEMS = 100
"""So many entries of one patient are read; a worklist that gives more does not match by patient."""
_PENDING = (0xFF00, 0xFF01)


class Worklist:
    """An association with the worklist, over which one patient after another is asked for."""

    def __init__(self, association: Any, settings: WorklistSettings) -> None:
        self._association = association
        self._settings = settings

    def find(self, patient_id: str) -> list[WorklistItem]:
        """The entries of the patient. Raises QCError DELIVERY_UNREACHABLE."""
        items: list[WorklistItem] = []
        last = None
        try:
            for status, dataset in self._association.send_c_find(_query(patient_id), MODEL):
                last = status.get("Status")
                if last in _PENDING and dataset is not None:
                    items.append(parse_item(dataset))
                if len(items) > MAX_ITEMS:
                    self._association.abort()
                    raise _unreachable(self._settings, "gives the entries of everybody")
        except (ValueError, RuntimeError) as error:
            raise _unreachable(self._settings, "lost the association") from error
        if last != SUCCESS:
            answer = "no answer" if last is None else f"status {last:04X}"
            raise _unreachable(self._settings, f"did not answer the query: {answer}")
        return items


@contextmanager
def open_worklist(settings: WorklistSettings, calling_ae: str) -> Iterator[Worklist]:
    """An association with the worklist. Raises QCError DELIVERY_UNREACHABLE."""
    assert settings.host is not None
    peer = DestinationSettings(
        name="worklist", ae_title=settings.ae_title, host=settings.host, port=settings.port
    )
    peer.tls, peer.timeout = settings.tls, settings.timeout
    secure = tls_args(peer)
    association = associate(
        requestor(calling_ae, settings.timeout),
        settings.host,
        settings.port,
        contexts=[build_context(MODEL)],
        ae_title=settings.ae_title,
        tls_args=secure,
    )
    if association.rejected_contexts and not association.accepted_contexts:
        raise _unreachable(settings, "offers no modality worklist")
    if not association.is_established:
        why = cause(association, settings.host, settings.port, secure)
        raise _unreachable(settings, f"is not reached: {why}")
    try:
        yield Worklist(association, settings)
    finally:
        if association.is_established:
            association.release()


def _query(patient_id: str) -> Dataset:
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.PatientID = patient_id
    for keyword in (
        "AccessionNumber",
        "PatientName",
        "PatientBirthDate",
        "StudyInstanceUID",
        "RequestedProcedureID",
    ):
        setattr(query, keyword, "")
    step = Dataset()
    for keyword in (
        "Modality",
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "ScheduledPerformingPhysicianName",
        "ScheduledProcedureStepID",
    ):
        setattr(step, keyword, "")
    query.ScheduledProcedureStepSequence = [step]
    return query


def _unreachable(settings: WorklistSettings, what: str) -> QCError:
    where = f"{settings.ae_title}@{settings.host}:{settings.port}"
    return QCError(ErrorCode.DELIVERY_UNREACHABLE, f"the worklist {where} {what}")
