"""Delivered means committed, where the destination can commit; the PACS is scripted."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import select

from detector.errors import ErrorCode
from qc_daemon.deliver import commitment_scu
from qc_daemon.deliver.circuit_breaker import CircuitBreaker, CommitmentRefusals
from qc_daemon.deliver.commitment_scu import CommitmentRequester
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, Report
from qc_daemon.observe import log
from qc_daemon.operations.destinations import (
    commitment_fault,
    destination_condition,
    list_destinations,
)
from qc_daemon.records.commitment import scu
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.tables import CommitmentSupport, JobRow, OutgoingCommitment
from tests.support.delivery import Delivery
from tests.support.dicom_objects import CANARY, CANARY_ACCESSION, CANARY_ID, US, ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.pacs import CommittingPacs

AWAITED, REFUSED = ErrorCode.COMMITMENT_AWAITED, ErrorCode.COMMITMENT_REFUSED
DONE, SENT = ("done", None), ("sent", None)


@dataclass
class CommitmentSetup:
    """A delivery with its PACS, and the worker that requests commitment of it."""

    delivery: Delivery
    pacs: CommittingPacs
    refusals: CommitmentRefusals = field(default_factory=CommitmentRefusals)
    requester: CommitmentRequester = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start anew, as after a crash: what the process remembered is lost."""
        now = self.delivery.clock
        self.refusals = CommitmentRefusals(lambda: now().timestamp())
        breaker = CircuitBreaker(lambda: now().timestamp())
        self.requester = CommitmentRequester(
            self.delivery.store,
            self.delivery.settings,
            "requester",
            now,
            breaker=breaker,
            refusals=self.refusals,
        )

    def admit(self, count: int = 1) -> list[str]:
        datasets = [ultrasound() for _ in range(count)]
        for each in datasets:
            self.delivery.admit(each)
        return [str(each.SOPInstanceUID) for each in datasets]

    def deliver(self) -> None:
        deliverer = deliver_runner(
            self.delivery.store,
            self.delivery.settings,
            "test",
            clock=self.delivery.clock,
            refusals=self.refusals,
        )
        while deliverer.run_once():
            pass
        deliverer.close()

    def run_requester(self, later: float = 3.0) -> None:
        """Apply reports and send requests that are due so many seconds later."""
        self.delivery.now += timedelta(seconds=later)
        while self.requester.run_once():
            pass

    def transactions(self) -> list[str]:
        return [each.transaction_uid for each in self.pacs.requests]

    def rows(self) -> list[JobRow]:
        with self.delivery.store.read() as session:
            statement = select(JobRow).where(JobRow.kind == "deliver").order_by(JobRow.id)
            return list(session.scalars(statement))


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    peer = CommittingPacs()
    yield peer
    peer.stop()


