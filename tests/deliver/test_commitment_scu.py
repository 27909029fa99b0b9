"""Delivered means committed, where the destination can: asked of a scripted PACS."""

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
from qc_daemon.deliver.worker import Deliverer
from qc_daemon.dicom.storage_commitment import PUSH_MODEL, Report
from qc_daemon.observe import log
from qc_daemon.operations.destinations import (
    commitment_fault,
    destination_condition,
    list_destinations,
)
from qc_daemon.records.commitment import scu
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.tables import JobRow, OutgoingCommitment
from tests.deliver.conftest import Yard
from tests.support.commitment_peer import CommittingPacs
from tests.support.dicom_peers import CANARY, CANARY_ACCESSION, CANARY_ID, US, ultrasound

AWAITED, REFUSED = ErrorCode.COMMITMENT_AWAITED, ErrorCode.COMMITMENT_REFUSED
DONE, SENT = ("done", None), ("sent", None)


@dataclass
class Desk:
    """A yard with the PACS that is asked, and those who deliver to it and ask it."""

    yard: Yard
    pacs: CommittingPacs
    refusals: CommitmentRefusals = field(default_factory=CommitmentRefusals)
    asker: CommitmentRequester = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As if the process had died and come again."""
        now = self.yard.clock
        self.refusals = CommitmentRefusals(lambda: now().timestamp())
        breaker = CircuitBreaker(lambda: now().timestamp())
        self.asker = CommitmentRequester(
            self.yard.store,
            self.yard.settings,
            "asker",
            now,
            breaker=breaker,
            refusals=self.refusals,
        )

    def admit(self, count: int = 1) -> list[str]:
        datasets = [ultrasound() for _ in range(count)]
        for each in datasets:
            self.yard.admit(each)
        return [str(each.SOPInstanceUID) for each in datasets]

    def deliver(self) -> None:
        deliverer = Deliverer(
            self.yard.store,
            self.yard.settings,
            "test",
            clock=self.yard.clock,
            refusals=self.refusals,
        )
        while deliverer.run_once():
            pass
        deliverer.close()

    def ask(self, later: float = 3.0) -> None:
        """Do what is due so many seconds later."""
        self.yard.now += timedelta(seconds=later)
        while self.asker.run_once():
            pass

    def transactions(self) -> list[str]:
        return [each.transaction_uid for each in self.pacs.requests]

    def rows(self) -> list[JobRow]:
        with self.yard.store.read() as session:
            statement = select(JobRow).where(JobRow.kind == "deliver").order_by(JobRow.id)
            return list(session.scalars(statement))


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    made = CommittingPacs()
    yield made
    made.stop()


@pytest.fixture
def desk(yard: Yard, pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(commitment_scu, "_REPORT_WAIT_SECONDS", 10.0)
    yard.settings.jobs.max_attempts = 3
    return Desk(yard, pacs)


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no report on the association of the request."""
    monkeypatch.setattr(commitment_scu, "_REPORT_WAIT_SECONDS", 0.0)


def mode(desk: Desk, commitment: Any) -> None:
    desk.yard.settings.destination[0].commitment = commitment
    desk.restart()


def test_sent_objects_are_asked_about_together_and_done_when_committed(desk: Desk) -> None:
    desk.pacs.start()
    uids = desk.admit(3)
    desk.deliver()
    assert desk.yard.states() == [SENT] * 3
    desk.ask(later=0)
    assert desk.pacs.requests == []
    desk.ask()
    (request,) = desk.pacs.requests
    assert request.uids == uids
    assert {each.sop_class_uid for each in request.references} == {US}
    assert desk.pacs.answers == [0x0000]
    assert desk.yard.states() == [DONE] * 3


def test_reported_twice_is_once(desk: Desk) -> None:
    desk.pacs.times = 2
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    assert desk.yard.states() == [DONE]
    assert set(desk.pacs.answers) <= {0x0000, None}


def test_what_is_refused_is_sent_again(desk: Desk) -> None:
    desk.pacs.start()
    good, bad = desk.admit(2)
    desk.pacs.reasons = {bad: 0x0112}
    desk.deliver()
    desk.ask()
    assert desk.yard.states() == [DONE, ("ready", REFUSED)]
    refused = desk.rows()[1]
    assert refused.attempts == 1
    assert refused.not_before > desk.yard.now
    assert str(refused.error_message).endswith(
        "does not commit to the object: no such object (0112)"
    )
    desk.pacs.reasons = {}
    desk.yard.now += timedelta(minutes=1)
    desk.deliver()
    assert desk.pacs.uids() == [good, bad, bad]
    desk.ask()
    assert desk.pacs.requests[-1].uids == [bad]
    assert desk.yard.states() == [DONE, DONE]


