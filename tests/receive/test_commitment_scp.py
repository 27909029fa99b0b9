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
from qc_daemon.deliver.commitment_scp import CommitmentJudge, CommitmentReporter
from qc_daemon.deliver.worker import Deliverer, run
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
from tests.receive.conftest import Site
from tests.support.certificates import Authority
from tests.support.dicom_peers import US, Pacs, eventually, store, ultrasound
from tests.support.modality import Modality, ask, request
from tests.support.ports import reserve_port

PROCESSING_FAILURE, NO_SUCH_OBJECT, CONFLICT = 0x0110, 0x0112, 0x0119
US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"


@dataclass
class Bench:
    """A receiver, the roles behind it, a modality and a PACS; `ahead` moves the roles' clock."""

    site: Site
    settings: Settings
    modality: Modality
    pacs: Pacs
    ahead: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def judge(self) -> None:
        """Look at every request that waits."""
        self.ahead += timedelta(seconds=60)
        judge = CommitmentJudge(self.site.store, self.settings, "judge", self.now)
        while judge.run_once():
            pass

    def reporter(self) -> CommitmentReporter:
        made = CommitmentReporter(self.site.store, self.settings, "reporter", self.now)
        # Each look comes a long time after the last.
        made.breaker = CircuitBreaker(lambda: self.now().timestamp())
        return made

    def report(self) -> None:
        """Send what is due."""
        eventually(self.association_is_over)
        self.ahead += timedelta(hours=2)
        reporter = self.reporter()
        while reporter.run_once():
            pass

    def deliver(self) -> None:
        deliverer = Deliverer(self.site.store, self.settings, "deliver", clock=self.now)
        while deliverer.run_once():
            pass
        deliverer.close()

    def state(self) -> str:
        (row,) = self.site.rows(Commitment)
        return str(row.state)

    def association_is_over(self) -> bool:
        return all(row.association == "" for row in self.site.rows(Commitment))

    def job(self, job_state: str) -> None:
        """Give the one deliver job this state."""
        with self.site.store.begin() as session:
            session.execute(
                update(JobRow).where(JobRow.kind == JobKind.DELIVER).values(state=job_state)
            )


@pytest.fixture
def modality() -> Iterator[Modality]:
    made = Modality()
    yield made
    made.stop()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs()
    yield made
    made.stop()


def settings_of(site: Site, modality: Modality, pacs: Pacs, **store: Any) -> Settings:
    return Settings(
        store={"url": site.store.url, "spool": site.spool.root} | store,
        receive={"peer": [{"ae_title": "MODALITY", "address": "127.0.0.1", "port": modality.port}]},
        jobs={"poll_seconds": 0.05, "max_attempts": 3},
        destination=[{"name": "pacs", "port": pacs.port, "objects": ["source"], "timeout": 20}],
    )


@pytest.fixture
def bench(site: Site, modality: Modality, pacs: Pacs) -> Bench:
    return Bench(site, settings_of(site, modality, pacs), modality, pacs)


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


def received(bench: Bench, **values: Any) -> str:
    """Store an object; its SOP Instance UID."""
    dataset = ultrasound(**values)
    assert store(bench.site.port, dataset) == [0x0000]
    return str(dataset.SOPInstanceUID)


def test_the_report_waits_until_the_destination_holds_the_object(bench: Bench) -> None:
    uid = received(bench)
    transaction = bench.modality.listen().ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    assert (bench.state(), bench.modality.reports) == ("waiting", [])
    bench.pacs.start()
    bench.deliver()
    assert bench.pacs.uids() == [uid]
    bench.judge()
    bench.report()
    (report,) = bench.modality.reports
    assert (report.event_type, report.transaction_uid, report.said) == (1, transaction, {uid: 0})
    assert bench.state() == "reported"
    # Role selection: the modality stays the SCU though we opened this association.
    assert bench.modality.roles == [(True, False)]
    bench.report()
    assert len(bench.modality.reports) == 1


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
    open_site: Callable[..., Site],
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
    site = open_site(routes=routes)
    plain = settings_of(site, modality, pacs).model_dump(exclude={"destination", "rule"})
    settings = Settings(**plain, destination=destinations, rule=rules)
    bench = Bench(site, settings, modality, pacs)
    uid = received(bench)
    bench.modality.listen().ask(site.port, (US, uid))
    bench.pacs.start()
    bench.deliver()
    bench.judge()
    bench.report()
    said = [report.said for report in bench.modality.reports]
    assert said == ([] if failure is None else [{uid: failure}])


