"""The clock is set back by an hour: what was written before must not wait for that hour."""

from qc_daemon.records.queue.jobs import CLOCK_SKEW, claim
from qc_daemon.records.tables import JobKind

HOUR = 3600.0


def claimed(lab) -> bool:
    with lab.store.begin() as session:
        return claim(session, [JobKind.SCORE], "work:1", lab.now, 60) is not None


def test_a_job_is_due_at_once(lab) -> None:
    lab.image()
    lab.wait(-HOUR)
    assert claimed(lab)


def test_clocks_of_two_hosts_that_differ_a_little_keep_the_wait(lab) -> None:
    lab.image()
    lab.wait(-CLOCK_SKEW.total_seconds() / 2)
    assert not claimed(lab)


def test_an_exam_is_quiet_in_its_time(lab) -> None:
    exam = lab.image().exam_id
    lab.score_all()
    lab.wait(-HOUR)
    assert lab.close_due() == []
    lab.wait(60)
    assert lab.close_due() == [exam]
