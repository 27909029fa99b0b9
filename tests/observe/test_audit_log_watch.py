"""The audit log is verified while it is written; what is wrong is counted until it is mended."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qc_daemon.audit_trail import forwarding, recorder
from qc_daemon.audit_trail.chain import HEAD, AuditChain, segments
from qc_daemon.audit_trail.event import AuditEvent, AuditKind
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.observe import audit_log_watch
from qc_daemon.observe.audit_log_watch import AuditLogState, AuditLogWatch
from qc_daemon.settings import Settings

NOW = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": tmp_path / "spool"},
        audit_log={"server": [{"name": "arr", "host": "127.0.0.1"}]},
    )


def write(settings: Settings, count: int) -> None:
    for _ in range(count):
        recorder.record(settings, AuditKind.START)


def test_without_a_log_there_is_nothing_wrong(settings: Settings) -> None:
    watch = AuditLogWatch(settings)
    watch.check()
    assert watch.state() == AuditLogState()


def test_records_are_counted_and_what_waits_for_a_server(settings: Settings) -> None:
    watch = AuditLogWatch(settings)
    write(settings, 2)
    assert watch.state() == AuditLogState(2)
    forwarding.begin(settings)
    write(settings, 3)
    watch.check()
    assert watch.state() == AuditLogState(5, 0, {"arr": 3})


def test_a_change_is_logged_once_and_counted_until_it_is_undone(settings: Settings) -> None:
    watch = AuditLogWatch(settings)
    write(settings, 3)
    (file,) = segments(chain_folder(settings))
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"sequence":2', b'"sequence":7', 1))
    with capture_logs() as lines:
        watch.check()
        watch.check()
        assert watch.state().problems > 0
        file.write_bytes(content)
        watch.check()
    assert watch.state().problems == 0
    assert [each["event"] for each in lines] == ["audit log broken", "audit log whole"]


def test_a_head_that_cannot_be_read_is_known_at_once(settings: Settings) -> None:
    watch = AuditLogWatch(settings)
    write(settings, 1)
    watch.check()
    (chain_folder(settings) / HEAD).write_text("gone")
    assert watch.state().problems == 1


def test_archived_files_are_no_problem(settings: Settings, tmp_path: Path) -> None:
    folder = chain_folder(settings)
    for _ in range(12):
        AuditChain(folder, 500).append([(NOW, AuditEvent(AuditKind.START))])
    first, second, *rest = segments(folder)
    assert rest
    first.rename(tmp_path / first.name)
    watch = AuditLogWatch(settings)
    watch.check()
    assert watch.state().problems == 0
    second.write_bytes(second.read_bytes()[:-10])
    watch.check()
    assert watch.state().problems > 0


def test_what_a_writer_was_at_is_no_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first look without the lock may meet half a record: a second one, with it, decides."""
    write(settings, 2)
    real, calls = audit_log_watch.verify, []

    def verify(folder: Path, after: object = None, *, holds_writers: bool = True) -> object:
        calls.append(holds_writers)
        result = real(folder, after=after, holds_writers=holds_writers)
        if not holds_writers:
            result.add("half a record")
        return result

    monkeypatch.setattr(audit_log_watch, "verify", verify)
    watch = AuditLogWatch(settings)
    watch.check()
    assert calls == [False, True]
    assert watch.state().problems == 0
