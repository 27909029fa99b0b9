"""TLS on the receiver: who gets through the handshake, and certificates that are renewed."""

import contextlib
import io
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from detector.console import UsageError
from qc_daemon.dicom.association import associate
from qc_daemon.dicom.certificates import fingerprint
from qc_daemon.observe import counters, log
from qc_daemon.receive import Handshake, access, check_tls, listen, tls
from qc_daemon.records.received import peers
from qc_daemon.records.tables import Revision
from qc_daemon.settings import PeerSettings, TLSSettings
from tests.support.certificates import Authority, Pair
from tests.support.dicom_objects import US, ultrasound
from tests.support.peers import association, store
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki") / "hospital")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki") / "elsewhere")


@pytest.fixture(scope="module")
def modality(hospital: Authority) -> Pair:
    return hospital.issue("modality")


@dataclass
class Secured:
    """A receiver with a plain port and one for TLS, and the files of the latter."""

    receiver: RunningReceiver
    port: int
    own: Pair
    hospital: Authority
    log_stream: io.StringIO

    def client(self, pair: Pair | None, **limits: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.hospital.certificate)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        for name, value in limits.items():
            setattr(context, name, value)
        return context

    @contextlib.contextmanager
    def association(
        self, pair: Pair | None, calling: str = "MODALITY", **limits: Any
    ) -> Iterator[Any]:
        ae = AE(calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 60
        ae.add_requested_context(US, ExplicitVRLittleEndian)
        assoc = associate(
            ae,
            "127.0.0.1",
            self.port,
            ae_title="QCDAEMON",
            tls_args=(self.client(pair, **limits), "localhost"),
        )
        try:
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()

    def accepts(self, pair: Pair | None, **options: Any) -> bool:
        with self.association(pair, **options) as assoc:
            if not assoc.is_established:
                return False
            # The object is longer than a TLS record and than a PDU.
            return assoc.send_c_store(ultrasound(pixels=bytes(1 << 20))).Status == 0x0000

    def fingerprint_of_port(self) -> str:
        """The fingerprint of the certificate that a new connection is shown."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain,
            self.client(None).wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            der = secured.getpeercert(binary_form=True)
            assert der is not None
            return fingerprint(der)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log_stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


@pytest.fixture
def secure(
    start_receiver: Callable[..., RunningReceiver], hospital: Authority, tmp_path: Path
) -> Iterator[Callable[..., Secured]]:
    log_stream = io.StringIO()
    log.configure("debug", log_stream)

    def secure_(
        peer: list[PeerSettings] | None = None, patience: float = 10, **options: Any
    ) -> Secured:
        issued = hospital.issue("receiver")
        own = Pair(tmp_path / "own.pem", tmp_path / "own.key")
        own.install(issued)
        settings = TLSSettings(
            certificate=own.certificate, key=own.key, ca=hospital.certificate, **options
        )
        receiver = start_receiver(tls=settings, peer=peer or [], artim_timeout=patience)
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        receiver.scp.start(listener, Handshake(settings))
        return Secured(receiver, port, own, hospital, log_stream)

    yield secure_
    log.configure("critical")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_objects_come_over_both_versions(
    secure: Callable[..., Secured], modality: Pair, version: ssl.TLSVersion
) -> None:
    secured = secure()
    assert secured.accepts(modality, minimum_version=version, maximum_version=version)
    assert len(secured.receiver.rows(Revision)) == 1
    # The plain port beside it goes on.
    assert store(secured.receiver.port, ultrasound()) == [0x0000]


def test_without_a_good_certificate_nobody_comes_in(
    secure: Callable[..., Secured], hospital: Authority, elsewhere: Authority, modality: Pair
) -> None:
    secured = secure()
    refused = {
        "peer did not return a certificate": None,
        "certificate verify failed: unable to get local issuer certificate": elsewhere.issue("us"),
        "certificate verify failed: certificate has expired": hospital.issue("expired", days=-1),
    }
    for pair in refused.values():
        assert not secured.accepts(pair)
    eventually(lambda: len(secured.events("handshake failed")) == len(refused))
    assert {event["reason"] for event in secured.events("handshake failed")} == set(refused)
    assert {event["address"] for event in secured.events("handshake failed")} == {"127.0.0.1"}
    assert secured.receiver.nothing_recorded()
    assert secured.accepts(modality)


@pytest.mark.parametrize("mutual", ["optional", "none"])
def test_certificates_of_senders_may_be_left_out(
    secure: Callable[..., Secured], elsewhere: Authority, mutual: str
) -> None:
    secured = secure(mutual=mutual)
    assert secured.accepts(None)
    # One that is shown must be good all the same, where it is looked at.
    assert secured.accepts(elsewhere.issue("us")) is (mutual == "none")


def hello(secured: Secured, pair: Pair, **limits: Any) -> str:
    """The protocol version that a handshake ends with. Raises OSError where it fails."""
    context = secured.client(pair, **limits)
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        version = connection.version()
        assert version is not None
        return version


def test_old_versions_are_refused(secure: Callable[..., Secured], modality: Pair) -> None:
    secured = secure()
    context = secured.client(modality)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    # Without this our own side would not even offer it.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=60) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    assert hello(secured, modality) == "TLSv1.3"


def test_the_minimum_may_be_raised(secure: Callable[..., Secured], modality: Pair) -> None:
    secured = secure(minimum="1.3")
    with pytest.raises(OSError):
        hello(secured, modality, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert hello(secured, modality) == "TLSv1.3"


def test_only_forward_secret_authenticated_ciphers(
    secure: Callable[..., Secured], modality: Pair
) -> None:
    secured = secure()
    for suites, accepted in {
        "ECDHE-ECDSA-AES256-GCM-SHA384": True,
        "ECDHE-ECDSA-AES128-GCM-SHA256": True,
        "ECDHE-ECDSA-CHACHA20-POLY1305": True,
        "ECDHE-ECDSA-AES128-SHA256": False,
        "ECDHE-ECDSA-AES256-SHA": False,
    }.items():
        context = secured.client(modality, maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(suites)
        with socket.create_connection(("127.0.0.1", secured.port), timeout=60) as plain:
            try:
                context.wrap_socket(plain, server_hostname="localhost").close()
            except ssl.SSLError:
                assert not accepted, suites
            else:
                assert accepted, suites


def test_a_plain_caller_gets_nothing_on_the_port_for_tls(
    secure: Callable[..., Secured], modality: Pair
) -> None:
    secured = secure()
    with association(secured.port) as assoc:
        assert not assoc.is_established
    eventually(lambda: secured.events("handshake failed"))
    assert secured.accepts(modality)


def test_a_test_whether_the_port_for_tls_is_open_is_no_failed_handshake(
    secure: Callable[..., Secured], modality: Pair
) -> None:
    secured = secure()
    before = counters.shared().total("rejected_protocol")
    for _ in range(3):
        socket.create_connection(("127.0.0.1", secured.port), timeout=60).close()
    assert secured.accepts(modality)
    with association(secured.port) as assoc:
        assert not assoc.is_established
    eventually(lambda: secured.events("handshake failed"))
    assert len(secured.events("handshake failed")) == 1
    assert counters.shared().total("rejected_protocol") == before + 1


def test_who_is_slow_to_shake_hands_holds_up_nobody(
    secure: Callable[..., Secured], modality: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 2.0)
    secured = secure(patience=2.0)
    before = threading.active_count()
    with contextlib.ExitStack() as silent:
        connections = [
            silent.enter_context(socket.create_connection(("127.0.0.1", secured.port)))
            for _ in range(20)
        ]
        for connection in connections[::2]:
            # The beginning of a hello, and nothing more.
            connection.sendall(b"\x16\x03\x01")
        assert secured.accepts(modality)
        for connection in connections:
            connection.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    eventually(lambda: threading.active_count() <= before)


def test_a_renewed_certificate_counts_without_a_restart(
    secure: Callable[..., Secured], hospital: Authority, modality: Pair
) -> None:
    secured = secure()
    old = secured.fingerprint_of_port()
    renewed = hospital.issue("renewed")
    with secured.association(modality) as assoc:
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
        secured.own.install(renewed)
        assert secured.fingerprint_of_port() == renewed.fingerprint.replace(":", "").lower() != old
        # Who was there stays.
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
    assert secured.accepts(modality)


def test_another_authority_counts_without_a_restart(
    secure: Callable[..., Secured], elsewhere: Authority, modality: Pair, tmp_path: Path
) -> None:
    secured = secure()
    handshake = Handshake(
        TLSSettings(
            certificate=secured.own.certificate, key=secured.own.key, ca=tmp_path / "ca.pem"
        )
    )
    (tmp_path / "ca.pem").write_bytes(elsewhere.certificate.read_bytes())
    listener = listen("127.0.0.1", 0)
    secured.port = listener.getsockname()[1]
    secured.receiver.scp.start(listener, handshake)
    assert not secured.accepts(modality)
    (tmp_path / "ca.pem").write_bytes(secured.hospital.certificate.read_bytes() + b"\n")
    assert secured.accepts(modality)


def test_a_broken_renewal_is_logged_once_and_changes_nothing(
    secure: Callable[..., Secured], hospital: Authority, modality: Pair
) -> None:
    secured = secure()
    old = secured.fingerprint_of_port()
    renewed = hospital.issue("renewed")
    # The new certificate without its key: the moment in the middle of a renewal.
    secured.own.certificate.write_bytes(renewed.certificate.read_bytes())
    for _ in range(3):
        assert secured.fingerprint_of_port() == old
    assert secured.accepts(modality)
    assert len(secured.events("certificate not usable")) == 1
    secured.own.certificate.unlink()
    assert secured.fingerprint_of_port() == old
    secured.own.install(renewed)
    assert secured.fingerprint_of_port() != old


def test_a_receiver_with_a_broken_certificate_accepts_tls_once_it_is_fixed(
    secure: Callable[..., Secured], hospital: Authority, modality: Pair, tmp_path: Path
) -> None:
    secured = secure()
    pair = Pair(tmp_path / "late.pem", tmp_path / "late.key")
    settings = TLSSettings(
        certificate=pair.certificate, key=pair.key, ca=hospital.certificate, port=0
    )
    with pytest.raises(UsageError, match="does not exist"):
        check_tls(settings)
    listener = listen("127.0.0.1", 0)
    secured.port = listener.getsockname()[1]
    secured.receiver.scp.start(listener, Handshake(settings))
    assert not secured.accepts(modality)
    assert store(secured.receiver.port, ultrasound()) == [0x0000]
    pair.install(hospital.issue("late"))
    check_tls(settings)
    assert secured.accepts(modality)


def test_files_that_do_not_fit_are_one_clear_line(
    hospital: Authority, elsewhere: Authority, tmp_path: Path
) -> None:
    good, other = hospital.issue("good"), elsewhere.issue("other")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for certificate, key, ca in [
        (good.certificate, other.key, hospital.certificate),
        (rubbish, good.key, hospital.certificate),
        (good.certificate, rubbish, hospital.certificate),
        (good.certificate, good.key, rubbish),
    ]:
        with pytest.raises(UsageError, match="cannot be used") as caught:
            check_tls(TLSSettings(certificate=certificate, key=key, ca=ca))
        assert "\n" not in str(caught.value)


def test_a_bound_peer_comes_with_its_certificate_or_not_at_all(
    secure: Callable[..., Secured],
    hospital: Authority,
    modality: Pair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(access, "WRITE_SECONDS", 0)
    other = hospital.issue("other")
    secured = secure(peer=[PeerSettings(ae_title="BOUND", certificate=modality.fingerprint)])
    assert secured.accepts(modality, calling="BOUND")
    assert not secured.accepts(other, calling="BOUND")
    assert not secured.accepts(modality, calling="STRANGER")
    with association(secured.receiver.port, calling="BOUND") as assoc:
        assert assoc.is_rejected
    receiver = secured.receiver

    def refused() -> list[peers.RefusedCaller]:
        with receiver.store.read() as session:
            return peers.refused_callers(session)

    eventually(lambda: sum(caller.attempts for caller in refused()) == 3)
    certificates = {caller.ae_title: caller.certificate for caller in refused()}
    assert certificates == {
        "BOUND": other.fingerprint.replace(":", "").lower(),
        "STRANGER": modality.fingerprint.replace(":", "").lower(),
    }
    # The stranger is approved as it was seen: with the certificate it showed.
    with receiver.store.begin() as session:
        caller = next(
            each for each in peers.refused_callers(session) if each.ae_title == "STRANGER"
        )
        peers.approve(session, "STRANGER", caller.address, caller.certificate, caller.last_seen_at)
    assert secured.accepts(modality, calling="STRANGER")
    assert not secured.accepts(other, calling="STRANGER")


def test_a_revoked_certificate_is_refused(
    secure: Callable[..., Secured], hospital: Authority, modality: Pair
) -> None:
    """A list in the file of the authority counts from when it is there."""
    receiver = secure()
    stolen = hospital.issue("stolen")
    assert receiver.accepts(stolen)
    before = hospital.certificate.read_text()
    try:
        hospital.certificate.write_text(before + hospital.revocations(stolen))
        assert not receiver.accepts(stolen)
        assert receiver.accepts(modality)
    finally:
        hospital.certificate.write_text(before)
    (failed,) = receiver.events("handshake failed")
    assert failed["reason"] == "certificate verify failed: certificate revoked"
