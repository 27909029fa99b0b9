"""Opening associations over TLS: whom we trust, what we show, what is told where it fails."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.cli.app import app
from qc_daemon.cli.send import send
from qc_daemon.dicom.tls import tls_args
from qc_daemon.settings import ClientTLSSettings, DestinationSettings, SettingsError, load
from tests.support.certificates import Authority, Pair
from tests.support.dicom_objects import US, ultrasound, write


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki") / "hospital")


@pytest.fixture(scope="module")
def ours(hospital: Authority) -> Pair:
    return hospital.issue("qc-daemon")


Start = Callable[..., int]


@pytest.fixture
def pacs(hospital: Authority) -> Iterator[Start]:
    """A PACS that asks for a certificate; its port."""
    servers = []

    def start(pair: Pair, **limits: object) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        context.load_verify_locations(hospital.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        for name, value in limits.items():
            setattr(context, name, value)
        ae = AE("PACS")
        ae.add_supported_context(US)
        server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            ssl_context=context,
            evt_handlers=[(evt.EVT_C_STORE, lambda _event: 0x0000)],
        )
        servers.append(server)
        port: int = server.server_address[1]
        return port

    yield start
    for server in servers:
        server.shutdown()


def sent(tmp_path: Path, port: int, tls: ClientTLSSettings | None, host: str = "127.0.0.1") -> bool:
    paths = write(tmp_path, ultrasound())
    return send(paths, f"PACS@{host}:{port}", timeout=20, tls=tls).stored == paths


def test_both_sides_show_their_certificate(
    tmp_path: Path, pacs: Start, hospital: Authority, ours: Pair
) -> None:
    port = pacs(hospital.issue("pacs"))
    credentials = {"certificate": ours.certificate, "key": ours.key}
    assert sent(tmp_path, port, ClientTLSSettings(ca=hospital.certificate, **credentials))
    # Without ours, without trust in theirs, and without TLS.
    assert not sent(tmp_path, port, ClientTLSSettings(ca=hospital.certificate))
    assert not sent(tmp_path, port, ClientTLSSettings(**credentials))
    assert not sent(tmp_path, port, None)


def test_the_name_in_the_certificate_counts(
    tmp_path: Path, pacs: Start, hospital: Authority, ours: Pair
) -> None:
    port = pacs(hospital.issue("pacs"))
    tls = ClientTLSSettings(ca=hospital.certificate, certificate=ours.certificate, key=ours.key)
    assert not sent(tmp_path, port, tls.model_copy(update={"server_name": "pacs.example"}))
    assert sent(tmp_path, port, tls.model_copy(update={"server_name": "localhost"}))


def test_an_expired_certificate_is_not_trusted(
    tmp_path: Path, pacs: Start, hospital: Authority, ours: Pair
) -> None:
    tls = ClientTLSSettings(ca=hospital.certificate, certificate=ours.certificate, key=ours.key)
    assert not sent(tmp_path, pacs(hospital.issue("old", days=-1)), tls)


def test_no_older_version_than_the_minimum(
    tmp_path: Path, pacs: Start, hospital: Authority, ours: Pair
) -> None:
    port = pacs(hospital.issue("pacs"), maximum_version=ssl.TLSVersion.TLSv1_2)
    tls = ClientTLSSettings(ca=hospital.certificate, certificate=ours.certificate, key=ours.key)
    assert sent(tmp_path, port, tls)
    assert not sent(tmp_path, port, tls.model_copy(update={"minimum": "1.3"}))


def test_unusable_files_are_named_in_one_line(tmp_path: Path) -> None:
    destination = DestinationSettings(name="pacs", tls=ClientTLSSettings(ca=tmp_path / "none.pem"))
    with pytest.raises(QCError, match="destination pacs: its tls files cannot be used") as caught:
        tls_args(destination)
    assert caught.value.code is ErrorCode.DELIVERY_UNREACHABLE
    assert tls_args(DestinationSettings(name="pacs")) is None


def test_settings_of_a_destination(tmp_path: Path) -> None:
    path = tmp_path / "qc.toml"
    path.write_text('[[destination]]\nname = "pacs"\ntls = {ca = "pki/ca.pem"}\n')
    (destination,) = load(path).destination
    assert destination.tls == ClientTLSSettings(ca=tmp_path / "pki" / "ca.pem")
    path.write_text('[[destination]]\nname = "pacs"\ntls = {certificate = "own.pem"}\n')
    with pytest.raises(SettingsError, match="go together"):
        load(path)


def test_the_command_line(tmp_path: Path, pacs: Start, hospital: Authority, ours: Pair) -> None:
    port = pacs(hospital.issue("pacs"))
    (path,) = write(tmp_path, ultrasound())
    to = ["send", str(path), "--to", f"PACS@127.0.0.1:{port}"]
    files = ["--ca", hospital.certificate, "--cert", ours.certificate, "--key", ours.key]
    result = CliRunner().invoke(app, [*to, "--tls", *map(str, files)])
    assert result.exit_code == 0, result.output
    authority, own = str(hospital.certificate), str(ours.certificate)
    for wrong in (["--ca", authority], ["--tls", "--cert", own]):
        assert isinstance(CliRunner().invoke(app, [*to, *wrong]).exception, UsageError)
