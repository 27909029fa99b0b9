"""A PACS on loopback by pynetdicom: stores what it is sent, and answers storage commitment with
any status, Failure Reasons and number of reports."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt

from qc_daemon.dicom import association as requestor
from qc_daemon.dicom.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Reference,
    Report,
    event_information,
)
from tests.support.dicom_objects import US
from tests.support.ports import reserve_port


@dataclass
class Pacs:
    """A storage SCP standing for the PACS; `status` is what it answers, `statuses` for the objects
    of a study, by Study Instance UID.

    It aborts the association on which an object of `aborts_on` comes, by SOP Instance UID.
    """

    port: int = field(default_factory=reserve_port)
    status: int = 0x0000
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    sop_classes: tuple[str, ...] = (US,)
    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    associations: int = 0
    aborts_on: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)
    _server: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> "Pacs":
        ae = AE("PACS")
        for sop_class in self.sop_classes:
            ae.add_supported_context(sop_class, list(self.syntaxes))
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)],
        )
        return self

    def stop(self) -> None:
        if self._server is not None:
            for each in self._server.active_associations:
                each.abort()
            self._server.shutdown()
            self._server = None

    def uids(self) -> list[str]:
        with self._lock:
            return [uid for uid, _, _ in self.received]

    def _accepted(self, _event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        if event.request.AffectedSOPInstanceUID in self.aborts_on:
            event.assoc.abort()
            return 0x0110
        study = str(event.dataset.get("StudyInstanceUID", "")) if self.statuses else ""
        status = self.statuses.get(study, self.status)
        if status == 0:
            with self._lock:
                self.received.append(
                    (
                        str(event.request.AffectedSOPInstanceUID),
                        str(event.context.transfer_syntax),
                        event.encoded_dataset(include_meta=False),
                    )
                )
        return status


@dataclass
class CommitmentRequest:
    """An N-ACTION as it came, and its association."""

    transaction_uid: str
    references: list[Reference]
    association: Any

    @property
    def uids(self) -> list[str]:
        return [each.sop_instance_uid for each in self.references]


@dataclass
class CommittingPacs(Pacs):
    """`answer` is the status of its N-ACTION response, None for an abort instead.

    It reports `times` on the association of the request; `reasons` gives Failure Reasons by SOP
    Instance UID. `commits` False: it knows no storage commitment.
    """

    commits: bool = True
    answer: int | None = 0x0000
    times: int = 1
    reasons: dict[str, int] = field(default_factory=dict)
    requests: list[CommitmentRequest] = field(default_factory=list)
    answers: list[int | None] = field(default_factory=list)
    proposed: list[set[str]] = field(default_factory=list)

    def start(self) -> "CommittingPacs":
        ae = AE("PACS")
        for sop_class in self.sop_classes:
            ae.add_supported_context(sop_class, list(self.syntaxes))
        if self.commits:
            ae.add_supported_context(PUSH_MODEL)
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_N_ACTION, self._n_action),
            ],
        )
        return self

    def report(self, request: CommitmentRequest) -> Report:
        """What it says of a request."""
        return Report(
            request.transaction_uid,
            tuple(e for e in request.references if e.sop_instance_uid not in self.reasons),
            tuple(
                (each, self.reasons[each.sop_instance_uid])
                for each in request.references
                if each.sop_instance_uid in self.reasons
            ),
        )

    def _requested(self, event: Any) -> None:
        contexts = event.assoc.requestor.primitive.presentation_context_definition_list
        self.proposed.append({str(each.abstract_syntax) for each in contexts})

    def _n_action(self, event: Any) -> tuple[int | None, None]:
        information = event.action_information
        request = CommitmentRequest(
            str(information.TransactionUID),
            [
                Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in information.ReferencedSOPSequence
            ],
            event.assoc,
        )
        self.requests.append(request)
        if self.answer is None:
            event.assoc.abort()
            return 0x0110, None
        if self.answer == 0 and self.times:
            threading.Thread(target=self._report, args=(request,), daemon=True).start()
        return self.answer, None

    def _report(self, request: CommitmentRequest) -> None:
        # Its own answer to the request goes first.
        time.sleep(0.1)
        for _ in range(self.times):
            event_type, information = event_information(self.report(request))
            answer, _ = requestor.make_thread_safe(request.association).send_n_event_report(
                information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
            self.answers.append(answer.get("Status"))


def send_commitment_report(
    port: int,
    report: Report | Dataset,
    calling: str = "PACS",
    event_type: int | None = None,
    instance: str = PUSH_MODEL_INSTANCE,
    *,
    as_scp: bool = True,
) -> int | None:
    """Report on an association opened to `port`; the status, None if it was not let in."""
    with_roles = [build_role(PUSH_MODEL, scp_role=True)] if as_scp else []
    peer = associate_with_roles(port, calling, [build_context(PUSH_MODEL)], with_roles)
    if not peer.is_established:
        return None
    kind, information = event_information(report) if isinstance(report, Report) else (1, report)
    try:
        answer, _ = peer.send_n_event_report(
            information, kind if event_type is None else event_type, PUSH_MODEL, instance
        )
        return int(answer.Status)
    finally:
        peer.release()


def associate_with_roles(
    port: int, calling: str, contexts: Sequence[Any], roles: Sequence[Any] = ()
) -> Any:
    """An association with our receiver, established or not."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 60
    return requestor.associate(
        ae, "127.0.0.1", port, contexts=list(contexts), ext_neg=list(roles), ae_title="QCDAEMON"
    )
