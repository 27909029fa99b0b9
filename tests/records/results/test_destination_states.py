"""What destinations were last like, in both databases."""

from datetime import timedelta
from itertools import product

import pytest

from detector.errors import ErrorCode, QCError
from qc_daemon.records.results import destinations
from qc_daemon.records.results.destinations import Condition
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentSupport
from tests.support.records import START

AWAY = QCError(ErrorCode.DELIVERY_UNREACHABLE, "destination pacs cannot be reached: no such host")
FULL = QCError(ErrorCode.DELIVERY_RESOURCES, "destination pacs answered A700")
MINUTE = timedelta(minutes=1)
OFFERED, TAKEN, REFUSED, NOT_OFFERED, LOST = CommitmentSupport


def condition(store: Store) -> Condition:
    with store.read() as session:
        return destinations.condition(session, "pacs")


def record(store: Store, *supports: CommitmentSupport) -> Condition:
    """One a minute."""
    with store.begin() as session:
        for number, each in enumerate(supports):
            destinations.record_commitment(session, "pacs", each, START + number * MINUTE, "why")
    return condition(store)


def test_condition_is_empty_at_first(store: Store) -> None:
    assert condition(store) == Condition()
    with store.begin() as session:
        destinations.record_success(session, "pacs")
    assert condition(store) == Condition()


def test_failing_since_the_first_error_with_the_last_one(store: Store) -> None:
    with store.begin() as session:
        destinations.record_failure(session, "pacs", AWAY, START)
        destinations.record_failure(session, "pacs", FULL, START + MINUTE)
        destinations.record_failure(session, "vna", AWAY, START)
    failing = Condition(
        failing_since=START,
        failed_at=START + MINUTE,
        error_code=ErrorCode.DELIVERY_RESOURCES,
        error_message=FULL.message,
    )
    assert condition(store) == failing
    with store.begin() as session:
        destinations.record_success(session, "pacs")
    # What was wrong last can still be read.
    assert condition(store).failing_since is None
    assert condition(store).error_message == FULL.message
    with store.begin() as session:
        destinations.record_failure(session, "pacs", AWAY, START + 5 * MINUTE)
    assert condition(store).failing_since == START + 5 * MINUTE


@pytest.mark.parametrize("support", CommitmentSupport)
def test_recording_the_same_again_changes_nothing(store: Store, support: CommitmentSupport) -> None:
    once = record(store, support)
    assert (once.commitment, once.commitment_since) == (support, START)
    assert record(store, support, support) == once


def test_offered_context_alone_does_not_replace_an_answer(store: Store) -> None:
    for before, after in product(CommitmentSupport, CommitmentSupport):
        if before is after:
            continue
        record(store, NOT_OFFERED, before)
        stays = after is OFFERED and before is not NOT_OFFERED
        assert record(store, after).commitment == (before if stays else after), (before, after)
