"""Recording: what processes count and enqueue is written by their thread, together."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.chain import AuditChain
from qc_daemon.audit_trail.event import Actor, ActorKind, AuditEvent, AuditKind, Peer
from qc_daemon.audit_trail.recorder import Recorder
from qc_daemon.settings import Settings, StoreSettings
from tests.support.audit_log import kinds, records

US, SR = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.88.33"
PEER = Peer("VOLUSON1", "10.1.0.5")
NOW = datetime(2026, 11, 30, 8, tzinfo=UTC)


def settings_in(folder: Path) -> Settings:
    return Settings(
        store=StoreSettings(url=f"sqlite:///{folder / 'qc.db'}", spool=folder / "spool")
    )


def make_recorder(folder: Path) -> Recorder:
    return Recorder(AuditChain(folder), "receive", lambda: NOW)


def test_objects_of_a_study_are_one_record_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with recorder.used(make_recorder(tmp_path)):
        for sop_class in (US, US, SR, US):
            recorder.count_transfer(AuditKind.RECEIVED, PEER, "1.2.3", "P1", sop_class)
        recorder.count_transfer(AuditKind.RECEIVED, PEER, "1.2.4", "P2", US)
    first, second = records(tmp_path)
    assert (first["study"], first["patient_id"]) == ("1.2.3", "P1")
    assert first["instances"] == {US: 3, SR: 1}
    assert first["peer"] == {"id": "VOLUSON1", "address": "10.1.0.5"}
    assert first["actor"] == {"kind": "service", "id": "receive"}
    assert (second["study"], second["instances"]) == ("1.2.4", {US: 1})


def test_transfers_are_written_while_a_long_association_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)
    written = threading.Event()

    class Chain(AuditChain):
        def append(self, events):  # type: ignore[no-untyped-def]
            link = super().append(events)
            written.set()
            return link

    with recorder.used(Recorder(Chain(tmp_path), "receive", lambda: NOW)):
        recorder.count_transfer(AuditKind.RECEIVED, PEER, "1.2.3", "P1", US)
        assert written.wait(60)
        assert kinds(tmp_path) == ["received"]
        recorder.count_transfer(AuditKind.RECEIVED, PEER, "1.2.3", "P1", US)
    assert kinds(tmp_path) == ["received", "received"]


def test_a_disk_that_does_not_write_is_logged_and_what_was_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING", 3)
    slow = make_recorder(tmp_path)
    for _ in range(5):
        slow.enqueue(AuditEvent(AuditKind.VIEWED))
    with recorder.used(slow):
        pass
    assert kinds(tmp_path) == ["viewed", "viewed", "viewed", "log-repaired"]
    assert records(tmp_path)[-1]["detail"]["reason"].startswith("2 events were left out")


def test_what_was_done_stays_done_where_the_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "audit-log").write_text("a file where the folder would be")
    with capture_logs() as lines:
        recorder.record(settings_in(tmp_path), AuditKind.BUNDLE_ACTIVATED)
    assert [line["event"] for line in lines] == ["audit record not written"]


def test_a_record_is_of_who_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path)
    recorder.record(settings, AuditKind.REVIEWED, objects={"finding": 1, "exam": None})
    monkeypatch.setattr(recorder, "_actor", recorder.contextvars.ContextVar("x", default=None))
    recorder.act_as(Actor(ActorKind.ACCOUNT, "lee", "10.1.0.7"))
    recorder.record(settings, AuditKind.REVIEWED)
    recorder.enqueue(settings, AuditKind.VIEWED, study="1.2.3", patient_id="P1")
    first, second, third = records(settings)
    assert first["actor"]["kind"] == "machine-user"
    assert first["objects"] == {"finding": "1"}
    assert second["actor"] == {"kind": "account", "id": "lee", "address": "10.1.0.7"}
    assert third["actor"] == second["actor"]
