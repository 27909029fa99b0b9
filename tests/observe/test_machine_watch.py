"""Machines are watched by what they sent, and each change is one line of the log."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from qc_daemon.observe.machine_watch import MachineWatch
from qc_daemon.observe.silence import HISTORY
from qc_daemon.records import gauges
from qc_daemon.records.received import peers, receipts
from tests.support.observed_service import ObservedService
from tests.support.receipts import numbered_receipt

MONDAY = datetime(2026, 9, 7, tzinfo=UTC)
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)
END = MONDAY + 4 * WEEK


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[ObservedService]:
    service = ObservedService.make(
        tmp_path,
        receive={"peer": [{"ae_title": "VOLUSON1", "address": "10.0.0.0/8"}]},
        schedule={"timezone": "UTC"},
    )
    yield service
    service.close()


numbers = count(1)


def send(observed: ObservedService, *moments: datetime, calling_ae: str = "VOLUSON1") -> None:
    with observed.store.begin() as session:
        for moment in moments:
            receipt = numbered_receipt(next(numbers), calling_ae=calling_ae)
            receipts.admit(session, receipt, source_destinations=(), bundle_id=None, now=moment)


def office_weeks() -> list[datetime]:
    """Four weeks, on Mondays and Tuesdays from 8 to 14 o'clock."""
    return [
        MONDAY + week * WEEK + timedelta(days=day, hours=hour, minutes=30)
        for week in range(4)
        for day in range(2)
        for hour in range(8, 15)
    ]


def watch_at(observed: ObservedService, now: datetime) -> MachineWatch:
    observed.now = now
    return MachineWatch(observed.settings, observed.store, lambda: observed.now)


def test_a_machine_that_stays_away_is_one_log_line_and_one_more_when_it_sends(
    observed: ObservedService,
) -> None:
    send(observed, *office_weeks())
    watch = watch_at(observed, END + 8 * HOUR)
    with capture_logs() as lines:
        watch.check()
        assert not watch.machines()["VOLUSON1"].is_quiet
        for hour in (13, 14, 20):
            observed.now = END + hour * HOUR
            watch.check()
        assert watch.machines()["VOLUSON1"].is_quiet
        send(observed, observed.now - timedelta(minutes=1))
        watch.check()
    assert not watch.machines()["VOLUSON1"].is_quiet
    assert [line["event"] for line in lines] == ["machine quiet", "machine not quiet"]
    assert {line["calling_ae"] for line in lines} == {"VOLUSON1"}


def test_only_machines_that_may_store_are_watched_and_approved_ones_from_then_on(
    observed: ObservedService,
) -> None:
    send(observed, *office_weeks(), calling_ae="NEW")
    watch = watch_at(observed, END + 20 * HOUR)
    watch.check()
    assert not watch.machines()
    with observed.store.begin() as session:
        peers.approve(session, "NEW", "10.0.0.0/8", None, observed.now)
    watch.check()
    assert watch.machines()["NEW"].is_quiet
    with observed.store.begin() as session:
        peers.remove(session, "NEW", None)
    watch.check()
    assert not watch.machines()


def test_a_check_reads_only_what_came_since_the_one_before(
    observed: ObservedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(observed, *office_weeks())
    watch = watch_at(observed, END)
    watch.check()
    questions = []

    def arrivals(
        session: Session, calling_aes: Collection[str], since: datetime, until: datetime
    ) -> Iterator[tuple[str, datetime]]:
        questions.append((list(calling_aes), since, until))
        return gauges.arrivals(session, calling_aes, since, until)

    monkeypatch.setattr("qc_daemon.observe.machine_watch.arrivals", arrivals)
    observed.now = END + HOUR
    watch.check()
    assert questions == [
        ([], observed.now - HISTORY, observed.now),
        (["VOLUSON1"], END - timedelta(minutes=10), observed.now),
    ]
