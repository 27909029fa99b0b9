"""Work that nobody does is told, work that somebody does is not."""

from datetime import UTC, datetime, timedelta

from qc_daemon.operations.queue import missing_worker
from qc_daemon.records.tables import JobKind
from tests.support.command_line import qc_daemon


def told(lab, pause=lambda _seconds: None) -> str:  # type: ignore[no-untyped-def]
    return missing_worker(lab.store, lambda: lab.now, pause)


def test_a_job_that_waits_long_while_nobody_works_is_told(lab) -> None:
    lab.image()
    assert told(lab) == ""
    since = lab.now
    lab.now += timedelta(minutes=6)
    assert told(lab).startswith(f"score jobs have been due since {since:%Y-%m-%d %H:%M} UTC")


def test_a_backlog_that_a_worker_works_off_is_not_told(lab) -> None:
    for _ in range(3):
        lab.image()
    lab.now += timedelta(hours=6)
    assert lab.claim(JobKind.SCORE, owner="worker") is not None
    assert told(lab) == ""


def test_a_worker_between_two_jobs_is_looked_for_again(lab) -> None:
    for _ in range(3):
        lab.image()
    lab.now += timedelta(hours=6)
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            assert lab.claim(JobKind.SCORE, owner="worker") is not None

    assert told(lab, pause) == ""
    assert len(looks) == 3


def test_what_waits_for_its_destination_needs_no_worker(lab) -> None:
    lab.receive("pacs")
    assert lab.claim(JobKind.SCORE, owner="worker") is not None
    lab.now += timedelta(hours=6)
    assert told(lab) == ""


def test_queue_list_and_doctor_say_it(lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    lab.now = datetime(2020, 1, 1, tzinfo=UTC)
    lab.image()
    config = tmp_path / "qc.toml"
    config.write_text(f'[store]\nurl = "{lab.store.url}"\nspool = "spool"\n[receive]\nport = 0\n')
    listed = qc_daemon("queue", "list", "--config", config)
    assert listed.returncode == 0
    assert "no worker takes them" in listed.stderr
    assert "no worker" not in listed.stdout
    (line,) = [
        each
        for each in qc_daemon("doctor", "--config", config).stdout.splitlines()
        if "queue" in each.partition(":")[0]
    ]
    assert line.startswith("FAIL")
