"""The clock is set back by an hour: what was written before must not wait for that hour."""

from qc_daemon.records.queue.jobs import CLOCK_SKEW, claim
from qc_daemon.records.tables import JobKind

HOUR = 3600.0


def claimed(records) -> bool:
    with records.store.begin() as session:
        return claim(session, [JobKind.SCORE], "work:1", records.now, 60) is not None


def test_clock_set_back_makes_waiting_jobs_due(records) -> None:
    records.image()
    records.wait(-HOUR)
    assert claimed(records)


def test_small_clock_skew_between_hosts_keeps_the_back_off(records) -> None:
    records.image()
    records.wait(-CLOCK_SKEW.total_seconds() / 2)
    assert not claimed(records)


def test_clock_set_back_does_not_prolong_the_quiet_time(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    records.wait(-HOUR)
    assert records.close_due() == []
    records.wait(60)
    assert records.close_due() == [exam]