@pytest.fixture
def setup(
    delivery: Delivery, pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> CommitmentSetup:
    monkeypatch.setattr(commitment_scu, "_REPORT_WAIT_SECONDS", 10.0)
    delivery.settings.jobs.max_attempts = 3
    return CommitmentSetup(delivery, pacs)


def skip_report_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no report on the association of the request."""
    monkeypatch.setattr(commitment_scu, "_REPORT_WAIT_SECONDS", 0.0)


def mode(setup: CommitmentSetup, commitment: Any) -> None:
    setup.delivery.settings.destination[0].commitment = commitment
    setup.restart()


def test_one_request_names_all_sent_objects_which_are_done_when_committed(
    setup: CommitmentSetup,
) -> None:
    setup.pacs.start()
    uids = setup.admit(3)
    setup.deliver()
    assert setup.delivery.states() == [SENT] * 3
    setup.run_requester(later=0)
    assert setup.pacs.requests == []
    setup.run_requester()
    (request,) = setup.pacs.requests
    assert request.uids == uids
    assert {each.sop_class_uid for each in request.references} == {US}
    assert setup.pacs.answers == [0x0000]
    assert setup.delivery.states() == [DONE] * 3


def test_an_object_that_the_peer_aborts_on_changes_nothing_about_its_commitment(
    setup: CommitmentSetup,
) -> None:
    """What was sent is requested all the same; an object sent again ends with its attempts."""
    setup.pacs.start()
    good, again, bad = setup.admit(3)
    setup.pacs.aborts_on = {bad}
    setup.pacs.reasons = {again: 0x0110}
    setup.deliver()
    aborted = ("ready", ErrorCode.DELIVERY_ABORTED)
    assert setup.delivery.states() == [SENT, SENT, aborted]
    setup.run_requester()
    assert [each.uids for each in setup.pacs.requests] == [[good, again]]
    assert setup.delivery.states() == [DONE, ("ready", REFUSED), aborted]
    setup.pacs.aborts_on |= {again}
    for _ in range(2):
        setup.delivery.now += timedelta(hours=2)
        setup.deliver()
    assert setup.delivery.states() == [DONE] + [("dead", ErrorCode.DELIVERY_ABORTED)] * 2
    assert [row.attempts for row in setup.rows()] == [0, 3, 3]
    condition = destination_condition(setup.delivery.settings, "pacs")
    assert (condition.commitment, condition.failing_since) == (CommitmentSupport.TAKEN, None)


def test_repeated_report_is_applied_once(setup: CommitmentSetup) -> None:
    setup.pacs.times = 2
    # A second report may cross our release, which the PACS then leaves without an answer.
    setup.delivery.settings.destination[0].timeout = 2
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    assert setup.delivery.states() == [DONE]
    assert set(setup.pacs.answers) <= {0x0000, None}


def test_object_that_is_not_committed_is_sent_again(setup: CommitmentSetup) -> None:
    setup.pacs.start()
    good, bad = setup.admit(2)
    setup.pacs.reasons = {bad: 0x0112}
    setup.deliver()
    setup.run_requester()
    assert setup.delivery.states() == [DONE, ("ready", REFUSED)]
    refused = setup.rows()[1]
    assert refused.attempts == 1
    assert refused.not_before > setup.delivery.now
    assert str(refused.error_message).endswith(
        "does not commit to the object: no such object (0112)"
    )
    setup.pacs.reasons = {}
    setup.delivery.now += timedelta(minutes=1)
    setup.deliver()
    assert setup.pacs.uids() == [good, bad, bad]
    setup.run_requester()
    assert setup.pacs.requests[-1].uids == [bad]
    assert setup.delivery.states() == [DONE, DONE]


def test_never_committed_object_ends_dead_with_the_reason(setup: CommitmentSetup) -> None:
    setup.pacs.start()
    (uid,) = setup.admit()
    setup.pacs.reasons = {uid: 0x0213}
    for _ in range(3):
        setup.delivery.now += timedelta(hours=2)
        setup.deliver()
        setup.run_requester()
    assert setup.delivery.states() == [("dead", REFUSED)]
    assert "out of resources (0213)" in str(setup.rows()[0].error_message)
    assert len(setup.pacs.uids()) == 3


@pytest.mark.parametrize(("commitment", "state"), [("auto", "done"), ("required", "ready")])
def test_a_class_that_it_commits_to_none_of(
    setup: CommitmentSetup, commitment: str, state: str
) -> None:
    mode(setup, commitment)
    setup.pacs.start()
    (uid,) = setup.admit()
    setup.pacs.reasons = {uid: 0x0122}
    setup.deliver()
    setup.run_requester()
    assert [row.state for row in setup.rows()] == [state]


def test_unanswered_request_is_repeated_with_back_off(
    setup: CommitmentSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_report_wait(monkeypatch)
    setup.pacs.times = 0
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    setup.run_requester(later=500)
    assert (len(setup.pacs.requests), setup.delivery.states()) == (1, [SENT])
    waits = []
    for _ in range(4):
        setup.run_requester(
            later=(setup.rows()[0].not_before - setup.delivery.now).total_seconds() + 1
        )
        waits.append((setup.rows()[0].not_before - setup.delivery.now).total_seconds())
    assert len(set(setup.transactions())) == 5
    assert setup.delivery.states() == [("sent", AWAITED)]
    assert all(600 < wait < 600 + 3600 for wait in waits)
    assert waits[3] > waits[0]
    # The oldest transaction is as good as the newest.
    with setup.delivery.store.begin() as session:
        assert scu.record_report(session, setup.pacs.report(setup.pacs.requests[0]), ["pacs"])
    setup.run_requester(later=0)
    assert setup.delivery.states() == [DONE]
    assert len(setup.pacs.uids()) == 1


def test_without_the_presentation_context_stored_is_delivered(setup: CommitmentSetup) -> None:
    setup.pacs.commits = False
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    assert setup.delivery.states() == [DONE]
    assert setup.pacs.associations == 1


def test_commitment_off_proposes_and_requests_nothing(setup: CommitmentSetup) -> None:
    mode(setup, "off")
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    assert setup.delivery.states() == [DONE]
    assert not any(PUSH_MODEL in proposed for proposed in setup.pacs.proposed)


def test_required_waits_for_a_pacs_that_cannot_commit(setup: CommitmentSetup) -> None:
    mode(setup, "required")
    setup.pacs.commits = False
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    for _ in range(5):
        setup.run_requester(later=4000)
    assert setup.delivery.states() == [("sent", AWAITED)]
    assert "accepts no request for storage commitment" in str(setup.rows()[0].error_message)
    setup.pacs.stop()
    setup.pacs.commits = True
    setup.pacs.start()
    setup.run_requester(later=4000)
    assert setup.delivery.states() == [DONE]
    assert len(setup.pacs.uids()) == 1


@pytest.mark.parametrize("answer", [0x0124, None])
def test_auto_accepts_without_commitment_after_three_refusals(
    setup: CommitmentSetup, answer: int | None
) -> None:
    """As of a PACS that does not know our AE title. `required` is for who wants to wait."""
    setup.pacs.answer = answer
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    assert setup.delivery.states() == [("sent", AWAITED)]
    setup.run_requester(later=60)
    assert setup.delivery.states() == [("sent", AWAITED)]
    setup.run_requester(later=60)
    assert setup.delivery.states() == [DONE]
    row = listed(setup)
    assert row["commitment"].startswith("refused since")
    assert row["commitment"].endswith("stored counts as delivered")
    assert 'commitment = "off"' in doctored(setup)
    # And remembers it, for some time.
    setup.admit()
    setup.deliver()
    assert setup.delivery.states() == [DONE, DONE]
    assert len(setup.pacs.requests) == 3
    assert listed(setup) | {"delivered": 1} == row
    setup.delivery.now += timedelta(hours=2)
    setup.admit()
    setup.deliver()
    assert setup.delivery.states() == [DONE, DONE, SENT]
    # Someone enters our AE title there.
    setup.pacs.answer = 0x0000
    setup.run_requester()
    assert setup.delivery.states() == [DONE] * 3
    assert listed(setup)["commitment"].startswith("takes requests")
    assert doctored(setup) == ""


def listed(setup: CommitmentSetup) -> dict[str, Any]:
    return list_destinations(setup.delivery.settings)[0]


def doctored(setup: CommitmentSetup) -> str:
    """What doctor finds at fault about commitment."""
    settings = setup.delivery.settings
    condition = destination_condition(settings, "pacs")
    return commitment_fault(settings.destination[0], condition) or ""


def test_destination_that_no_longer_offers_commitment_has_a_fault(setup: CommitmentSetup) -> None:
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    setup.pacs.stop()
    setup.pacs.commits = False
    setup.pacs.start()
    setup.restart()
    setup.admit()
    setup.deliver()
    for _ in range(3):
        setup.run_requester(later=4000)
    assert setup.delivery.states() == [DONE, ("sent", AWAITED)]
    assert listed(setup)["commitment"].startswith("taken no more since")
    assert doctored(setup)
    mode(setup, "off")
    setup.run_requester(later=4000)
    assert setup.delivery.states() == [DONE, DONE]
    assert doctored(setup) == ""


def test_destination_that_never_offered_commitment_is_listed_so(setup: CommitmentSetup) -> None:
    setup.pacs.commits = False
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    assert setup.delivery.states() == [DONE]
    assert listed(setup)["commitment"].startswith("not offered since")
    assert doctored(setup) == ""
    mode(setup, "required")
    assert "objects stay sent" in doctored(setup)


def test_refusal_after_an_accepted_request_is_waited_out(setup: CommitmentSetup) -> None:
    """There a refusal is a fault to be waited out."""
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    setup.restart()
    setup.pacs.answer = 0x0110
    setup.admit()
    setup.deliver()
    for _ in range(5):
        setup.run_requester(later=4000)
    assert setup.delivery.states() == [DONE, ("sent", AWAITED)]
    assert "answered 0110 to the request" in str(setup.rows()[1].error_message)
    setup.pacs.answer = 0x0000
    setup.run_requester(later=4000)
    assert setup.delivery.states() == [DONE, DONE]


def test_request_is_sent_when_the_pacs_is_back(setup: CommitmentSetup) -> None:
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.pacs.stop()
    setup.run_requester()
    assert setup.delivery.states() == [("sent", AWAITED)]
    assert "cannot be asked for storage commitment: connection refused" in str(
        setup.rows()[0].error_message
    )
    setup.pacs.start()
    setup.run_requester(later=600)
    assert setup.delivery.states() == [DONE]


def test_request_recorded_but_not_sent_is_repeated_after_its_timeout(
    setup: CommitmentSetup,
) -> None:
    setup.pacs.start()
    (uid,) = setup.admit()
    setup.deliver()
    setup.delivery.now += timedelta(seconds=3)
    with setup.delivery.store.begin() as session:
        unsent = scu.create_request(
            session,
            "pacs",
            generate_uid(),
            setup.delivery.now,
            timedelta(minutes=10),
            RetryPolicy(),
            setup.requester._rng,
        )
    assert unsent is not None
    setup.restart()
    setup.run_requester(later=0)
    assert setup.pacs.requests == []
    setup.run_requester(later=601)
    assert [each.uids for each in setup.pacs.requests] == [[uid]]
    assert setup.delivery.states() == [DONE]


def test_report_recorded_before_a_crash_is_applied_after_it(
    setup: CommitmentSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_report_wait(monkeypatch)
    setup.pacs.times = 0
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    setup.run_requester()
    with setup.delivery.store.begin() as session:
        assert scu.record_report(session, setup.pacs.report(setup.pacs.requests[0]), ["pacs"])
    setup.restart()
    assert setup.delivery.states() == [SENT]
    setup.run_requester(later=0)
    assert setup.delivery.states() == [DONE]


@pytest.mark.parametrize(("change", "state"), [("off", DONE), ("gone", SENT)])
def test_changed_settings_decide_about_sent_objects(
    setup: CommitmentSetup, change: str, state: tuple[str, Any]
) -> None:
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    if change == "gone":
        del setup.delivery.settings.destination[0]
    else:
        setup.delivery.settings.destination[0].commitment = "off"
    setup.restart()
    setup.run_requester()
    assert setup.delivery.states() == [state]
    assert setup.pacs.requests == []


def test_invalid_report_is_refused_and_changes_nothing(
    setup: CommitmentSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Garbled(CommittingPacs):
        def report(self, request: Any) -> Report:
            return Report("no uid at all", tuple(request.references), ())

    setup.pacs = Garbled(port=setup.pacs.port)
    setup.pacs.start()
    setup.admit()
    setup.deliver()
    monkeypatch.setattr(commitment_scu, "_REPORT_WAIT_SECONDS", 1.0)
    setup.run_requester()
    assert setup.pacs.answers == [0x0115]
    assert setup.delivery.states() == [SENT]
    setup.pacs.stop()


def test_logs_name_no_patient(setup: CommitmentSetup) -> None:
    stream = io.StringIO()
    log.configure("debug", stream)
    try:
        setup.pacs.start()
        _, bad = setup.admit(2)
        setup.pacs.reasons = {bad: 0x0112}
        setup.deliver()
        setup.run_requester()
    finally:
        log.configure("critical")
    assert "commitment asked" in stream.getvalue()
    assert "event withheld" not in stream.getvalue()
    assert '"dropped"' not in stream.getvalue()
    for canary in (CANARY, CANARY_ID, CANARY_ACCESSION):
        assert canary not in stream.getvalue()


def test_old_requests_are_pruned_except_the_last_accepted(setup: CommitmentSetup) -> None:
    setup.pacs.start()
    for _ in range(3):
        setup.admit()
        setup.deliver()
        setup.run_requester()
    setup.delivery.now += timedelta(days=31)
    setup.restart()
    setup.run_requester()
    with setup.delivery.store.read() as session:
        transactions = session.scalars(select(OutgoingCommitment.transaction_uid)).all()
        assert scu.has_accepted(session, "pacs")
    assert transactions == setup.transactions()[-1:]
