"""DCMTK's storescu over TLS against the service: right, wrong, expired and no certificate."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority, Pair
from tests.support.command_line import qc_daemon
from tests.support.dicom_objects import ultrasound, write
from tests.support.environment import require
from tests.support.peers import association
from tests.support.service import Service
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
[receive.tls]
certificate = "pki/own.pem"
key = "pki/own.key"
ca = "pki/ca.pem"
port = {port}
only = {only}
"""


@pytest.fixture(scope="module")
def storescu() -> str:
    program = shutil.which("storescu")
    require(program is not None, "storescu (DCMTK)")
    assert program is not None
    return program


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki") / "hospital")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, hospital: Authority) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "pki").mkdir()
    shutil.copy(hospital.certificate, folder / "pki" / "ca.pem")
    own(folder).install(hospital.issue("receiver"))
    service = Service(folder, SETTINGS.format(port=0, only="false"), roles=("receive",))
    yield service.start()
    assert service.stop() == 0


def own(folder: Path) -> Pair:
    return Pair(folder / "pki" / "own.pem", folder / "pki" / "own.key")


def port(service: Service, kind: str) -> int:
    (line,) = [event for event in service.events("listening") if event["kind"] == kind]
    number: int = line["port"]
    return number


class Modality:
    """storescu with a certificate, or without."""

    def __init__(self, program: str, service: Service, hospital: Authority, folder: Path) -> None:
        self.command = [program, "-v", "-aec", "QCDAEMON", "-aet", "MODALITY", "-to", "60"]
        self.address = ["127.0.0.1", str(port(service, "tls"))]
        self.authority = hospital
        self.folder = folder

    def store(self, pair: Pair | None, *options: str) -> subprocess.CompletedProcess[str]:
        secured = ["+tla"] if pair is None else ["+tls", str(pair.key), str(pair.certificate)]
        trusted = ["+cf", str(self.authority.certificate)]
        (path,) = write(self.folder, ultrasound(pixels=bytes(1 << 20)))
        return subprocess.run(
            [*self.command, *secured, *trusted, *options, *self.address, str(path)],
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def modality(storescu: str, service: Service, hospital: Authority, tmp_path: Path) -> Modality:
    return Modality(storescu, service, hospital, tmp_path / "objects")


def stored(service: Service) -> int:
    return len(service.events("object stored"))


# Non-downgrading BCP 195 (PS3.15 B.10), BCP 195 (B.9) and its extended form (B.11).
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_the_right_certificate(
    modality: Modality, service: Service, hospital: Authority, profile: str
) -> None:
    before = stored(service)
    sender_process = modality.store(hospital.issue("us"), profile)
    assert sender_process.returncode == 0, sender_process.stderr
    eventually(lambda: stored(service) == before + 1)


def test_a_certificate_of_another_authority(
    modality: Modality, service: Service, tmp_path: Path
) -> None:
    before = stored(service)
    elsewhere = Authority.make(tmp_path / "elsewhere")
    assert modality.store(elsewhere.issue("us")).returncode != 0
    eventually(
        lambda: any(
            "unable to get local issuer" in event["reason"]
            for event in service.events("handshake failed")
        )
    )
    assert stored(service) == before


def test_an_expired_certificate(modality: Modality, service: Service, hospital: Authority) -> None:
    before = stored(service)
    assert modality.store(hospital.issue("old", days=-1)).returncode != 0
    eventually(
        lambda: any(
            "has expired" in event["reason"] for event in service.events("handshake failed")
        )
    )
    assert stored(service) == before


def test_no_certificate(modality: Modality, service: Service) -> None:
    before = stored(service)
    assert modality.store(None).returncode != 0
    eventually(
        lambda: any(
            "did not return a certificate" in event["reason"]
            for event in service.events("handshake failed")
        )
    )
    assert stored(service) == before


def test_our_own_sender(service: Service, hospital: Authority, tmp_path: Path) -> None:
    write(tmp_path / "exam", ultrasound())
    pair = hospital.issue("us")
    to = f"QCDAEMON@localhost:{port(service, 'tls')}"
    files = ["--ca", hospital.certificate, "--cert", pair.certificate, "--key", pair.key]
    sender_process = qc_daemon("send", tmp_path / "exam", "--to", to, "--tls", *files)
    assert sender_process.returncode == 0, sender_process.stderr
    assert qc_daemon("send", tmp_path / "exam", "--to", to, "--tls", *files[:2]).returncode == 1


def test_a_plain_caller_is_served_beside(service: Service) -> None:
    with association(port(service, "plain")) as peer:
        assert peer.send_c_store(ultrasound()).Status == 0x0000


def test_a_retired_profile_finds_no_cipher_of_ours(
    modality: Modality, service: Service, hospital: Authority
) -> None:
    before = stored(service)
    sender_process = modality.store(
        hospital.issue("us"), "+pa", "+cs", "TLS_RSA_WITH_AES_128_CBC_SHA"
    )
    assert sender_process.returncode != 0
    assert stored(service) == before


def test_renewed_while_an_association_runs(
    modality: Modality, service: Service, hospital: Authority
) -> None:
    sender = hospital.issue("us")
    with association(port(service, "plain")) as open_one:
        assert open_one.send_c_store(ultrasound()).Status == 0x0000
        renewed = Authority.make(hospital.folder / "renewed")
        # The sender trusts only the new authority: it stores if, and only if, it is shown the
        # new certificate.
        modality.authority = renewed
        assert modality.store(sender).returncode != 0
        own(service.folder).install(renewed.issue("receiver"))
        sender_process = modality.store(sender)
        assert sender_process.returncode == 0, sender_process.stderr
        assert open_one.send_c_store(ultrasound()).Status == 0x0000
    assert not service.events("process died")


def test_without_a_plain_port(storescu: str, hospital: Authority, tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    shutil.copy(hospital.certificate, tmp_path / "pki" / "ca.pem")
    own(tmp_path).install(hospital.issue("receiver", days=20))
    settings = SETTINGS.format(port=0, only="true")
    service = Service(tmp_path, settings, roles=("receive",)).start()
    try:
        assert [event["kind"] for event in service.events("listening")] == ["tls"]
        # Warned of in its last month.
        assert len(service.events("certificate expires soon")) == 1
        modality = Modality(storescu, service, hospital, tmp_path / "objects")
        assert modality.store(hospital.issue("us")).returncode == 0
    finally:
        assert service.stop() == 0


def test_files_that_cannot_be_used_stop_the_start(hospital: Authority, tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    shutil.copy(hospital.certificate, tmp_path / "pki" / "ca.pem")
    service = Service(tmp_path, SETTINGS.format(port=0, only="false"), ("receive",))
    assert service.spawn().wait() == 2
    assert "receive.tls.certificate" in service.log_file.read_text()
