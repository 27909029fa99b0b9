"""Peers that call the receiver: plain associations, and a modality that asks for storage
commitment and reports its procedure steps (MPPS), by pynetdicom."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from qc_daemon.dicom.association import associate
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from tests.support.dicom_objects import US
from tests.support.ports import reserve_port

MPPS = "1.2.840.10008.3.1.2.3.3"


@contextlib.contextmanager
def association(
    port: int,
    contexts: list[tuple[str, str]] | None = None,
    calling: str = "MODALITY",
    called: str = "QCDAEMON",
) -> Iterator[Any]:
    """A modality's association, established or not."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 60
    for sop_class, syntax in contexts or [(US, ExplicitVRLittleEndian)]:
        ae.add_requested_context(sop_class, syntax)
    peer = associate(ae, "127.0.0.1", port, ae_title=called)
    try:
        yield peer
    finally:
        if peer.is_established:
            peer.release()


def store(port: int, *datasets: Dataset) -> list[int]:
    """C-STORE them over one association; the statuses."""
    contexts = {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in datasets}
    with association(port, sorted(contexts)) as peer:
        assert peer.is_established
        return [peer.send_c_store(dataset).Status for dataset in datasets]


@dataclass
class CommitmentReport:
    """An N-EVENT-REPORT; `failure_reasons`: by SOP Instance UID, 0 for committed."""

    event_type: int
    transaction_uid: str
    failure_reasons: dict[str, int]
    association: Any


@dataclass
class Modality:
    """AE title MODALITY; `listen` makes it take reports on `port`, answering `status`."""

    port: int = field(default_factory=reserve_port)
    status: int = 0x0000
    reports: list[CommitmentReport] = field(default_factory=list)
    roles: list[tuple[bool | None, bool | None]] = field(default_factory=list)
    _server: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self, tls: ssl.SSLContext | None = None) -> "Modality":
        ae = AE("MODALITY")
        # It is the SCU of storage commitment even when it is called (PS3.4 J.3.3).
        ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=tls,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)],
        )
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    @contextlib.contextmanager
    def association(self, port: int) -> Iterator[Any]:
        """One that offers storage, storage commitment and procedure steps."""
        ae = AE("MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 60
        ae.add_requested_context(US, ExplicitVRLittleEndian)
        ae.add_requested_context(PUSH_MODEL)
        ae.add_requested_context(MPPS)
        peer = associate(
            ae,
            "127.0.0.1",
            port,
            ae_title="QCDAEMON",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)],
        )
        assert peer.is_established
        try:
            yield peer
        finally:
            if peer.is_established:
                peer.release()

    def request_commitment(
        self, port: int, *references: tuple[str, str], transaction: str = ""
    ) -> str:
        """Ask over an association of its own, which ends at once; the Transaction UID."""
        with self.association(port) as association:
            return request_commitment(association, *references, transaction=transaction)

    def _reported(self, event: Any) -> tuple[int, None]:
        information = event.event_information
        reasons = {
            str(item.ReferencedSOPInstanceUID): 0
            for item in information.get("ReferencedSOPSequence", [])
        } | {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in information.get("FailedSOPSequence", [])
        }
        (context,) = (
            each
            for each in event.assoc.accepted_contexts
            if each.context_id == event.context.context_id
        )
        with self._lock:
            self.roles.append((context.as_scu, context.as_scp))
            self.reports.append(
                CommitmentReport(
                    event.event_type, str(information.TransactionUID), reasons, event.assoc
                )
            )
        return self.status, None


def request_commitment(
    association: Any, *references: tuple[str, str], transaction: str = ""
) -> str:
    """Request storage commitment for (SOP class, SOP instance) pairs; the Transaction UID."""
    transaction = transaction or generate_uid()
    answer, _ = association.send_n_action(
        action_information(*references, transaction=transaction), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    assert answer.Status == 0x0000, f"{answer.Status:04X}"
    return transaction


def action_information(*references: tuple[str, str], transaction: str) -> Dataset:
    """The Action Information."""
    information = Dataset()
    information.TransactionUID = transaction
    information.ReferencedSOPSequence = []
    for sop_class, sop_instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        information.ReferencedSOPSequence.append(item)
    return information


def begin_step(association: Any, study: str, sop_instance: str = "", **changes: Any) -> str:
    """N-CREATE of a step in progress; its UID. Raises AssertionError if refused."""
    sop_instance = sop_instance or generate_uid()
    answer, _ = association.send_n_create(step_in_progress(study, **changes), MPPS, sop_instance)
    assert answer.Status == 0x0000, f"{answer.Status:04X}"
    return sop_instance


def step_in_progress(study: str, **changes: Any) -> Dataset:
    """What an ultrasound machine sends when it begins (the part that anybody reads)."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study
    attributes = Dataset()
    attributes.PerformedProcedureStepStatus = "IN PROGRESS"
    attributes.PerformedProcedureStepID = "1"
    attributes.Modality = "US"
    attributes.PatientName = "CANARY^NAME"
    attributes.ScheduledStepAttributesSequence = [scheduled]
    attributes.PerformedSeriesSequence = []
    for keyword, value in changes.items():
        setattr(attributes, keyword, value)
    return attributes


def end_step(
    association: Any, sop_instance: str, *sop_instances: str, status: str = "COMPLETED"
) -> Dataset:
    """N-SET of the final status with the objects made; the answer's status elements."""
    answer, _ = association.send_n_set(
        modification_list(*sop_instances, status=status), MPPS, sop_instance
    )
    return answer


def modification_list(*sop_instances: str, status: str = "COMPLETED") -> Dataset:
    """The Modification List."""
    series = Dataset()
    series.SeriesInstanceUID = generate_uid()
    series.ReferencedImageSequence = []
    for sop_instance in sop_instances:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = US, sop_instance
        series.ReferencedImageSequence.append(image)
    attributes = Dataset()
    attributes.PerformedProcedureStepStatus = status
    attributes.PerformedSeriesSequence = [series]
    return attributes