def test_refused_for_ever_is_a_dead_letter_with_the_reason(desk: Desk) -> None:
    desk.pacs.start()
    (uid,) = desk.admit()
    desk.pacs.reasons = {uid: 0x0213}
    for _ in range(3):
        desk.yard.now += timedelta(hours=2)
        desk.deliver()
        desk.ask()
    assert desk.yard.states() == [("dead", REFUSED)]
    assert "out of resources (0213)" in str(desk.rows()[0].error_message)
    assert len(desk.pacs.uids()) == 3


@pytest.mark.parametrize(("commitment", "state"), [("auto", "done"), ("required", "ready")])
def test_a_class_that_it_commits_to_none_of(desk: Desk, commitment: str, state: str) -> None:
    mode(desk, commitment)
    desk.pacs.start()
    (uid,) = desk.admit()
    desk.pacs.reasons = {uid: 0x0122}
    desk.deliver()
    desk.ask()
    assert [row.state for row in desk.rows()] == [state]


def test_no_report_is_asked_for_again_ever_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty(monkeypatch)
    desk.pacs.times = 0
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    desk.ask(later=500)
    assert (len(desk.pacs.requests), desk.yard.states()) == (1, [SENT])
    waits = []
    for _ in range(4):
        desk.ask(later=(desk.rows()[0].not_before - desk.yard.now).total_seconds() + 1)
        waits.append((desk.rows()[0].not_before - desk.yard.now).total_seconds())
    assert len(set(desk.transactions())) == 5
    assert desk.yard.states() == [("sent", AWAITED)]
    assert all(600 < wait < 600 + 3600 for wait in waits)
    assert waits[3] > waits[0]
    # The oldest transaction is as good as the newest.
    with desk.yard.store.begin() as session:
        assert scu.record_report(session, desk.pacs.report(desk.pacs.requests[0]), ["pacs"])
    desk.ask(later=0)
    assert desk.yard.states() == [DONE]
    assert len(desk.pacs.uids()) == 1


def test_without_the_presentation_context_stored_is_delivered(desk: Desk) -> None:
    desk.pacs.commits = False
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    assert desk.yard.states() == [DONE]
    assert desk.pacs.associations == 1


def test_off_proposes_and_asks_nothing(desk: Desk) -> None:
    mode(desk, "off")
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    assert desk.yard.states() == [DONE]
    assert not any(PUSH_MODEL in proposed for proposed in desk.pacs.proposed)


def test_required_waits_for_a_pacs_that_cannot_commit(desk: Desk) -> None:
    mode(desk, "required")
    desk.pacs.commits = False
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    for _ in range(5):
        desk.ask(later=4000)
    assert desk.yard.states() == [("sent", AWAITED)]
    assert "accepts no request for storage commitment" in str(desk.rows()[0].error_message)
    desk.pacs.stop()
    desk.pacs.commits = True
    desk.pacs.start()
    desk.ask(later=4000)
    assert desk.yard.states() == [DONE]
    assert len(desk.pacs.uids()) == 1


@pytest.mark.parametrize("answer", [0x0124, None])
def test_auto_takes_three_refusals_for_an_answer_and_says_so(
    desk: Desk, answer: int | None
) -> None:
    """As of a PACS that does not know our AE title. `required` is for who wants to wait."""
    desk.pacs.answer = answer
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    assert desk.yard.states() == [("sent", AWAITED)]
    desk.ask(later=60)
    assert desk.yard.states() == [("sent", AWAITED)]
    desk.ask(later=60)
    assert desk.yard.states() == [DONE]
    row = listed(desk)
    assert row["commitment"].startswith("refused since")
    assert row["commitment"].endswith("stored counts as delivered")
    assert 'commitment = "off"' in doctored(desk)
    # And remembers it, for some time.
    desk.admit()
    desk.deliver()
    assert desk.yard.states() == [DONE, DONE]
    assert len(desk.pacs.requests) == 3
    assert listed(desk) | {"delivered": 1} == row
    desk.yard.now += timedelta(hours=2)
    desk.admit()
    desk.deliver()
    assert desk.yard.states() == [DONE, DONE, SENT]
    # Someone enters our AE title there.
    desk.pacs.answer = 0x0000
    desk.ask()
    assert desk.yard.states() == [DONE] * 3
    assert listed(desk)["commitment"].startswith("takes requests")
    assert doctored(desk) == ""


def listed(desk: Desk) -> dict[str, Any]:
    return list_destinations(desk.yard.settings)[0]


def doctored(desk: Desk) -> str:
    """What doctor finds at fault about commitment."""
    settings = desk.yard.settings
    condition = destination_condition(settings, "pacs")
    return commitment_fault(settings.destination[0], condition) or ""


def test_one_that_offers_commitment_no_more_has_a_fault(desk: Desk) -> None:
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    desk.pacs.stop()
    desk.pacs.commits = False
    desk.pacs.start()
    desk.restart()
    desk.admit()
    desk.deliver()
    for _ in range(3):
        desk.ask(later=4000)
    assert desk.yard.states() == [DONE, ("sent", AWAITED)]
    assert listed(desk)["commitment"].startswith("taken no more since")
    assert doctored(desk)
    mode(desk, "off")
    desk.ask(later=4000)
    assert desk.yard.states() == [DONE, DONE]
    assert doctored(desk) == ""


