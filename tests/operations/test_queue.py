"""`missing_worker` names the role whose jobs wait while no process has it."""

from datetime import UTC, datetime, timedelta

from qc_daemon.operations.queue import missing_worker
from qc_daemon.records.tables import JobKind
from tests.support.command_line import qc_daemon


def missing(records, pause=lambda _seconds: None) -> str:  # type: ignore[no-untyped-def]
    return missing_worker(records.store, lambda: records.now, pause)


def test_a_job_long_due_without_a_worker_is_reported(records) -> None:
    records.image()
    assert missing(records) == ""
    since = records.now
    records.now += timedelta(minutes=6)
    assert missing(records).startswith(f"score jobs have been due since {since:%Y-%m-%d %H:%M} UTC")


def test_a_backlog_with_a_worker_is_not_reported(records) -> None:
    for _ in range(3):
        records.image()
    records.now += timedelta(hours=6)
    assert records.claim(JobKind.SCORE, owner="worker") is not None
    assert missing(records) == ""


def test_a_worker_between_two_jobs_counts_as_at_work(records) -> None:
    for _ in range(3):
        records.image()
    records.now += timedelta(hours=6)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            assert records.claim(JobKind.SCORE, owner="worker") is not None

    assert missing(records, pause) == ""
    assert len(pauses) == 3


def test_what_waits_for_its_destination_needs_no_worker(records) -> None:
    records.receive("pacs")
    assert records.claim(JobKind.SCORE, owner="worker") is not None
    records.now += timedelta(hours=6)
    assert missing(records) == ""


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
