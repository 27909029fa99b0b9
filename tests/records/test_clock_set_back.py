"""The clock is set back by an hour: what was written before must not wait for that hour."""

from qc_daemon.records.queue.jobs import CLOCK_SKEW, claim
from qc_daemon.records.tables import JobKind

HOUR = 3600.0


def claimed(records) -> bool:
    with records.store.begin() as session:
        return claim(session, [JobKind.SCORE], "work:1", records.now, 60) is not None


def test_a_job_is_due_at_once(records) -> None:
    records.image()
    records.wait(-HOUR)
    assert claimed(records)


def test_clocks_of_two_hosts_that_differ_a_little_keep_the_wait(records) -> None:
    records.image()
    records.wait(-CLOCK_SKEW.total_seconds() / 2)
    assert not claimed(records)


def test_an_exam_is_quiet_in_its_time(records) -> None:
    exam = records.image().exam_id
    records.score_all()
    records.wait(-HOUR)
    assert records.close_due() == []
    records.wait(60)
    assert records.close_due() == [exam]
