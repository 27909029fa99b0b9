"""What the role `schedule` does beside closing exams: sites fitted at night, what waits counted."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from model.bundle.bundle import read_model_id
from qc_daemon.backup.series import list_backups
from qc_daemon.dicom.acquisition import Acquisition
from qc_daemon.observe import counters
from qc_daemon.operations import sites
from qc_daemon.operations.audits import list_audits
from qc_daemon.operations.bundles import seed_bundle
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.results import findings
from qc_daemon.records.store import Store
from qc_daemon.service import roles
from qc_daemon.service.nightly_audits import NightlyAudits
from qc_daemon.service.nightly_backups import NightlyBackups
from qc_daemon.service.roles import RoleContext
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.records import START, Records
from tests.support.waiting import eventually

EVENING = datetime(2026, 3, 4, 20, 0, tzinfo=UTC)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RoleContext]:
    """A role on a store with an image of a site, which the models leave to a person."""
    config = tmp_path / "qc.toml"
    config.write_text("[review]\nfirst_share = 0\n")
    settings = load(config)
    settings.store.spool.mkdir(parents=True)
    migrate(settings.store.url)
    store = Store(settings.store.url)
    seed_bundle(settings, store)
    records = Records(store)
    admission = records.image()
    quality = {"label": "review", "probability": 0.5, "raw_probability": 0.5}
    body = records.finding(model_id=read_model_id("default"), quality=quality)
    with store.begin() as session:
        facts = Acquisition(institution="St. Anna")
        acquisitions.store(session, admission.revision_id, facts, "US1", START)
        findings.store(session, admission.revision_id, [body], START)
    yield RoleContext(settings, store, "host:1", {})
    store.close()


@contextmanager
def running(
    target: Callable[[RoleContext, threading.Event], None], context: RoleContext
) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=target, args=(context, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_sites_are_fitted_once_a_night_and_a_night_that_fails_is_not_the_last(
    context: RoleContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = 0
    own = sites.propose_all

    def propose_all(*arguments: object) -> int:
        nonlocal nights
        nights += 1
        if nights == 1:
            raise ValueError("a canary that no log line quotes")
        return own(*arguments)  # type: ignore[arg-type]

    # Each look at the clock is six hours later: a night comes with every fourth.
    hours = itertools.count(0, 6)
    monkeypatch.setattr(roles, "utc_now", lambda: EVENING + timedelta(hours=next(hours)))
    monkeypatch.setattr(roles, "_CLOCK_SECONDS", 0.001)
    monkeypatch.setattr(sites, "propose_all", propose_all)
    with capture_logs() as lines, running(roles._propose_sites, context):
        eventually(lambda: nights > 2)
    assert nights <= next(hours) / 24 + 1
    # What rests on the same findings is proposed once.
    assert [each["site"] for each in sites.list_history(context.settings, None)] == ["St. Anna"]
    assert [each["event"] for each in lines if each["log_level"] == "error"] == ["sites not fitted"]
    assert "canary" not in str(lines)


def test_sites_are_not_fitted_where_they_are_not_calibrated(context: RoleContext) -> None:
    context.settings.score.site_calibration = "off"
    stop = threading.Event()
    roles._propose_sites(context, stop)
    assert sites.list_history(context.settings, None) == []


def test_what_waits_for_people_is_counted_for_the_metrics(
    context: RoleContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "_FIRST_COUNT_SECONDS", 0.001)
    with running(roles._count_waiting, context):
        eventually(lambda: counters.get("sites_commissioning") == 1)
    assert counters.get("reviews_waiting") == 1
    assert counters.get("reviews_oldest") == START.timestamp()
    assert counters.get("promises_broken") == 0


def test_a_process_does_the_audit_that_is_due(context: RoleContext) -> None:
    nightly = NightlyAudits(context.settings, context.store)
    stop = threading.Event()
    thread = threading.Thread(target=nightly.run, args=(stop, 0.2))
    thread.start()
    try:
        eventually(lambda: [each["state"] for each in list_audits(context.settings)] == ["done"])
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_an_audit_under_way_ends_with_the_role_and_is_taken_up_again(
    context: RoleContext,
) -> None:
    nightly = NightlyAudits(context.settings, context.store)
    nightly.tick()
    assert nightly._process.is_working
    nightly._process.end()
    assert not nightly._process.is_working
    [listed] = list_audits(context.settings)
    # It may have been done in time; else its lease says until when nobody else takes it.
    assert listed["state"] in ("waiting", "running", "done")


def test_a_process_makes_the_backup_that_is_due_and_the_metric_has_its_time(
    context: RoleContext, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    context.settings.backup.folder = folder
    backups = NightlyBackups(context.settings)
    stop = threading.Event()
    thread = threading.Thread(target=backups.run, args=(stop, 0.2))
    thread.start()
    try:
        eventually(lambda: counters.get("backup_finished") > 0)
    finally:
        stop.set()
        thread.join(30)
    [backup] = list_backups(folder)
    assert backup.is_good
    assert counters.get("backup_finished") == backup.begun.timestamp()


def test_a_backup_that_fails_is_tried_three_times_a_night(
    context: RoleContext, tmp_path: Path
) -> None:
    context.settings.backup.folder = tmp_path / "not-mounted"
    context.settings.schedule.timezone = "UTC"
    now = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
    moments: list[str] = []
    backups = NightlyBackups(context.settings, lambda: now)
    for _ in range(26 * 60):
        with capture_logs() as lines:
            backups.tick()
        if [each["event"] for each in lines] == ["backup failed"]:
            moments.append(f"{now:%d %H:%M}")
        now += timedelta(minutes=1)
    assert moments == ["30 03:00", "30 04:00", "30 05:00", "01 03:00", "01 04:00"]
