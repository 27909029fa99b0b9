"""Storage commitment between real sockets: what is promised, when, and that it is told."""

import io
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import update

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.circuit_breaker import CircuitBreaker
from qc_daemon.deliver.commitment_scp import CommitmentReporter, CommitmentVerifier
from qc_daemon.deliver.worker import run
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from qc_daemon.observe import log
from qc_daemon.records.commitment import scp
from qc_daemon.records.queue import jobs
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    Commitment,
    CommitmentItem,
    CommitmentState,
    JobKind,
    JobRow,
    Revision,
)
from qc_daemon.routing import Routes
from qc_daemon.settings import ClientTLSSettings, Settings
from tests.support.certificates import Authority
from tests.support.dicom_objects import US, ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.pacs import Pacs
from tests.support.peers import Modality, action_information, request_commitment, store
from tests.support.ports import reserve_port
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

PROCESSING_FAILURE, NO_SUCH_OBJECT, CONFLICT = 0x0110, 0x0112, 0x0119
US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"


@dataclass
class CommitmentSetup:
    """A receiver, the roles behind it, a modality and a PACS; `ahead` moves the roles' clock."""

    receiver: RunningReceiver
    settings: Settings
    modality: Modality
    pacs: Pacs
    ahead: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def judge(self) -> None:
        """Look at every request that waits."""
        self.ahead += timedelta(seconds=60)
        judge = CommitmentVerifier(self.receiver.store, self.settings, "judge", self.now)
        while judge.run_once():
            pass

    def reporter(self) -> CommitmentReporter:
        reporter = CommitmentReporter(self.receiver.store, self.settings, "reporter", self.now)
        # Each look comes a long time after the last.
        reporter.breaker = CircuitBreaker(lambda: self.now().timestamp())
        return reporter

    def report(self) -> None:
        """Send what is due."""
        eventually(self.association_is_over)
        self.ahead += timedelta(hours=2)
        reporter = self.reporter()
        while reporter.run_once():
            pass

    def deliver(self) -> None:
        deliverer = deliver_runner(self.receiver.store, self.settings, "deliver", clock=self.now)
        while deliverer.run_once():
            pass
        deliverer.close()

    def state(self) -> str:
        (row,) = self.receiver.rows(Commitment)
        return str(row.state)

    def association_is_over(self) -> bool:
        return all(row.association == "" for row in self.receiver.rows(Commitment))

    def job(self, job_state: str) -> None:
        """Give the one deliver job this state."""
        with self.receiver.store.begin() as session:
            session.execute(
                update(JobRow).where(JobRow.kind == JobKind.DELIVER).values(state=job_state)
            )


@pytest.fixture
def modality() -> Iterator[Modality]:
    modality = Modality()
    yield modality
    modality.stop()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    yield pacs
    pacs.stop()


def settings_of(
    receiver: RunningReceiver, modality: Modality, pacs: Pacs, **store: Any
) -> Settings:
    return Settings(
        store={"url": receiver.store.url, "spool": receiver.spool.root} | store,
        receive={"peer": [{"ae_title": "MODALITY", "address": "127.0.0.1", "port": modality.port}]},
        jobs={"poll_seconds": 0.05, "max_attempts": 3},
        destination=[{"name": "pacs", "port": pacs.port, "objects": ["source"], "timeout": 20}],
    )


@pytest.fixture
def setup(receiver: RunningReceiver, modality: Modality, pacs: Pacs) -> CommitmentSetup:
    return CommitmentSetup(receiver, settings_of(receiver, modality, pacs), modality, pacs)


@pytest.fixture
def alarms() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The log's lines of level critical."""
    stream = io.StringIO()
    log.configure("debug", stream)

    def critical() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in lines if line["level"] == "critical"]

    yield critical
    log.configure("critical")


def received(setup: CommitmentSetup, **values: Any) -> str:
    """Store an object; its SOP Instance UID."""
    dataset = ultrasound(**values)
    assert store(setup.receiver.port, dataset) == [0x0000]
    return str(dataset.SOPInstanceUID)


