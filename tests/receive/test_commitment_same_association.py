"""Reports of storage commitment that destinations bring on associations of their own."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role
from sqlalchemy import insert

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom import associate_pdu
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, Reference, Report
from qc_daemon.receive import access
from qc_daemon.receive.access import AccessPolicy, Caller, ReportingDestinations
from qc_daemon.receive.back_pressure import Level
from qc_daemon.records.commitment import scu
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    CallerRow,
    JobKind,
    JobRow,
    OutgoingCommitment,
    OutgoingCommitmentItem,
)
from qc_daemon.settings import DestinationSettings, PeerSettings
from tests.support.dicom_objects import US, ultrasound
from tests.support.pacs import associate_with_roles, send_commitment_report
from tests.support.peers import action_information, store
from tests.support.running_receiver import RunningReceiver

TRANSACTION = "2.25.4711"
VERIFICATION = "1.2.840.10008.1.1"
PACS = DestinationSettings(name="pacs", ae_title="PACS", host="localhost", objects=["source"])
MODALITY = {"ae_title": "MODALITY", "address": "127.0.0.1"}
UNKNOWN = 0x0115


@pytest.fixture
def requester(start_receiver: Callable[..., RunningReceiver]) -> RunningReceiver:
    """A receiver behind which the PACS, which is no peer, was asked for one object."""
    return ask(start_receiver(destinations=[PACS], peer=[MODALITY]))


def ask(receiver: RunningReceiver) -> RunningReceiver:
    dataset = ultrasound()
    assert store(receiver.port, dataset) == [0x0000]
    (job,) = [row for row in receiver.rows(JobRow) if row.kind == JobKind.DELIVER]
    with receiver.store.begin() as session:
        session.add(
            OutgoingCommitment(
                id=1, transaction_uid=TRANSACTION, destination="pacs", asked_at=datetime.now(UTC)
            )
        )
        session.flush()
        session.execute(
            insert(OutgoingCommitmentItem).values(
                pledge_id=1, job_id=job.id, sop_instance_uid=dataset.SOPInstanceUID
            )
        )
    return receiver


def failures(receiver: RunningReceiver) -> list[int | None]:
    return [row.failure for row in receiver.rows(OutgoingCommitmentItem)]


def report(
    receiver: RunningReceiver, *, failure: int = 0, transaction: str = TRANSACTION
) -> Report:
    (item,) = receiver.rows(OutgoingCommitmentItem)
    reference = Reference(US, item.sop_instance_uid)
    if failure:
        return Report(transaction, (), ((reference, failure),))
    return Report(transaction, (reference,), ())


@pytest.mark.parametrize("failure", [0, 0x0112])
def test_a_destination_may_call_to_report(requester: RunningReceiver, failure: int) -> None:
    commitment_report = report(requester, failure=failure)
    assert send_commitment_report(requester.port, commitment_report) == 0x0000
    assert failures(requester) == [failure]
    assert send_commitment_report(requester.port, commitment_report) == 0x0000
    assert failures(requester) == [failure]


def test_a_destination_may_report_without_role_selection(requester: RunningReceiver) -> None:
    assert send_commitment_report(requester.port, report(requester), as_scp=False) == 0x0000
    assert failures(requester) == [0]


def test_that_is_all_it_may(requester: RunningReceiver) -> None:
    assoc = associate_with_roles(
        requester.port,
        "PACS",
        [build_context(US), build_context(PUSH_MODEL), build_context(VERIFICATION)],
    )
    assert assoc.is_established
    assert {str(each.abstract_syntax) for each in assoc.accepted_contexts} == {
        PUSH_MODEL,
        VERIFICATION,
    }
    assert assoc.send_c_echo().Status == 0x0000
    answer, _ = assoc.send_n_action(
        action_information((US, "1.2.3"), transaction="1.2"), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    assert answer.Status == 0x0124
    assoc.release()


def test_the_role_that_it_selects_is_granted(requester: RunningReceiver) -> None:
    assoc = associate_with_roles(
        requester.port, "PACS", [build_context(PUSH_MODEL)], [build_role(PUSH_MODEL, scp_role=True)]
    )
    (context,) = assoc.accepted_contexts
    assert (context.as_scu, context.as_scp) == (False, True)
    assoc.release()


def test_strangers_may_not_report(requester: RunningReceiver) -> None:
    assert send_commitment_report(requester.port, report(requester), calling="STRANGER") is None
    assert failures(requester) == [None]


def test_a_report_counts_only_from_the_requested_destination(requester: RunningReceiver) -> None:
    assert send_commitment_report(requester.port, report(requester), calling="MODALITY") == UNKNOWN
    assert failures(requester) == [None]


def test_a_destination_that_is_a_peer_too_may_report_and_store(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    peer = {"ae_title": "PACS", "address": "127.0.0.1"}
    far = PACS.model_copy(update={"host": "192.0.2.1"})
    receiver = ask(start_receiver(destinations=[far], peer=[MODALITY, peer]))
    # It may be a cluster that calls from another address than the one it is called at.
    assert send_commitment_report(receiver.port, report(receiver)) == 0x0000
    assert failures(receiver) == [0]


def test_an_unknown_transaction_is_refused(requester: RunningReceiver) -> None:
    assert (
        send_commitment_report(requester.port, report(requester, transaction="2.25.1")) == UNKNOWN
    )
    assert failures(requester) == [None]


def test_a_transaction_of_another_destination_is_none(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    other = PACS.model_copy(update={"name": "archive", "ae_title": "ARCHIVE"})
    receiver = ask(start_receiver(destinations=[PACS, other], peer=[MODALITY]))
    assert send_commitment_report(receiver.port, report(receiver), calling="ARCHIVE") == UNKNOWN
    assert send_commitment_report(receiver.port, report(receiver), calling="PACS") == 0x0000


def test_what_is_no_report_is_refused(requester: RunningReceiver) -> None:
    assert send_commitment_report(requester.port, report(requester), event_type=3) == 0x0113
    assert send_commitment_report(requester.port, report(requester), instance="1.2.3") == 0x0112
    empty = Dataset()
    empty.PatientID = "X"
    assert send_commitment_report(requester.port, empty) == UNKNOWN
    assert failures(requester) == [None]


def test_an_item_without_a_reason_has_failed(requester: RunningReceiver) -> None:
    (item,) = requester.rows(OutgoingCommitmentItem)
    failed, nameless, information = Dataset(), Dataset(), Dataset()
    failed.ReferencedSOPInstanceUID = item.sop_instance_uid
    information.TransactionUID = TRANSACTION
    information.FailedSOPSequence = [nameless, failed]
    assert send_commitment_report(requester.port, information) == 0x0000
    assert failures(requester) == [0x0110]


def test_without_the_database_a_report_is_refused_for_a_retry(
    requester: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment_report = report(requester)

    def away(*_arguments: Any) -> None:
        raise QCError(ErrorCode.STORAGE, "the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(scu, "record_report", away)
        assert send_commitment_report(requester.port, commitment_report) == 0x0110
    assert send_commitment_report(requester.port, commitment_report) == 0x0000


def test_back_pressure_stops_no_report(
    requester: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment_report = report(requester)
    monkeypatch.setattr(requester.scp.back_pressure, "level", lambda: Level.HARD)
    assert send_commitment_report(requester.port, commitment_report) == 0x0000


def test_a_destination_with_commitment_off_may_not_call(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    off = PACS.model_copy(update={"commitment": "off"})
    receiver = ask(start_receiver(destinations=[off], peer=[MODALITY]))
    assert send_commitment_report(receiver.port, report(receiver)) is None
    assert [row.ae_title for row in receiver.rows(CallerRow)] == ["PACS"]


# The policy by itself.


@pytest.fixture
def access_policy(receiver: RunningReceiver) -> Callable[..., AccessPolicy]:
    def make(peers: list[PeerSettings], *destinations: DestinationSettings) -> AccessPolicy:
        policy = AccessPolicy(
            peers, receiver.store, lambda: datetime.now(UTC), ReportingDestinations(destinations)
        )
        policy.refresh()
        return policy

    return make


def caller(title: str, address: str) -> Any:
    return SimpleNamespace(
        calling_ae=title,
        requestor=SimpleNamespace(address_info=SimpleNamespace(address=address)),
        dul=SimpleNamespace(socket=SimpleNamespace(socket=None)),
    )


def test_only_from_the_address_of_its_host(access_policy: Callable[..., AccessPolicy]) -> None:
    near = PACS.model_copy(update={"host": "192.0.2.7"})
    policy = access_policy([PeerSettings(**MODALITY)], near)
    assert policy.may_only_report(caller("PACS", "192.0.2.7"))
    assert policy.may_only_report(caller("PACS", "::ffff:192.0.2.7"))
    assert not policy.may_only_report(caller("PACS", "192.0.2.8"))
    assert not policy.may_only_report(caller("pacs", "192.0.2.7"))
    # Without any peer too, where only loopback is taken otherwise.
    assert access_policy([], near).may_only_report(caller("PACS", "192.0.2.7"))


def test_a_peer_with_a_certificate_is_not_let_in_without(
    access_policy: Callable[..., AccessPolicy],
) -> None:
    near = PACS.model_copy(update={"host": "192.0.2.7"})
    bound = PeerSettings(ae_title="PACS", address="192.0.2.0/24", certificate="0" * 64)
    assert not access_policy([bound], near).may_only_report(caller("PACS", "192.0.2.7"))


def test_a_host_that_cannot_be_resolved_permits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = []

    def fails(host: str, *_more: Any, **_named: Any) -> Any:
        queries.append(host)
        raise OSError(-2, "unknown")

    monkeypatch.setattr(access.socket, "getaddrinfo", fails)
    destinations = ReportingDestinations([PACS])
    for _ in range(3):
        assert destinations.with_title_and_address(Caller("PACS", "127.0.0.1")) == []
    assert queries == ["localhost"]


def test_before_the_database_is_read_rejections_are_transient(tmp_path: Path) -> None:
    away = Store(f"sqlite:///{tmp_path / 'no' / 'qc.db'}")
    near = PACS.model_copy(update={"host": "192.0.2.7"})
    policy = AccessPolicy([], away, lambda: datetime.now(UTC), ReportingDestinations([near]))
    assert not policy.may_only_report(caller("PACS", "192.0.2.7"))
    assert policy.find_rejection(caller("PACS", "192.0.2.7")) == associate_pdu.TEMPORARY_CONGESTION
