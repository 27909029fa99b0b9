"""What the doctor says of the receiver and its certificate."""

from pathlib import Path

import pytest
from pynetdicom import AE

from qc_daemon.doctor import Check, examine
from qc_daemon.settings import (
    DestinationSettings,
    ReceiveSettings,
    Settings,
    StoreSettings,
    TLSSettings,
)
from tests.certificates import Authority
from tests.ports import reserve_port
from tests.stowing import Web


def check(name: str, **receive: object) -> Check:
    settings = Settings(receive=ReceiveSettings(**receive))
    return next(each for each in examine(settings) if each.name == name)


def tls(authority: Authority, days: int, **options: object) -> TLSSettings:
    own = authority.issue("receiver", days)
    return TLSSettings(
        certificate=own.certificate, key=own.key, ca=authority.certificate, **options
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


@pytest.mark.parametrize(
    ("days", "healthy", "said"),
    [(400, True, "399 days"), (8, True, "7 days; renew it soon"), (-1, False, "expired on")],
)
def test_the_certificates_end_is_told(
    authority: Authority, days: int, healthy: bool, said: str
) -> None:
    found = check("certificate", tls=tls(authority, days))
    assert found.healthy is healthy
    assert said in found.message


def test_a_certificate_that_cannot_be_used_is_told(authority: Authority) -> None:
    settings = tls(authority, 8)
    settings.key.unlink()
    found = check("certificate", tls=settings)
    assert not found.healthy
    assert "receive.tls.key" in found.message


def test_a_receiver_that_knows_its_peers_is_healthy() -> None:
    ae = AE("QCDAEMON")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.require_calling_aet = ["US1"]
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        port = server.server_address[1]
        found = check("receiver", port=port)
        assert found.healthy
        assert "none of its peers" in found.message
    finally:
        server.shutdown()


def test_a_receiver_for_tls_only_is_not_asked(authority: Authority) -> None:
    port = reserve_port()
    settings = tls(authority, 8, port=port, only=True)
    assert "not running" in check("receiver", tls=settings).message
    server = AE("QCDAEMON")
    server.add_supported_context("1.2.840.10008.1.1")
    running = server.start_server(("127.0.0.1", port), block=False)
    try:
        assert "for TLS only" in check("receiver", tls=settings).message
    finally:
        running.shutdown()


def test_a_dicomweb_destination_is_asked_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNA_TOKEN", "SECRET")
    web = Web().start()
    url = web.url
    destination = {"name": "vna", "kind": "dicomweb", "url": url, "token": "env:VNA_TOKEN"}

    def found() -> Check:
        settings = Settings(destination=[destination])
        return next(each for each in examine(settings) if each.name == "destination vna")

    try:
        healthy = found()
        assert healthy.healthy
        assert healthy.message.endswith("credentials go there in the clear, use https")
        assert web.queries == ["/dicom-web/studies?limit=1"]
        web.query_status = 401
        refused = found()
        assert (refused.healthy, refused.message) == (
            False,
            f"{url} answers HTTP 401, credentials not accepted",
        )
    finally:
        web.stop()
    gone = found()
    assert not gone.healthy
    assert gone.message.endswith("cannot be reached: no connection")
    monkeypatch.delenv("VNA_TOKEN")
    assert "its token is not in the environment variable VNA_TOKEN" in found().message


def test_what_serve_will_make_is_no_fault(tmp_path: Path) -> None:
    share = DestinationSettings(name="share", kind="folder", folder=tmp_path / "new" / "share")
    settings = Settings(
        store=StoreSettings(
            url=f"sqlite:///{tmp_path / 'var' / 'qc.db'}", spool=tmp_path / "spool"
        ),
        destination=[share],
    )
    found = {each.name: each for each in examine(settings)}
    assert found["database"] == Check("database", True, "is not there yet; serve makes it")
    assert found["destination share"].healthy
    assert not any(tmp_path.iterdir())
    (tmp_path / "new").touch()
    found = {each.name: each for each in examine(settings)}
    assert "is not a writable folder" in found["destination share"].message


@pytest.mark.parametrize(("device", "healthy"), [("cpu", True), ("cuda:99", False)])
def test_a_device_that_is_not_here_is_told(device: str, healthy: bool) -> None:
    settings = Settings(score={"device": device})
    found = next(each for each in examine(settings) if each.name == "device")
    assert (found.healthy, device in found.message) == (healthy, True)
