"""C-STORE and HTTP statuses and what follows from them."""

import pytest

from detector.errors import ErrorCode
from qc_daemon.deliver.outcome import HTTP, STORE, http_outcome, outcome


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0x0107, 0x0111, 0xB000, 0xB006, 0xB007])
def test_success_and_warnings_mean_stored(status: int) -> None:
    assert outcome(status) is None


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0213])
def test_out_of_resources_is_an_alarm(status: int) -> None:
    assert outcome(status) is ErrorCode.DELIVERY_RESOURCES


@pytest.mark.parametrize("status", [0x0110, 0x0210])
def test_processing_failure_is_retried(status: int) -> None:
    assert outcome(status) is ErrorCode.DELIVERY_FAILED


def test_not_authorized_waits_for_a_person() -> None:
    assert outcome(0x0124) is ErrorCode.DELIVERY_FORBIDDEN
    assert {http_outcome(status) for status in (301, 401, 403, 404)} == {
        ErrorCode.DELIVERY_FORBIDDEN
    }


@pytest.mark.parametrize(
    "status", [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0117, 0x0122, 0x0211, 0xFFFF, 0x0A70]
)
def test_other_statuses_are_refused_for_good(status: int) -> None:
    assert outcome(status) is ErrorCode.DELIVERY_REFUSED


def test_every_status_has_an_outcome() -> None:
    good = [status for status in range(0x10000) if outcome(status) is None]
    assert all(status < 0x0200 or status >> 12 == 0xB for status in good)
    assert {status for status in range(100, 600) if http_outcome(status) is None} == {
        200,
        201,
        202,
        204,
    }


def test_no_row_of_the_tables_is_hidden_by_another() -> None:
    for table, numbers in ((STORE, range(0x10000)), (HTTP, range(100, 600))):
        decided = {next(row for row in table if number in row.statuses) for number in numbers}
        assert decided == set(table)
