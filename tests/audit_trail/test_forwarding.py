"""Audit messages reach a real syslog server over TLS, in order, through its absences."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from structlog.testing import capture_logs

from qc_daemon.audit_trail import forwarding, recorder
from qc_daemon.audit_trail.chain import AuditChain, segments
from qc_daemon.audit_trail.event import AuditEvent, AuditKind, AuditSource, Peer
from qc_daemon.audit_trail.forwarding import Forwarder, read_state
from qc_daemon.audit_trail.syslog import MAX_DATAGRAM, SyslogError, make_syslog
from qc_daemon.settings import Settings, StoreSettings
from qc_daemon.settings.observe import AuditServerSettings
from tests.support.certificates import Authority, Pair
from tests.support.ports import reserve_port
from tests.support.syslog_server import SyslogServer
from tests.support.waiting import eventually

SCHEMA = Path(__file__).parents[1] / "support" / "audit_message.rng"
SOURCE = AuditSource("QCDAEMON@qc1", "qc1", "QCDAEMON")


def append(folder: Path, count: int) -> None:
    event = AuditEvent(
        AuditKind.RECEIVED, peer=Peer("Übersee", "10.1.0.5"), study="1.2.3", patient_id="P1"
    )
    AuditChain(folder, 500).append([(datetime.now(UTC), event)] * count)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[SyslogServer]:
    server = SyslogServer(tmp_path / "syslog", authority)
    yield server
    server.kill()


def settings_of(server: SyslogServer, own: Pair | None = None, **more: Any) -> AuditServerSettings:
    values: dict[str, Any] = {"name": "arr", "host": "127.0.0.1", "port": server.port}
    if own is not None:
        values |= {"certificate": own.certificate, "key": own.key}
        values |= {"ca": server.authority.certificate}
    return AuditServerSettings(**values | more)


@contextmanager
def running(forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, seconds in (("FIRST", 0.1), ("LONGEST", 0.3)):
        monkeypatch.setattr(forwarding, f"{name}_RETRY_SECONDS", seconds)
    monkeypatch.setattr(forwarding, "POLL_SECONDS", 0.05)
    stop = threading.Event()
    thread = threading.Thread(target=forwarder.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


def test_every_record_reaches_the_server_though_it_was_away_and_died(
    tmp_path: Path, server: SyslogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    own = server.authority.issue("qc1")
    append(folder, 3)
    forwarder = Forwarder(folder, SOURCE, settings_of(server, own))
    with capture_logs() as lines, running(forwarder, monkeypatch):
        eventually(lambda: lines)
        assert lines[0]["event"] == "audit messages not sent"
        server.start()
        eventually(lambda: len(server.arrived()) >= 3)
        server.kill()
        append(folder, 5)
        server.start()
        eventually(lambda: {each.sequence for each in server.arrived()} == set(range(1, 9)))
        eventually(lambda: read_state(folder, "arr") == forwarding.ForwardingState(8, 0))
    assert len(segments(folder)) > 1
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    for each in server.arrived():
        assert (each.priority, each.msg_id) == (85, "DICOM+RFC3881")
        assert (each.host, each.app_name) == ("qc1", "qc-daemon")
        root = etree.fromstring(each.xml.encode())
        schema.assertValid(root)
        assert root.find("ActiveParticipant").get("UserID") == "Übersee"
    sequences = [each.sequence for each in server.arrived()]
    assert sorted(set(sequences)) == list(range(1, 9))
    # Outages are logged once each.
    assert [line["event"] for line in lines].count("audit messages not sent") <= 2


def test_udp_takes_them_too(tmp_path: Path, server: SyslogServer) -> None:
    server.start()
    # The same port takes TLS: when that is open, UDP is.
    eventually(lambda: _is_open(server.port), 280)
    append(tmp_path / "log", 2)
    forwarder = Forwarder(tmp_path / "log", SOURCE, settings_of(server, protocol="udp"))
    assert forwarder.send_batch() == 2
    eventually(lambda: [each.sequence for each in server.arrived()] == [1, 2])


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_who_does_not_trust_the_other_sends_nothing_and_loses_nothing(
    tmp_path: Path, server: SyslogServer
) -> None:
    server.start()
    eventually(lambda: _is_open(server.port), 280)
    append(tmp_path / "log", 1)
    foreign = Authority.make(tmp_path / "foreign").certificate
    wary = settings_of(server, server.authority.issue("qc1"), ca=foreign)
    with pytest.raises(SyslogError, match="its certificate is not accepted"):
        Forwarder(tmp_path / "log", SOURCE, wary).send_batch()
    assert read_state(tmp_path / "log", "arr") is None
    bare = settings_of(server, ca=server.authority.certificate)
    with pytest.raises(SyslogError):
        Forwarder(tmp_path / "log", SOURCE, bare).send_batch()
    assert read_state(tmp_path / "log", "arr") is None
    assert not server.arrived()


def test_a_new_server_gets_what_is_recorded_from_then_on(tmp_path: Path) -> None:
    settings = Settings(
        store=StoreSettings(url="sqlite:///x", spool=tmp_path / "spool"),
        audit_log={"server": [{"name": "arr", "host": "127.0.0.1", "port": reserve_port()}]},
    )
    recorder.record(settings, AuditKind.STOP)
    forwarding.begin(settings)
    recorder.record(settings, AuditKind.START)
    forwarding.begin(settings)
    folder = recorder.chain_folder(settings)
    assert read_state(folder, "arr") == forwarding.ForwardingState(1, 1)


def test_one_process_of_a_machine_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        sent = 0

        def send(self, messages: list[bytes]) -> None:
            self.sent += len(messages)

        def close(self) -> None: ...

    append(tmp_path, 150)
    transports = [Counting(), Counting()]
    server = AuditServerSettings(name="arr", host="127.0.0.1")
    first, second = (Forwarder(tmp_path, SOURCE, server, each) for each in transports)
    with running(first, monkeypatch):
        eventually(lambda: transports[0].sent == 150)
        with running(second, monkeypatch):
            append(tmp_path, 1)
            eventually(lambda: transports[0].sent == 151)
    assert transports[1].sent == 0


def test_a_syslog_message_is_as_the_profiles_say() -> None:
    made = make_syslog(
        b"<?xml?>", at="2026-11-30T08:00:00.123+00:00", host="qc 1", sequence=7, is_success=False
    )
    assert made == (
        b"<84>1 2026-11-30T08:00:00.123+00:00 qc-1 qc-daemon - DICOM+RFC3881"
        b' [meta sequenceId="7"] \xef\xbb\xbf<?xml?>'
    )
    assert MAX_DATAGRAM == 32_768
