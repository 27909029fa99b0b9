"""How many objects go to a destination at once, and how fast."""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from detector.errors import QCError
from qc_daemon.deliver import pool as pool_module
from qc_daemon.deliver import run
from qc_daemon.deliver.pool import DestinationPool
from qc_daemon.settings import DestinationSettings
from tests.support.delivery import Delivery
from tests.support.dicom_objects import ultrasound
from tests.support.pacs import Pacs
from tests.support.waiting import eventually


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A transport that knows whether it was let go of."""

    def __init__(self, *_args: Any) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> DestinationPool:
    monkeypatch.setattr(pool_module, "create_transport", Counted)
    settings = [
        DestinationSettings(name="narrow", max_associations=1),
        DestinationSettings(name="slow", max_associations=9, objects_per_minute=30),
    ]
    return DestinationPool(settings, "QCDAEMON", clock)


def test_no_more_at_once_than_allowed(pool: DestinationPool) -> None:
    pool.acquire("narrow")
    assert pool.busy() == ["narrow"]
    pool.release("narrow")
    assert pool.busy() == []


def test_no_faster_than_allowed(pool: DestinationPool, clock: Clock) -> None:
    assert pool.seconds_to_wait() is None
    pool.acquire("slow")
    pool.release("slow")
    assert pool.busy() == ["slow"]
    assert pool.seconds_to_wait() == 2.0
    clock.now += 2.0
    assert pool.busy() == []
    assert pool.seconds_to_wait() is None


def test_removed_destination_blocks_no_other(pool: DestinationPool) -> None:
    pool.acquire("gone")
    assert pool.busy() == []
    with pytest.raises(QCError, match="gone is not in the settings"), pool.transport("gone"):
        pass
    pool.release("gone")


def test_transport_is_reused_and_closed_when_idle(pool: DestinationPool, clock: Clock) -> None:
    with pool.transport("narrow") as first:
        pass
    pool.close_idle()
    with pool.transport("narrow") as again, pool.transport("narrow") as other:
        assert again is first
        assert other is not first
    assert (first.closed, other.closed) == (0, 0)
    clock.now += 3.0
    with pool.transport("narrow"):
        pool.close_idle()
    assert first.closed + other.closed == 1
    pool.close_idle(at_once=True)
    assert (first.closed, other.closed) == (1, 1)


def test_transport_is_released_after_a_failure(pool: DestinationPool) -> None:
    with pytest.raises(ZeroDivisionError), pool.transport("narrow") as first:
        raise ZeroDivisionError
    with pool.transport("narrow") as again:
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
    delivery: Delivery, pacs: CountingPacs
) -> None:
    pacs.start()
    delivery.settings.destination[0].max_associations = 1
    for _ in range(12):
        delivery.admit(ultrasound())
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(delivery.store, delivery.settings, "test", stop))
    thread.start()
    try:
        eventually(lambda: delivery.states() == [("done", None)] * 12)
    finally:
        stop.set()
        thread.join(60)
        pacs.stop()
    assert len(pacs.open) == 12
    # One that is being released may still be seen beside its successor.
    assert sum(1 for count in pacs.open if count > 1) <= pacs.associations - 1
