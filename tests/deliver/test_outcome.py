"""C-STORE statuses and what follows from them."""

import pytest

from detector.codes import ErrorCode
from qc_daemon.deliver.outcome import outcome


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0x0107, 0x0111, 0xB000, 0xB006, 0xB007])
def test_the_peer_has_it(status: int) -> None:
    assert outcome(status) is None


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213])
def test_may_pass(status: int) -> None:
    assert outcome(status) is ErrorCode.DELIVERY_RESOURCES


@pytest.mark.parametrize(
    "status", [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0117, 0x0122, 0x0124, 0x0211, 0xFFFF, 0x0A70]
)
def test_refused_for_good(status: int) -> None:
    assert outcome(status) is ErrorCode.DELIVERY_REFUSED


def test_every_status_has_an_outcome() -> None:
    good = [status for status in range(0x10000) if outcome(status) is None]
    assert all(status < 0x0200 or status >> 12 == 0xB for status in good)
