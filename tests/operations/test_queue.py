"""Which jobs wait while no process does them, and for which role."""

import contextlib
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from detector.errors import ErrorCode, QCError
from detector.process_id import lease_owner
from qc_daemon.operations.queue import missing_sender, missing_worker, stopped_service
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results import destinations
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import DestinationSettings, Settings, StoreSettings
from qc_daemon.spool import service_lock
from tests.support.command_line import qc_daemon_here


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
    records.score_all()
    records.now += timedelta(hours=6)
    assert missing(records) == ""


def test_a_lease_that_nobody_renews_is_no_worker(records) -> None:
    records.image()
    since = records.now
    assert records.claim(JobKind.SCORE, owner="work:elsewhere:1:boot-1") is not None
    records.now += timedelta(minutes=4)
    assert missing(records) == ""
    records.now += timedelta(hours=6)
    assert missing(records).startswith(f"score jobs have been due since {since:%Y-%m-%d %H:%M} UTC")


def ended_owner(role: str) -> str:
    """The name of a process of this host that has ended, as one that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = lease_owner(role, process.pid)
    process.kill()
    process.communicate()
    return owner


def site(records, folder: Path) -> Settings:
    (folder / "spool").mkdir(exist_ok=True)
    return Settings(
        store=StoreSettings(url="sqlite://", spool=folder / "spool"),
        destination=[DestinationSettings(name="pacs"), DestinationSettings(name="archive")],
    )


def stopped(records, folder: Path) -> str:
    return stopped_service(
        site(records, folder), records.store, lambda: records.now, lambda _seconds: None
    )


def test_a_killed_service_leaves_its_jobs_waiting_and_this_is_said_at_once(
    records, tmp_path
) -> None:
    """Leases of the dead have minutes to go, and no job is due for long."""
    assert stopped(records, tmp_path) == ""
    since = records.now
    records.receive("pacs")
    for _ in range(11):
        records.wait(1)
        records.image()
    assert records.claim(JobKind.SCORE, owner=ended_owner("work")) is not None
    assert records.claim(JobKind.DELIVER, owner=ended_owner("deliver")) is not None
    assert stopped(records, tmp_path) == (
        f"13 jobs wait (12 score, 1 deliver), the oldest since {since:%Y-%m-%d %H:%M} UTC,"
        " and the service is not running; start it with qc-daemon serve"
    )
    with service_lock.shared(tmp_path / "spool"):
        assert stopped(records, tmp_path) == ""


def test_a_process_of_another_host_counts_until_its_lease_ends(records, tmp_path) -> None:
    records.image()
    records.image()
    assert records.claim(JobKind.SCORE, owner="work:elsewhere:1:boot-1") is not None
    assert stopped(records, tmp_path) == ""
    records.wait(301)
    assert stopped(records, tmp_path).startswith("2 jobs wait (2 score), the oldest since")


def test_a_job_that_is_tried_again_later_waits_too(records, tmp_path) -> None:
    records.image()
    job = records.claim(JobKind.SCORE)
    error = QCError(ErrorCode.STORAGE, "the disk is away")
    with records.store.begin() as session:
        jobs.fail(session, job, error, records.now, RetryPolicy(), random.Random(1))
    assert stopped(records, tmp_path).startswith("1 job waits (1 score), the next from ")


def sender(records, folder: Path) -> str:
    return missing_sender(site(records, folder), records.store, lambda: records.now)


def test_objects_that_no_process_sends_are_reported(records, tmp_path) -> None:
    since = records.now
    records.receive("pacs")
    assert sender(records, tmp_path) == ""
    records.wait(301)
    assert sender(records, tmp_path).startswith(
        f"objects for pacs have been due since {since:%Y-%m-%d %H:%M} UTC and no process sends"
    )
    # One job of all that was done a moment ago shows that a process is at work.
    records.receive("archive", sop_instance_uid="1.2.9", sha256="9" * 64)
    records.wait(1)
    with records.store.begin() as session:
        job = jobs.claim(
            session, [JobKind.DELIVER], "d", records.now, 300, destinations=["archive"]
        )
        assert job is not None
        assert jobs.finish(session, job, records.now)
    assert sender(records, tmp_path) == ""
    records.wait(301)
    assert sender(records, tmp_path) != ""


def test_objects_for_a_destination_that_fails_or_left_the_settings_wait_for_it(
    records, tmp_path
) -> None:
    records.receive("pacs", "old")
    with records.store.begin() as session:
        away = QCError(ErrorCode.DELIVERY_UNREACHABLE, "destination pacs cannot be reached")
        destinations.record_failure(session, "pacs", away, records.now)
    records.wait(3600)
    assert sender(records, tmp_path) == ""


def test_queue_list_and_doctor_say_it(records, tmp_path) -> None:  # type: ignore[no-untyped-def]
    records.now = datetime(2020, 1, 1, tzinfo=UTC)
    records.image()
    config = tmp_path / "qc.toml"
    config.write_text(
        f'[store]\nurl = "{records.store.url}"\nspool = "spool"\n[receive]\nport = 0\n'
    )
    for running, problem in ((False, "the service is not running"), (True, "no worker takes them")):
        spool = tmp_path / "spool"
        with service_lock.shared(spool) if running else contextlib.nullcontext():
            listed = qc_daemon_here("queue", "list", "--config", config)
            lines = qc_daemon_here("doctor", "--config", config).stdout.splitlines()
        assert listed.returncode == 0
        assert problem in listed.stderr
        assert problem not in listed.stdout
        (line,) = [each for each in lines if "queue" in each.partition(":")[0]]
        assert line.startswith("FAIL queue: ")
        assert problem in line