def test_answered_only_when_it_is_in_the_database(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: Any) -> None:
        raise QCError(ErrorCode.STORAGE, "the database is away")

    uid = received(bench)
    monkeypatch.setattr(scp, "request", away)
    with bench.modality.association(bench.site.port) as association:
        answer, _ = association.send_n_action(
            request((US, uid), transaction="1.2.3"), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
    assert answer.Status == PROCESSING_FAILURE
    assert bench.site.rows(Commitment) == []


@pytest.mark.parametrize("harm", ["altered", "missing", "cut"])
def test_bytes_on_disk_are_checked(
    bench: Bench, harm: str, alarms: Callable[[], list[dict[str, Any]]]
) -> None:
    uid = received(bench)
    (file,) = bench.site.files()
    bench.modality.listen().ask(bench.site.port, (US, uid))
    bench.job("done")
    content = bytearray(file.read_bytes())
    if harm == "altered":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    bench.judge()
    bench.report()
    (report,) = bench.modality.reports
    assert (report.event_type, report.said) == (2, {uid: PROCESSING_FAILURE})
    (alarm,) = alarms()
    assert (alarm["event"], alarm["sop_instance"]) == ("spool file missing or altered", uid)


def test_a_spool_that_is_away_decides_nothing(bench: Bench) -> None:
    uid = received(bench)
    bench.modality.ask(bench.site.port, (US, uid))
    bench.job("done")
    aside = bench.site.spool.root.rename(bench.site.spool.root.with_name("aside"))
    with pytest.raises(QCError, match="spool"):
        bench.judge()
    assert bench.state() == "waiting"
    aside.rename(bench.site.spool.root)
    bench.judge()
    assert bench.state() == "ready"


def test_objects_fail_one_by_one(bench: Bench) -> None:
    good, other_class, unknown = received(bench), received(bench), generate_uid()
    bench.job("done")
    bench.modality.listen().ask(
        bench.site.port, (US, good), (US_MULTI_FRAME, other_class), (US, unknown), (US, good)
    )
    bench.judge()
    bench.report()
    (report,) = bench.modality.reports
    assert report.event_type == 2
    assert report.said == {good: 0, other_class: CONFLICT, unknown: NO_SUCH_OBJECT}


@pytest.mark.parametrize("state", ["dead", "quarantined"])
def test_given_up_delivery_leaves_no_hope(bench: Bench, state: str) -> None:
    uid = received(bench)
    bench.job(state)
    bench.modality.listen().ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    assert bench.modality.reports[0].said == {uid: PROCESSING_FAILURE}


def test_every_content_under_the_uid_is_promised(bench: Bench) -> None:
    first = ultrasound()
    second = ultrasound(pixels=bytes(256), SOPInstanceUID=first.SOPInstanceUID)
    assert store(bench.site.port, first) == [0x0000]
    bench.job("done")
    assert store(bench.site.port, second) == [0x0000]
    bench.modality.listen().ask(bench.site.port, (US, first.SOPInstanceUID))
    bench.judge()
    assert bench.state() == "waiting"
    bench.job("done")
    bench.judge()
    bench.report()
    assert bench.modality.reports[0].event_type == 1


@pytest.mark.parametrize(("keep", "reason"), [("forever", 0), (400, PROCESSING_FAILURE)])
def test_without_destinations_only_keeping_for_ever_is_a_promise(
    open_site: Callable[..., Site], modality: Modality, pacs: Pacs, keep: Any, reason: int
) -> None:
    site = open_site()
    settings = settings_of(site, modality, pacs, keep_pixels_days=keep)
    settings.destination = []
    bench = Bench(site, settings, modality.listen(), pacs)
    uid = received(bench)
    bench.modality.ask(site.port, (US, uid))
    bench.judge()
    bench.report()
    assert bench.modality.reports[0].said == {uid: reason}


def test_what_retention_dropped_is_with_its_destinations(bench: Bench) -> None:
    uid = received(bench)
    (file,) = bench.site.files()
    file.unlink()
    bench.job("done")
    with bench.site.store.begin() as session:
        session.execute(update(Revision).values(dropped_at=bench.now()))
    bench.modality.listen().ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    assert bench.modality.reports[0].said == {uid: 0}


def test_the_same_request_again_is_one_request_and_told_again(bench: Bench) -> None:
    uid = received(bench)
    bench.job("done")
    bench.modality.listen()
    for _ in range(2):
        bench.modality.ask(bench.site.port, (US, uid), transaction="1.2.3")
    assert len(bench.site.rows(Commitment)) == len(bench.site.rows(CommitmentItem)) == 1
    bench.judge()
    bench.report()
    assert len(bench.modality.reports) == 1
    # Told at once; a modality that left before it could answer would be told once more.
    with bench.modality.association(bench.site.port) as association:
        ask(association, (US, uid), transaction="1.2.3")
        eventually(lambda: bench.state() == "reported")
    bench.report()
    assert [each.transaction_uid for each in bench.modality.reports] == ["1.2.3"] * 2
    assert len(bench.site.rows(Commitment)) == 1


def test_a_transaction_uid_stands_for_its_objects_only(bench: Bench) -> None:
    bench.modality.ask(bench.site.port, (US, "1.2.1"), transaction="1.2.3")
    with bench.modality.association(bench.site.port) as association:
        answer, _ = association.send_n_action(
            request((US, "1.2.2"), transaction="1.2.3"), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
    assert answer.Status == 0x0115
    (item,) = bench.site.rows(CommitmentItem)
    assert item.sop_instance_uid == "1.2.1"


def test_retried_when_the_requester_was_down(bench: Bench) -> None:
    uid = received(bench)
    bench.job("done")
    bench.modality.ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    (row,) = bench.site.rows(Commitment)
    assert (row.state, row.attempts) == ("ready", 1)
    assert str(row.error_message).startswith(
        "requester MODALITY cannot be reached: connection refused"
    )
    bench.modality.status = 0x0110
    bench.modality.listen()
    bench.report()
    assert bench.site.rows(Commitment)[0].attempts == 2
    bench.modality.status = 0x0000
    bench.report()
    assert bench.state() == "reported"
    assert [each.said for each in bench.modality.reports] == [{uid: 0}] * 2


def test_given_up_after_the_last_attempt_with_an_alarm_and_requeued(
    bench: Bench, alarms: Callable[[], list[dict[str, Any]]]
) -> None:
    uid = received(bench)
    bench.job("done")
    transaction = bench.modality.ask(bench.site.port, (US, uid))
    bench.judge()
    for _ in range(3):
        bench.report()
    assert bench.state() == "dead"
    (alarm,) = alarms()
    assert (alarm["event"], alarm["transaction"]) == ("commitment report given up", transaction)
    (row,) = bench.site.rows(Commitment)
    bench.modality.listen()
    with bench.site.store.begin() as session:
        assert scp.requeue(session, [row.id], bench.now()) == 1
    bench.report()
    assert (bench.state(), len(bench.modality.reports)) == ("reported", 1)


def test_a_requester_without_a_port_is_named_with_the_mend(bench: Bench) -> None:
    uid = received(bench)
    bench.job("done")
    bench.settings.receive.peer[0].port = None
    bench.modality.ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    (row,) = bench.site.rows(Commitment)
    assert row.error_message == ("requester MODALITY has no port; set port in its [[receive.peer]]")


def test_a_requester_is_called_over_tls_where_the_settings_say_so(
    bench: Bench, tmp_path: Path
) -> None:
    hospital = Authority.make(tmp_path / "hospital")
    machine = hospital.issue("machine")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(machine.certificate, machine.key)
    bench.modality.listen(theirs)
    bench.settings.receive.peer[0].tls = ClientTLSSettings(ca=tmp_path / "absent.pem")
    uid = received(bench)
    bench.job("done")
    bench.modality.ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    assert "tls files" in str(bench.site.rows(Commitment)[0].error_message)
    bench.settings.receive.peer[0].tls = ClientTLSSettings(ca=hospital.certificate)
    bench.report()
    assert [each.said for each in bench.modality.reports] == [{uid: 0}]


def test_a_restart_between_request_and_report_loses_nothing(bench: Bench) -> None:
    uid = received(bench)
    bench.modality.ask(bench.site.port, (US, uid))
    assert bench.site.receiver.drain(20) == 0
    bench.site.store.close()
    bench.site.store = Store(bench.site.store.url)
    bench.job("done")
    # A judge that died with the request in hand.
    with bench.site.store.begin() as session:
        assert scp.claim(session, CommitmentState.WAITING, "gone", bench.now(), 300)
    bench.judge()
    assert bench.state() == "waiting"
    bench.ahead += timedelta(seconds=300)
    bench.judge()
    bench.modality.listen()
    bench.report()
    assert [each.said for each in bench.modality.reports] == [{uid: 0}]


def test_reported_on_the_same_association_while_it_is_open(bench: Bench) -> None:
    """And what the modality sends meanwhile is served as if nothing was."""
    uid = received(bench)
    bench.job("done")
    with bench.modality.association(bench.site.port) as association:
        transaction = ask(association, (US, uid))
        bench.judge()
        # For some seconds the report is this association's; nobody else takes it.
        bench.ahead = timedelta()
        assert not bench.reporter().run_once()
        statuses = []
        while not bench.modality.reports:
            statuses.append(association.send_c_store(ultrasound()).Status)
        eventually(lambda: bench.state() == "reported")
        (report,) = bench.modality.reports
        assert report.association is association
        assert (report.event_type, report.transaction_uid, report.said) == (
            1,
            transaction,
            {uid: 0},
        )
        statuses.append(association.send_c_store(ultrasound()).Status)
        assert set(statuses) == {0x0000}
        # A second one, after all was quiet.
        ask(association, (US, "1.2.99"))
        bench.judge()
        eventually(lambda: len(bench.modality.reports) == 2)
        assert bench.modality.reports[1].said == {"1.2.99": NO_SUCH_OBJECT}
    eventually(lambda: {row.state for row in bench.site.rows(Commitment)} == {"reported"})


def test_refused_on_the_same_association_it_goes_over_another(bench: Bench) -> None:
    uid = received(bench)
    bench.job("done")
    bench.modality.status = 0x0110
    with bench.modality.association(bench.site.port) as association:
        ask(association, (US, uid))
        bench.judge()
        eventually(lambda: len(bench.modality.reports) == 1)
        eventually(bench.association_is_over)
    bench.modality.status = 0x0000
    bench.modality.listen()
    bench.report()
    assert bench.state() == "reported"
    assert bench.modality.reports[1].association is not bench.modality.reports[0].association


def test_the_deliver_role_judges_and_reports(bench: Bench) -> None:
    bench.pacs.start()
    bench.modality.listen()
    uid = received(bench)
    stop = threading.Event()
    role = threading.Thread(target=run, args=(bench.site.store, bench.settings, "test", stop))
    role.start()
    try:
        bench.modality.ask(bench.site.port, (US, uid))
        eventually(lambda: bench.state() == "reported")
    finally:
        stop.set()
        role.join(60)
    assert bench.pacs.uids() == [uid]
    assert [each.said for each in bench.modality.reports] == [{uid: 0}]


def nothing() -> None:
    return None


def something_else() -> Dataset:
    made = Dataset()
    made.RetrieveAETitle = "MODALITY"
    return made


def without_objects() -> Dataset:
    return request(transaction="1.2.3")


def without_class() -> Dataset:
    made = request((US, "1.2.1"), transaction="1.2.3")
    del made.ReferencedSOPSequence[0].ReferencedSOPClassUID
    return made


def without_transaction() -> Dataset:
    made = request((US, "1.2.1"), transaction="1.2.3")
    del made.TransactionUID
    return made


def plain() -> Dataset:
    return request((US, "1.2.1"), transaction="1.2.3")


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
    bench: Bench, information: Callable[[], Dataset | None], action: int, instance: str, status: int
) -> None:
    with bench.modality.association(bench.site.port) as association:
        answer, _ = association.send_n_action(information(), action, PUSH_MODEL, instance)
        assert answer.Status == status
        assert answer.ErrorComment
        # The association goes on.
        ask(association, (US, "1.2.1"))
    assert len(bench.site.rows(Commitment)) == 1


def test_uids_that_break_the_rules_are_given_back_as_they_came(bench: Bench) -> None:
    """Leading zeros: not allowed by PS3.5 9.1, and sent by machines."""
    bench.modality.listen().ask(bench.site.port, (US, "1.02.003"), transaction="1.04")
    bench.judge()
    bench.report()
    (report,) = bench.modality.reports
    assert (report.transaction_uid, report.said) == ("1.04", {"1.02.003": NO_SUCH_OBJECT})


def test_jobs_requeued_after_a_failure_do_not_unsay_it(bench: Bench) -> None:
    """What was told as failed stays so; the modality asks again under another Transaction UID."""
    uid = received(bench)
    bench.job("dead")
    bench.modality.listen().ask(bench.site.port, (US, uid))
    bench.judge()
    with bench.site.store.begin() as session:
        jobs.retry(session, [row.id for row in bench.site.rows(JobRow)], bench.now())
    bench.report()
    bench.pacs.start()
    bench.deliver()
    bench.modality.ask(bench.site.port, (US, uid))
    bench.judge()
    bench.report()
    assert [each.said for each in bench.modality.reports] == [{uid: PROCESSING_FAILURE}, {uid: 0}]