def test_the_report_waits_until_the_destination_holds_the_object(setup: CommitmentSetup) -> None:
    uid = received(setup)
    transaction = setup.modality.listen().request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    assert (setup.state(), setup.modality.reports) == ("waiting", [])
    setup.pacs.start()
    setup.deliver()
    assert setup.pacs.uids() == [uid]
    setup.judge()
    setup.report()
    (report,) = setup.modality.reports
    assert (report.event_type, report.transaction_uid, report.failure_reasons) == (
        1,
        transaction,
        {uid: 0},
    )
    assert setup.state() == "reported"
    # Role selection: the modality stays the SCU though we opened this association.
    assert setup.modality.roles == [(True, False)]
    setup.report()
    assert len(setup.modality.reports) == 1


@pytest.mark.parametrize(
    ("rule", "failure"),
    [
        ({"calling_ae": "OTHER", "to": ["archive"]}, 0),
        ({"calling_ae": "MODALITY", "to": ["pacs"]}, 0),
        ({"station": "?*", "to": ["archive"]}, 0),
        # Routed there too, and it never answers; or nowhere, so that only the spool has it.
        ({"calling_ae": "MODALITY", "to": ["pacs", "archive"]}, None),
        ({"study": "*", "drop": True}, PROCESSING_FAILURE),
    ],
)
def test_a_promise_is_about_where_rules_send_it(
    start_receiver: Callable[..., RunningReceiver],
    modality: Modality,
    pacs: Pacs,
    rule: dict[str, Any],
    failure: int | None,
) -> None:
    destinations = [
        {"name": "pacs", "port": pacs.port, "objects": ["source"], "timeout": 20},
        {"name": "archive", "port": reserve_port(), "objects": [], "timeout": 20},
    ]
    rules = [{"name": "r", "objects": ["source"]} | rule]
    routes = Routes.of(Settings(destination=destinations, rule=rules))
    receiver = start_receiver(routes=routes)
    plain = settings_of(receiver, modality, pacs).model_dump(exclude={"destination", "rule"})
    settings = Settings(**plain, destination=destinations, rule=rules)
    setup = CommitmentSetup(receiver, settings, modality, pacs)
    uid = received(setup)
    setup.modality.listen().request_commitment(receiver.port, (US, uid))
    setup.pacs.start()
    setup.deliver()
    setup.judge()
    setup.report()
    outcome = [report.failure_reasons for report in setup.modality.reports]
    assert outcome == ([] if failure is None else [{uid: failure}])


