"""How many objects go to a destination at once, and how fast."""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from detector.errors import QCError
from qc_daemon.deliver import pool as lanes_module
from qc_daemon.deliver import run
from qc_daemon.deliver.pool import Lanes
from qc_daemon.settings import DestinationSettings
from tests.deliver.conftest import Yard
from tests.support.dicom_peers import Pacs, eventually, ultrasound


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A carrier that knows whether it was let go of."""

    def __init__(self, *_args: Any) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lanes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Lanes:
    monkeypatch.setattr(lanes_module, "carrier", Counted)
    settings = [
        DestinationSettings(name="narrow", max_associations=1),
        DestinationSettings(name="slow", max_associations=9, objects_per_minute=30),
    ]
    return Lanes(settings, "QCDAEMON", clock)


def test_no_more_at_once_than_allowed(lanes: Lanes) -> None:
    lanes.enter("narrow")
    assert lanes.closed() == ["narrow"]
    lanes.leave("narrow")
    assert lanes.closed() == []


def test_no_faster_than_allowed(lanes: Lanes, clock: Clock) -> None:
    assert lanes.wait() is None
    lanes.enter("slow")
    lanes.leave("slow")
    assert lanes.closed() == ["slow"]
    assert lanes.wait() == 2.0
    clock.now += 2.0
    assert lanes.closed() == []
    assert lanes.wait() is None


def test_a_destination_that_is_none_any_more_closes_nothing(lanes: Lanes) -> None:
    lanes.enter("gone")
    assert lanes.closed() == []
    with pytest.raises(QCError, match="gone is not in the settings"), lanes.carrier("gone"):
        pass
    lanes.leave("gone")


def test_a_carrier_is_used_again_and_let_go_of_when_it_has_rested(
    lanes: Lanes, clock: Clock
) -> None:
    with lanes.carrier("narrow") as first:
        pass
    lanes.rest()
    with lanes.carrier("narrow") as again, lanes.carrier("narrow") as other:
        assert again is first
        assert other is not first
    assert (first.closed, other.closed) == (0, 0)
    clock.now += 3.0
    with lanes.carrier("narrow"):
        lanes.rest()
    assert first.closed + other.closed == 1
    lanes.rest(at_once=True)
    assert (first.closed, other.closed) == (1, 1)


def test_a_carrier_is_given_back_after_a_failure(lanes: Lanes) -> None:
    with pytest.raises(ZeroDivisionError), lanes.carrier("narrow") as first:
        raise ZeroDivisionError
    with lanes.carrier("narrow") as again:
        assert again is first


@dataclass
class CountingPacs(Pacs):
    """Knows how many associations there were at most at a time."""

    open: list[int] = field(default_factory=list)

    def _store(self, event: Any) -> int:
        self.open.append(len(self._server.active_associations))
        return super()._store(event)


@pytest.fixture
def pacs() -> CountingPacs:
    return CountingPacs()


def test_one_association_at_a_time_where_a_pacs_takes_no_more(
    yard: Yard, pacs: CountingPacs
) -> None:
    pacs.start()
    yard.settings.destination[0].max_associations = 1
    for _ in range(12):
        yard.admit(ultrasound())
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(yard.store, yard.settings, "test", stop))
    thread.start()
    try:
        eventually(lambda: yard.states() == [("done", None)] * 12)
    finally:
        stop.set()
        thread.join(60)
        pacs.stop()
    assert len(pacs.open) == 12
    # One that is being released may still be seen beside its successor.
    assert sum(1 for count in pacs.open if count > 1) <= pacs.associations - 1
