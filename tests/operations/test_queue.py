"""Work that nobody does is told, work that somebody does is not."""

from datetime import UTC, datetime, timedelta

from qc_daemon.operations.queue import missing_worker
from qc_daemon.records.tables import JobKind
from tests.support.command_line import qc_daemon


def told(records, pause=lambda _seconds: None) -> str:  # type: ignore[no-untyped-def]
    return missing_worker(records.store, lambda: records.now, pause)


def test_a_job_that_waits_long_while_nobody_works_is_told(records) -> None:
    records.image()
    assert told(records) == ""
    since = records.now
    records.now += timedelta(minutes=6)
    assert told(records).startswith(f"score jobs have been due since {since:%Y-%m-%d %H:%M} UTC")


def test_a_backlog_that_a_worker_works_off_is_not_told(records) -> None:
    for _ in range(3):
        records.image()
    records.now += timedelta(hours=6)
    assert records.claim(JobKind.SCORE, owner="worker") is not None
    assert told(records) == ""


def test_a_worker_between_two_jobs_is_looked_for_again(records) -> None:
    for _ in range(3):
        records.image()
    records.now += timedelta(hours=6)
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            assert records.claim(JobKind.SCORE, owner="worker") is not None

    assert told(records, pause) == ""
    assert len(looks) == 3


def test_what_waits_for_its_destination_needs_no_worker(records) -> None:
    records.receive("pacs")
    assert records.claim(JobKind.SCORE, owner="worker") is not None
    records.now += timedelta(hours=6)
    assert told(records) == ""


def test_queue_list_and_doctor_say_it(records, tmp_path) -> None:  # type: ignore[no-untyped-def]
    records.now = datetime(2020, 1, 1, tzinfo=UTC)
    records.image()
    config = tmp_path / "qc.toml"
    config.write_text(
        f'[store]\nurl = "{records.store.url}"\nspool = "spool"\n[receive]\nport = 0\n'
    )
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
