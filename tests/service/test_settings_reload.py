"""SIGHUP: what is taken up, what needs a restart, and that no association ends for it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qc_daemon.service.roles import read_settings
from qc_daemon.service.settings_reload import SettingsReload, compare, merge
from qc_daemon.settings import Settings, load
from tests.support.dicom_objects import ultrasound
from tests.support.pacs import Pacs
from tests.support.peers import association
from tests.support.service import Service
from tests.support.waiting import eventually

BEFORE = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
[[receive.peer]]
ae_title = "MODALITY"
address = "127.0.0.1"
[[receive.peer]]
ae_title = "GOES"
address = "127.0.0.1"
[jobs]
poll_seconds = 0.1
[[destination]]
name = "first"
port = {first}
objects = ["source"]
"""
AFTER = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
quiet_seconds = 5
[[receive.peer]]
ae_title = "MODALITY"
address = "127.0.0.1"
[[receive.peer]]
ae_title = "COMES"
address = "127.0.0.1"
[observe]
log_level = "debug"
[jobs]
poll_seconds = 0.1
[[destination]]
name = "first"
port = {first}
objects = []
[[destination]]
name = "second"
port = {second}
objects = []
[[rule]]
name = "all"
objects = ["source"]
to = ["second"]
[[rule]]
name = "never"
calling_ae = "NOBODY"
objects = ["source"]
to = ["first"]
"""


def settings(folder: Path, text: str) -> Settings:
    path = folder / "qc.toml"
    path.write_text(text.format(first=104, second=105))
    return load(path)


def test_peers_destinations_rules_and_log_level_are_taken_up_and_nothing_else(
    tmp_path: Path,
) -> None:
    before, after = settings(tmp_path, BEFORE), settings(tmp_path, AFTER)
    changes = compare(before, after)
    assert changes.reloadable == ("destination", "observe.log_level", "receive.peer", "rule")
    assert changes.restart == ("receive.quiet_seconds",)
    merged = merge(before, after)
    assert compare(merged, after).restart == ("receive.quiet_seconds",)
    assert compare(merged, after).reloadable == ()
    assert compare(before, before) == compare(after, after)


def test_every_process_can_read_what_was_taken_up(tmp_path: Path) -> None:
    reload = SettingsReload(settings(tmp_path, AFTER))
    assert reload.version == 0
    (tmp_path / "qc.toml").write_text(BEFORE.format(first=104))
    with capture_logs() as lines:
        assert reload.read(tmp_path / "qc.toml")
        assert not reload.read(tmp_path / "qc.toml")
    assert Settings(**read_settings(reload.memory)) == reload.settings
    assert [each.ae_title for each in reload.settings.receive.peer] == ["MODALITY", "GOES"]
    assert reload.version == 1
    assert set(reload.roles_to_replace(0)) == {"work", "deliver", "schedule"}
    assert set(reload.roles_to_replace(1)) == set()
    events = [(line["event"], line.get("setting"), line.get("count")) for line in lines]
    assert events == [
        ("setting needs a restart", "receive.quiet_seconds", None),
        ("settings reloaded", None, 4),
        ("setting needs a restart", "receive.quiet_seconds", None),
        ("settings reloaded", None, 0),
    ]
    os.close(reload.memory)


@pytest.mark.parametrize("text", ["[receive]\nprot = 5\n", "[receive", None])
def test_settings_that_cannot_be_used_change_nothing(tmp_path: Path, text: str | None) -> None:
    reload = SettingsReload(settings(tmp_path, BEFORE))
    before, path = reload.settings, tmp_path / "qc.toml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with capture_logs() as lines:
        assert not reload.read(path)
    assert [line["event"] for line in lines] == ["settings not reloaded"]
    assert (reload.settings, reload.version) == (before, 0)
    os.close(reload.memory)


@pytest.fixture
def archives() -> Iterator[tuple[Pacs, Pacs]]:
    first, second = Pacs().start(), Pacs().start()
    yield first, second
    first.stop()
    second.stop()


def test_a_reload_ends_no_association(tmp_path: Path, archives: tuple[Pacs, Pacs]) -> None:
    """An object before and one after the reload, over one association."""
    first, second = archives
    ports = {"first": first.port, "second": second.port}
    service = Service(tmp_path, BEFORE.format(**ports)).start()
    try:
        receiver, deliverer = service.pid("receive"), service.pid("deliver")
        with association(service.port) as peer, association(service.port, calling="GOES") as old:
            assert peer.send_c_store(ultrasound()).Status == 0
            eventually(lambda: len(first.uids()) == 1)
            service.config.write_text(AFTER.format(**ports))
            assert service.process is not None
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda: service.events("settings reloaded"))
            (restart,) = service.events("setting needs a restart")
            assert restart["setting"] == "receive.quiet_seconds"
            eventually(lambda: service.pid("deliver") != deliverer)
            eventually(lambda: is_accepted(service, "COMES"))
            assert not is_accepted(service, "GOES")
            assert peer.send_c_store(ultrasound()).Status == 0
            assert old.is_established
            eventually(lambda: len(second.uids()) == 1)
        assert len(first.uids()) == 1
        assert service.pid("receive") == receiver
        assert {line["kind"] for line in service.events("process replaced")} == {
            "deliver",
            "schedule",
        }
        assert not service.events("process died")
        assert not service.events("association broken")
        assert service.stop() == 0
    finally:
        service.end()


def is_accepted(service: Service, calling: str) -> bool:
    with association(service.port, calling=calling) as peer:
        return bool(peer.is_established)