def test_answered_only_when_it_is_in_the_database(
    setup: CommitmentSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: Any) -> None:
        raise QCError(ErrorCode.STORAGE, "the database is away")

    uid = received(setup)
    monkeypatch.setattr(scp, "record_request", away)
    with setup.modality.association(setup.receiver.port) as association:
        answer, _ = association.send_n_action(
            action_information((US, uid), transaction="1.2.3"), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
    assert answer.Status == PROCESSING_FAILURE
    assert setup.receiver.rows(Commitment) == []


@pytest.mark.parametrize("harm", ["altered", "missing", "cut"])
def test_bytes_on_disk_are_checked(
    setup: CommitmentSetup, harm: str, alarms: Callable[[], list[dict[str, Any]]]
) -> None:
    uid = received(setup)
    (file,) = setup.receiver.files()
    setup.modality.listen().request_commitment(setup.receiver.port, (US, uid))
    setup.job("done")
    content = bytearray(file.read_bytes())
    if harm == "altered":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    setup.judge()
    setup.report()
    (report,) = setup.modality.reports
    assert (report.event_type, report.failure_reasons) == (2, {uid: PROCESSING_FAILURE})
    (alarm,) = alarms()
    assert (alarm["event"], alarm["sop_instance"]) == ("spool file missing or altered", uid)


def test_without_the_spool_no_request_is_decided(setup: CommitmentSetup) -> None:
    uid = received(setup)
    setup.modality.request_commitment(setup.receiver.port, (US, uid))
    setup.job("done")
    moved_spool = setup.receiver.spool.root.rename(setup.receiver.spool.root.with_name("aside"))
    with pytest.raises(QCError, match="spool"):
        setup.judge()
    assert setup.state() == "waiting"
    moved_spool.rename(setup.receiver.spool.root)
    setup.judge()
    assert setup.state() == "ready"


def test_objects_fail_one_by_one(setup: CommitmentSetup) -> None:
    good, other_class, unknown = received(setup), received(setup), generate_uid()
    setup.job("done")
    setup.modality.listen().request_commitment(
        setup.receiver.port, (US, good), (US_MULTI_FRAME, other_class), (US, unknown), (US, good)
    )
    setup.judge()
    setup.report()
    (report,) = setup.modality.reports
    assert report.event_type == 2
    assert report.failure_reasons == {good: 0, other_class: CONFLICT, unknown: NO_SUCH_OBJECT}


@pytest.mark.parametrize("state", ["dead", "quarantined"])
def test_a_dead_delivery_is_a_failure(setup: CommitmentSetup, state: str) -> None:
    uid = received(setup)
    setup.job(state)
    setup.modality.listen().request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    assert setup.modality.reports[0].failure_reasons == {uid: PROCESSING_FAILURE}


def test_every_content_under_the_uid_is_promised(setup: CommitmentSetup) -> None:
    first = ultrasound()
    second = ultrasound(pixels=bytes(256), SOPInstanceUID=first.SOPInstanceUID)
    assert store(setup.receiver.port, first) == [0x0000]
    setup.job("done")
    assert store(setup.receiver.port, second) == [0x0000]
    setup.modality.listen().request_commitment(setup.receiver.port, (US, first.SOPInstanceUID))
    setup.judge()
    assert setup.state() == "waiting"
    setup.job("done")
    setup.judge()
    setup.report()
    assert setup.modality.reports[0].event_type == 1


@pytest.mark.parametrize(("keep", "reason"), [("forever", 0), (400, PROCESSING_FAILURE)])
def test_without_destinations_only_keeping_for_ever_is_a_promise(
    start_receiver: Callable[..., RunningReceiver],
    modality: Modality,
    pacs: Pacs,
    keep: Any,
    reason: int,
) -> None:
    receiver = start_receiver()
    settings = settings_of(receiver, modality, pacs, keep_pixels_days=keep)
    settings.destination = []
    setup = CommitmentSetup(receiver, settings, modality.listen(), pacs)
    uid = received(setup)
    setup.modality.request_commitment(receiver.port, (US, uid))
    setup.judge()
    setup.report()
    assert setup.modality.reports[0].failure_reasons == {uid: reason}


def test_what_retention_dropped_is_with_its_destinations(setup: CommitmentSetup) -> None:
    uid = received(setup)
    (file,) = setup.receiver.files()
    file.unlink()
    setup.job("done")
    with setup.receiver.store.begin() as session:
        session.execute(update(Revision).values(dropped_at=setup.now()))
    setup.modality.listen().request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    assert setup.modality.reports[0].failure_reasons == {uid: 0}


def test_a_repeated_request_is_one_request_and_reported_again(setup: CommitmentSetup) -> None:
    uid = received(setup)
    setup.job("done")
    setup.modality.listen()
    for _ in range(2):
        setup.modality.request_commitment(setup.receiver.port, (US, uid), transaction="1.2.3")
    assert len(setup.receiver.rows(Commitment)) == len(setup.receiver.rows(CommitmentItem)) == 1
    setup.judge()
    setup.report()
    assert len(setup.modality.reports) == 1
    # Told at once; a modality that left before it could answer would be told once more.
    with setup.modality.association(setup.receiver.port) as association:
        request_commitment(association, (US, uid), transaction="1.2.3")
        eventually(lambda: setup.state() == "reported")
    setup.report()
    assert [each.transaction_uid for each in setup.modality.reports] == ["1.2.3"] * 2
    assert len(setup.receiver.rows(Commitment)) == 1


def test_a_transaction_uid_stands_for_its_objects_only(setup: CommitmentSetup) -> None:
    setup.modality.request_commitment(setup.receiver.port, (US, "1.2.1"), transaction="1.2.3")
    with setup.modality.association(setup.receiver.port) as association:
        answer, _ = association.send_n_action(
            action_information((US, "1.2.2"), transaction="1.2.3"),
            1,
            PUSH_MODEL,
            PUSH_MODEL_INSTANCE,
        )
    assert answer.Status == 0x0115
    (item,) = setup.receiver.rows(CommitmentItem)
    assert item.sop_instance_uid == "1.2.1"


def test_retried_when_the_requester_was_down(setup: CommitmentSetup) -> None:
    uid = received(setup)
    setup.job("done")
    setup.modality.request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    (row,) = setup.receiver.rows(Commitment)
    assert (row.state, row.attempts) == ("ready", 1)
    assert str(row.error_message).startswith(
        "requester MODALITY cannot be reached: connection refused"
    )
    setup.modality.status = 0x0110
    setup.modality.listen()
    setup.report()
    assert setup.receiver.rows(Commitment)[0].attempts == 2
    setup.modality.status = 0x0000
    setup.report()
    assert setup.state() == "reported"
    assert [each.failure_reasons for each in setup.modality.reports] == [{uid: 0}] * 2


def test_given_up_after_the_last_attempt_with_an_alarm_and_requeued(
    setup: CommitmentSetup, alarms: Callable[[], list[dict[str, Any]]]
) -> None:
    uid = received(setup)
    setup.job("done")
    transaction = setup.modality.request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    for _ in range(3):
        setup.report()
    assert setup.state() == "dead"
    (alarm,) = alarms()
    assert (alarm["event"], alarm["transaction"]) == ("commitment report given up", transaction)
    (row,) = setup.receiver.rows(Commitment)
    setup.modality.listen()
    with setup.receiver.store.begin() as session:
        assert scp.requeue(session, [row.id], setup.now()) == 1
    setup.report()
    assert (setup.state(), len(setup.modality.reports)) == ("reported", 1)


def test_a_requester_without_a_port_is_named_with_the_fix(setup: CommitmentSetup) -> None:
    uid = received(setup)
    setup.job("done")
    setup.settings.receive.peer[0].port = None
    setup.modality.request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    (row,) = setup.receiver.rows(Commitment)
    assert row.error_message == ("requester MODALITY has no port; set port in its [[receive.peer]]")


def test_a_requester_is_called_over_tls_where_the_settings_say_so(
    setup: CommitmentSetup, tmp_path: Path
) -> None:
    hospital = Authority.make(tmp_path / "hospital")
    machine = hospital.issue("machine")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(machine.certificate, machine.key)
    setup.modality.listen(theirs)
    setup.settings.receive.peer[0].tls = ClientTLSSettings(ca=tmp_path / "absent.pem")
    uid = received(setup)
    setup.job("done")
    setup.modality.request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    assert "tls files" in str(setup.receiver.rows(Commitment)[0].error_message)
    setup.settings.receive.peer[0].tls = ClientTLSSettings(ca=hospital.certificate)
    setup.report()
    assert [each.failure_reasons for each in setup.modality.reports] == [{uid: 0}]


def test_a_restart_between_request_and_report_loses_nothing(setup: CommitmentSetup) -> None:
    uid = received(setup)
    setup.modality.request_commitment(setup.receiver.port, (US, uid))
    assert setup.receiver.scp.drain(20) == 0
    setup.receiver.store.close()
    setup.receiver.store = Store(setup.receiver.store.url)
    setup.job("done")
    # A judge that died with the request in hand.
    with setup.receiver.store.begin() as session:
        assert scp.claim(session, CommitmentState.WAITING, "gone", setup.now(), 300)
    setup.judge()
    assert setup.state() == "waiting"
    setup.ahead += timedelta(seconds=300)
    setup.judge()
    setup.modality.listen()
    setup.report()
    assert [each.failure_reasons for each in setup.modality.reports] == [{uid: 0}]


def test_reported_on_the_same_association_while_it_is_open(setup: CommitmentSetup) -> None:
    """And what the modality sends meanwhile is served as if nothing was."""
    uid = received(setup)
    setup.job("done")
    with setup.modality.association(setup.receiver.port) as association:
        transaction = request_commitment(association, (US, uid))
        setup.judge()
        # For some seconds the report is this association's; nobody else takes it.
        setup.ahead = timedelta()
        assert not setup.reporter().run_once()
        statuses = []
        while not setup.modality.reports:
            statuses.append(association.send_c_store(ultrasound()).Status)
        eventually(lambda: setup.state() == "reported")
        (report,) = setup.modality.reports
        assert report.association is association
        assert (report.event_type, report.transaction_uid, report.failure_reasons) == (
            1,
            transaction,
            {uid: 0},
        )
        statuses.append(association.send_c_store(ultrasound()).Status)
        assert set(statuses) == {0x0000}
        # A second one, after all was quiet.
        request_commitment(association, (US, "1.2.99"))
        setup.judge()
        eventually(lambda: len(setup.modality.reports) == 2)
        assert setup.modality.reports[1].failure_reasons == {"1.2.99": NO_SUCH_OBJECT}
    eventually(lambda: {row.state for row in setup.receiver.rows(Commitment)} == {"reported"})


def test_refused_on_the_same_association_it_goes_over_another(setup: CommitmentSetup) -> None:
    uid = received(setup)
    setup.job("done")
    setup.modality.status = 0x0110
    with setup.modality.association(setup.receiver.port) as association:
        request_commitment(association, (US, uid))
        setup.judge()
        eventually(lambda: len(setup.modality.reports) == 1)
        eventually(setup.association_is_over)
    setup.modality.status = 0x0000
    setup.modality.listen()
    setup.report()
    assert setup.state() == "reported"
    assert setup.modality.reports[1].association is not setup.modality.reports[0].association


def test_the_deliver_role_judges_and_reports(setup: CommitmentSetup) -> None:
    setup.pacs.start()
    setup.modality.listen()
    uid = received(setup)
    stop = threading.Event()
    role = threading.Thread(target=run, args=(setup.receiver.store, setup.settings, "test", stop))
    role.start()
    try:
        setup.modality.request_commitment(setup.receiver.port, (US, uid))
        eventually(lambda: setup.state() == "reported")
    finally:
        stop.set()
        role.join(60)
    assert setup.pacs.uids() == [uid]
    assert [each.failure_reasons for each in setup.modality.reports] == [{uid: 0}]


def nothing() -> None:
    return None


def something_else() -> Dataset:
    dataset = Dataset()
    dataset.RetrieveAETitle = "MODALITY"
    return dataset


def without_objects() -> Dataset:
    return action_information(transaction="1.2.3")


def without_class() -> Dataset:
    information = action_information((US, "1.2.1"), transaction="1.2.3")
    del information.ReferencedSOPSequence[0].ReferencedSOPClassUID
    return information


def without_transaction() -> Dataset:
    information = action_information((US, "1.2.1"), transaction="1.2.3")
    del information.TransactionUID
    return information


def plain() -> Dataset:
    return action_information((US, "1.2.1"), transaction="1.2.3")


@pytest.mark.parametrize(
    ("information", "action", "instance", "status"),
    [
        (nothing, 1, PUSH_MODEL_INSTANCE, 0x0115),
        (something_else, 1, PUSH_MODEL_INSTANCE, 0x0115),
        (without_objects, 1, PUSH_MODEL_INSTANCE, 0x0115),
        (without_class, 1, PUSH_MODEL_INSTANCE, 0x0115),
        (without_transaction, 1, PUSH_MODEL_INSTANCE, 0x0115),
        (plain, 2, PUSH_MODEL_INSTANCE, 0x0123),
        (plain, 1, "1.2.3.4", 0x0112),
    ],
)
def test_a_wrong_request_is_refused(
    setup: CommitmentSetup,
    information: Callable[[], Dataset | None],
    action: int,
    instance: str,
    status: int,
) -> None:
    with setup.modality.association(setup.receiver.port) as association:
        answer, _ = association.send_n_action(information(), action, PUSH_MODEL, instance)
        assert answer.Status == status
        assert answer.ErrorComment
        # The association goes on.
        request_commitment(association, (US, "1.2.1"))
    assert len(setup.receiver.rows(Commitment)) == 1


def test_invalid_uids_are_reported_unchanged(setup: CommitmentSetup) -> None:
    """Leading zeros: not allowed by PS3.5 9.1, and sent by machines."""
    setup.modality.listen().request_commitment(
        setup.receiver.port, (US, "1.02.003"), transaction="1.04"
    )
    setup.judge()
    setup.report()
    (report,) = setup.modality.reports
    assert (report.transaction_uid, report.failure_reasons) == (
        "1.04",
        {"1.02.003": NO_SUCH_OBJECT},
    )


def test_jobs_requeued_after_a_failure_do_not_unsay_it(setup: CommitmentSetup) -> None:
    """What was told as failed stays so; the modality asks again under another Transaction UID."""
    uid = received(setup)
    setup.job("dead")
    setup.modality.listen().request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    with setup.receiver.store.begin() as session:
        jobs.retry(session, [row.id for row in setup.receiver.rows(JobRow)], setup.now())
    setup.report()
    setup.pacs.start()
    setup.deliver()
    setup.modality.request_commitment(setup.receiver.port, (US, uid))
    setup.judge()
    setup.report()
    assert [each.failure_reasons for each in setup.modality.reports] == [
        {uid: PROCESSING_FAILURE},
        {uid: 0},
    ]