def test_one_that_never_offered_commitment_is_told_as_such(desk: Desk) -> None:
    desk.pacs.commits = False
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    assert desk.yard.states() == [DONE]
    assert listed(desk)["commitment"].startswith("not offered since")
    assert doctored(desk) == ""
    mode(desk, "required")
    assert "objects stay sent" in doctored(desk)


def test_one_that_has_taken_requests_can_commit(desk: Desk) -> None:
    """There a refusal is a fault to be waited out."""
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    desk.restart()
    desk.pacs.answer = 0x0110
    desk.admit()
    desk.deliver()
    for _ in range(5):
        desk.ask(later=4000)
    assert desk.yard.states() == [DONE, ("sent", AWAITED)]
    assert "answered 0110 to the request" in str(desk.rows()[1].error_message)
    desk.pacs.answer = 0x0000
    desk.ask(later=4000)
    assert desk.yard.states() == [DONE, DONE]


def test_a_pacs_that_is_down_is_asked_when_it_is_back(desk: Desk) -> None:
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.pacs.stop()
    desk.ask()
    assert desk.yard.states() == [("sent", AWAITED)]
    assert "cannot be asked for storage commitment: connection refused" in str(
        desk.rows()[0].error_message
    )
    desk.pacs.start()
    desk.ask(later=600)
    assert desk.yard.states() == [DONE]


def test_killed_between_writing_and_asking(desk: Desk) -> None:
    desk.pacs.start()
    (uid,) = desk.admit()
    desk.deliver()
    desk.yard.now += timedelta(seconds=3)
    with desk.yard.store.begin() as session:
        unsent = scu.create_request(
            session,
            "pacs",
            generate_uid(),
            desk.yard.now,
            timedelta(minutes=10),
            RetryPolicy(),
            desk.asker._rng,
        )
    assert unsent is not None
    desk.restart()
    desk.ask(later=0)
    assert desk.pacs.requests == []
    desk.ask(later=601)
    assert [each.uids for each in desk.pacs.requests] == [[uid]]
    assert desk.yard.states() == [DONE]


def test_killed_between_being_told_and_settling(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty(monkeypatch)
    desk.pacs.times = 0
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    desk.ask()
    with desk.yard.store.begin() as session:
        assert scu.record_report(session, desk.pacs.report(desk.pacs.requests[0]), ["pacs"])
    desk.restart()
    assert desk.yard.states() == [SENT]
    desk.ask(later=0)
    assert desk.yard.states() == [DONE]


@pytest.mark.parametrize(("change", "state"), [("off", DONE), ("gone", SENT)])
def test_settings_that_changed_meanwhile(desk: Desk, change: str, state: tuple[str, Any]) -> None:
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    if change == "gone":
        del desk.yard.settings.destination[0]
    else:
        desk.yard.settings.destination[0].commitment = "off"
    desk.restart()
    desk.ask()
    assert desk.yard.states() == [state]
    assert desk.pacs.requests == []


def test_a_report_that_nobody_can_read_changes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Garbled(CommittingPacs):
        def report(self, request: Any) -> Report:
            return Report("no uid at all", tuple(request.references), ())

    desk.pacs = Garbled(port=desk.pacs.port)
    desk.pacs.start()
    desk.admit()
    desk.deliver()
    monkeypatch.setattr(commitment_scu, "_REPORT_WAIT_SECONDS", 1.0)
    desk.ask()
    assert desk.pacs.answers == [0x0115]
    assert desk.yard.states() == [SENT]
    desk.pacs.stop()


def test_logs_name_no_patient(desk: Desk) -> None:
    stream = io.StringIO()
    log.configure("debug", stream)
    try:
        desk.pacs.start()
        _, bad = desk.admit(2)
        desk.pacs.reasons = {bad: 0x0112}
        desk.deliver()
        desk.ask()
    finally:
        log.configure("critical")
    assert "commitment asked" in stream.getvalue()
    assert "event withheld" not in stream.getvalue()
    assert '"dropped"' not in stream.getvalue()
    for canary in (CANARY, CANARY_ID, CANARY_ACCESSION):
        assert canary not in stream.getvalue()


def test_old_pledges_are_forgotten_but_not_that_it_can_commit(desk: Desk) -> None:
    desk.pacs.start()
    for _ in range(3):
        desk.admit()
        desk.deliver()
        desk.ask()
    desk.yard.now += timedelta(days=31)
    desk.restart()
    desk.ask()
    with desk.yard.store.read() as session:
        kept = session.scalars(select(OutgoingCommitment.transaction_uid)).all()
        assert scu.has_accepted(session, "pacs")
    assert kept == desk.transactions()[-1:]
