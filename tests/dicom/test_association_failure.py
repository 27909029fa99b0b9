"""Why an association is not established is said in words that tell what to fix."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pynetdicom import AE

from qc_daemon.dicom.association import associate
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.tls import CertificateFileError, client_context, load_certificate, reason
from qc_daemon.settings import ClientTLSSettings
from tests.support.certificates import Authority
from tests.support.ports import reserve_port

VERIFICATION = "1.2.840.10008.1.1"


def why(port: int, *, host: str = "127.0.0.1", called: str = "PACS", **tls: object) -> str:
    ae = AE("US1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 3
    ae.add_requested_context(VERIFICATION)
    args = (client_context(ClientTLSSettings(**tls)), "localhost") if tls else None
    assoc = associate(ae, host, port, ae_title=called, tls_args=args)
    assert not assoc.is_established
    return cause(assoc, host, port, args)


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Something that is no DICOM service: what it does with each connection is the test's."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@contextlib.contextmanager
def pacs(ssl_context: ssl.SSLContext | None = None, **options: object) -> Iterator[int]:
    ae = AE("PACS")
    ae.add_supported_context(VERIFICATION)
    for name, value in options.items():
        setattr(ae, name, value)
    server = ae.start_server(("127.0.0.1", 0), block=False, ssl_context=ssl_context)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def test_nothing_listens() -> None:
    assert why(reserve_port()) == "connection refused: nothing listens at the port"


def test_no_such_host() -> None:
    """A name server that is away is a peer that is away, not a fault of ours."""
    assert why(104, host="no-such-host.invalid") == "no such host"


def test_a_name_that_has_an_address_again() -> None:
    ae = AE("US1")
    ae.add_requested_context(VERIFICATION)
    assoc = associate(ae, "no-such-host.invalid", 104)
    with pacs() as port:
        assert "has one now" in cause(assoc, "127.0.0.1", port)


def test_a_web_server_is_not_dicom() -> None:
    def http(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with listening(http) as port:
        assert why(port) == "what answers at the port is not DICOM"


def test_a_port_that_says_nothing_or_hangs_up() -> None:
    with listening(lambda connection: connection.close()) as port:
        assert why(port).startswith("it closes the connection without an answer")
    with listening(lambda connection: threading.Event().wait(2)) as port:
        assert "without an answer" in why(port) or "in time" in why(port)


def test_rejections_have_their_reason() -> None:
    with pacs(require_called_aet=True) as port:
        assert "the AE title that it was called by" in why(port, called="OTHER")
    with pacs(require_calling_aet=["US9"]) as port:
        assert "does not know our AE title" in why(port)


def test_tls_failures_are_distinguished(tmp_path: Path) -> None:
    hospital = Authority.make(tmp_path / "hospital")
    other = Authority.make(tmp_path / "other")

    def server(days: int = 9, *, asks: bool = False) -> ssl.SSLContext:
        pair = hospital.issue("pacs", days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        if asks:
            context.load_verify_locations(hospital.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    with pacs(server()) as port:
        assert "an authority that we do not know" in why(port, ca=other.certificate)
        assert "set tls" in why(port)
    with pacs(server(-1)) as port:
        assert "has expired" in why(port, ca=hospital.certificate)
    with pacs(server(asks=True)) as port:
        # Its alert may be lost when it hangs up at once.
        assert "a certificate of ours" in why(port, ca=hospital.certificate)
    with pacs() as port:
        assert "TLS" in why(port, ca=hospital.certificate)


def test_a_name_that_the_certificate_has_not(tmp_path: Path) -> None:
    hospital = Authority.make(tmp_path / "hospital")
    pair = hospital.issue("pacs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    ae = AE("US1")
    ae.add_requested_context(VERIFICATION)
    with pacs(context) as port:
        args = (client_context(ClientTLSSettings(ca=hospital.certificate)), "pacs.example")
        assoc = associate(ae, "127.0.0.1", port, tls_args=args)
        assert "for another name" in cause(assoc, "127.0.0.1", port, args)


def test_certificate_and_key_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    pair = Authority.make(tmp_path / "hospital").issue("ours")
    other = Authority.make(tmp_path / "other").issue("theirs")
    empty = tmp_path / "empty.pem"
    empty.touch()
    for certificate, key, message in (
        (pair.key, pair.certificate, "swapped"),
        (empty, pair.key, "empty.pem holds no certificate"),
        (pair.certificate, empty, "empty.pem holds no private key"),
        (pair.certificate, other.key, "key values mismatch"),
    ):
        with pytest.raises(CertificateFileError) as caught:
            load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
        assert message in reason(caught.value)
