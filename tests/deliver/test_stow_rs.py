"""STOW-RS: what goes out, who we are, and what each answer means."""

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.deliver.stow_rs import StowRS
from qc_daemon.deliver.transport import ClassRefusedError, OutgoingObject
from qc_daemon.settings import DestinationSettings
from tests.support.certificates import Authority
from tests.support.dicom_objects import part10, ultrasound
from tests.support.ports import reserve_port
from tests.support.stow_server import StowServer, failed_response, stored_response

RETRY, QUARANTINE, ALARM = FailureClass.RETRY, FailureClass.QUARANTINE, FailureClass.ALARM
UID = "1.2.3.4"


@pytest.fixture
def server() -> Iterator[StowServer]:
    stow_server = StowServer().start()
    yield stow_server
    stow_server.stop()


def outgoing(payload: bytes = b"the file") -> OutgoingObject:
    return OutgoingObject(
        "1.2.840.10008.5.1.4.1.1.6.1", UID, "1.2.840.10008.1.2.1", UID, payload=payload
    )


def destination(url: str, **values: Any) -> DestinationSettings:
    return DestinationSettings(name="vna", kind="dicomweb", url=url, timeout=20, **values)


def result(server: StowServer, sent: OutgoingObject | None = None, **values: Any) -> QCError | None:
    transport = StowRS(destination(server.url, **values))
    try:
        transport.send(sent or outgoing())
    except QCError as error:
        return error
    finally:
        transport.close()
    return None


def test_file_is_sent_byte_for_byte(server: StowServer, tmp_path: Path) -> None:
    server.body = stored_response(UID)
    content = part10(ultrasound(pixels=bytes(1 << 21), Rows=1024, Columns=2048))
    file = tmp_path / "stored.dcm"
    file.write_bytes(content)
    sent = OutgoingObject("1", UID, "1.2.840.10008.1.2.1", UID, path=file)
    assert result(server, sent) is None
    (request,) = server.requests
    assert request.parts == (content,)
    assert request.path == "/dicom-web/studies"
    assert request.headers["Content-Type"].startswith('multipart/related; type="application/dicom"')
    assert request.headers["Accept"] == "application/dicom+json"
    assert "Transfer-Encoding" not in request.headers
    assert "Authorization" not in request.headers
    assert not server.queries


ANSWERS: list[tuple[int, bytes, FailureClass | None]] = [
    (200, stored_response(UID), None),
    (202, stored_response(UID), None),
    (409, failed_response(UID, 0x0111), None),
    (409, failed_response(UID, 0xB00E), None),
    (202, failed_response(UID, 0xA700), ALARM),
    (409, failed_response(UID, 0x0110), RETRY),
    (409, failed_response(UID, 0x0124), ALARM),
    (409, failed_response(UID, 0xA900), QUARANTINE),
    (409, failed_response(UID, 0xC122), QUARANTINE),
    (409, failed_response(UID, 0x0122), QUARANTINE),
    (200, failed_response(UID, 0x0122), QUARANTINE),
    # It does not tell of our object, and does not find it either.
    (200, b"", ALARM),
    (204, b"", ALARM),
    (200, b"<html>", ALARM),
    (200, json.dumps([1]).encode(), ALARM),
    (202, failed_response("1.2.9", 0xC000), ALARM),
    (202, b'{"00081198": {"Value": [{"00081155": {"Value": ["1.2.3.4"]}}]}}', ALARM),
    (301, b"", ALARM),
    (308, b"", ALARM),
    (400, b"", QUARANTINE),
    (401, b"", ALARM),
    (403, b"", ALARM),
    (404, b"", ALARM),
    (405, b"", ALARM),
    (406, b"", ALARM),
    (407, b"", ALARM),
    (408, b"", ALARM),
    (409, b"", QUARANTINE),
    (413, b"", QUARANTINE),
    (415, b"", QUARANTINE),
    (422, b"", QUARANTINE),
    (429, b"", ALARM),
    (500, b"", RETRY),
    (501, b"", ALARM),
    (502, b"", ALARM),
    (503, b"", ALARM),
    (504, b"", ALARM),
    (507, b"", ALARM),
]


@pytest.mark.parametrize(("status", "body", "failure_class"), ANSWERS)
def test_each_answer_has_its_class(
    server: StowServer, status: int, body: bytes, failure_class: FailureClass | None
) -> None:
    server.status, server.body, server.headers = status, body, {"Location": "/elsewhere"}
    error = result(server)
    assert (None if error is None else error.failure_class) is failure_class
    assert len(server.requests) == 1
    class_refused = status == 415 or b'"Value": [290]' in body
    assert isinstance(error, ClassRefusedError) == class_refused


def test_object_missing_from_the_answer_is_queried(server: StowServer) -> None:
    server.queryable = [UID]
    assert result(server) is None
    assert server.queries == [f"/dicom-web/instances?SOPInstanceUID={UID}&limit=1"]


def test_the_bearer_token_of_the_environment(
    server: StowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VNA_TOKEN", "c2VjcmV0")
    server.body = stored_response(UID)
    assert result(server, token="env:VNA_TOKEN") is None
    assert server.requests[0].headers["Authorization"] == "Bearer c2VjcmV0"


def test_corrected_password_is_used_for_the_next_object(server: StowServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    server.status = 401
    transport = StowRS(destination(server.url, user="qc", password=f"file:{file}"))
    with pytest.raises(QCError, match="its password is not in the file") as missing:
        transport.send(outgoing())
    assert missing.value.failure_class is ALARM
    file.write_text("wrong\n")
    with pytest.raises(QCError, match="HTTP 401, credentials not accepted") as wrong:
        transport.send(outgoing())
    assert "wrong" not in wrong.value.message
    file.write_text("s\xe9same\n")
    server.status, server.body = 200, stored_response(UID)
    transport.send(outgoing())
    transport.close()
    # "qc:sésame" in base 64.
    assert server.requests[-1].headers["Authorization"] == "Basic cWM6c8Opc2FtZQ=="


def test_proxy_of_the_environment_is_ignored(
    server: StowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{reserve_port()}")
    server.body = stored_response(UID)
    assert result(server) is None


def test_closed_port_is_unreachable() -> None:
    transport = StowRS(destination(f"http://127.0.0.1:{reserve_port()}/web"))
    with pytest.raises(QCError, match="vna cannot be reached: connection refused") as error:
        transport.send(outgoing())
    assert error.value.code is ErrorCode.DELIVERY_UNREACHABLE


BIG = outgoing(bytes(1 << 24))


def test_a_service_that_breaks_off_at_an_object_and_answers_others_is_not_unreachable(
    server: StowServer,
) -> None:
    server.breaks_off = lambda: None
    for sent in (outgoing(), BIG):
        error = result(server, sent)
        assert error is not None
        assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_ABORTED, RETRY)
        assert error.message == (
            "destination vna broke off the connection during the POST, but answers another"
            " request: the object may be the cause"
        )
    server.query_status = 401
    error = result(server)
    assert error is not None
    assert error.code is ErrorCode.DELIVERY_ABORTED


def test_a_service_that_never_answers_an_object_and_answers_others_is_not_unreachable(
    server: StowServer,
) -> None:
    over = threading.Event()
    server.breaks_off = lambda: over.wait(60)
    transport = StowRS(destination(server.url).model_copy(update={"timeout": 1.0}))
    with pytest.raises(QCError, match="vna did not answer the POST in time, but") as caught:
        transport.send(outgoing())
    over.set()
    transport.close()
    assert caught.value.code is ErrorCode.DELIVERY_ABORTED


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_service_that_is_away_behind_its_proxy_is_unreachable(
    server: StowServer, status: int
) -> None:
    server.breaks_off, server.query_status = lambda: None, status
    error = result(server)
    assert error is not None
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


def test_a_service_that_goes_away_during_an_object_is_unreachable(server: StowServer) -> None:
    server.breaks_off = server.stop
    error = result(server)
    assert error is not None
    assert (error.code, error.failure_class) == (ErrorCode.DELIVERY_UNREACHABLE, ALARM)


def test_missing_spool_file_is_an_alarm(server: StowServer, tmp_path: Path) -> None:
    error = result(server, OutgoingObject("1", UID, "1.2", UID, path=tmp_path / "gone.dcm"))
    assert error is not None
    assert error.code is ErrorCode.SPOOL_MISSING


class TestTLS:
    """HTTPS with a hospital's own authority and a client certificate."""

    @pytest.fixture
    def hospital(self, tmp_path: Path) -> Authority:
        return Authority.make(tmp_path / "hospital")

    @pytest.fixture
    def secure(self, hospital: Authority) -> Iterator[StowServer]:
        own = hospital.issue("vna")
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(hospital.certificate)
        )
        context.load_cert_chain(own.certificate, own.key)
        context.verify_mode = ssl.CERT_REQUIRED
        stow_server = StowServer(body=stored_response(UID), tls=context).start()
        yield stow_server
        stow_server.stop()

    def test_each_side_shows_its_certificate(self, secure: StowServer, hospital: Authority) -> None:
        ours = hospital.issue("qc")
        tls = {"ca": hospital.certificate, "certificate": ours.certificate, "key": ours.key}
        assert result(secure, tls=tls) is None
        assert result(secure, tls=tls | {"server_name": "127.0.0.1"}) is None

    def test_no_certificate_of_ours(self, secure: StowServer, hospital: Authority) -> None:
        error = result(secure, tls={"ca": hospital.certificate})
        assert error is not None
        assert error.code is ErrorCode.DELIVERY_UNREACHABLE
        assert not secure.requests

    def test_an_authority_that_is_not_ours(self, secure: StowServer, tmp_path: Path) -> None:
        stranger = Authority.make(tmp_path / "stranger")
        for tls in ({"ca": stranger.certificate}, {}, None):
            error = result(secure, tls=tls)
            assert error is not None
            assert "authority that we do not know; name it as ca" in error.message

    def test_a_name_that_is_not_in_its_certificate(
        self, secure: StowServer, hospital: Authority
    ) -> None:
        error = result(secure, tls={"ca": hospital.certificate, "server_name": "other.example"})
        assert error is not None
        assert "its certificate is for another name" in error.message

    def test_files_that_cannot_be_used(self, secure: StowServer, tmp_path: Path) -> None:
        error = result(secure, tls={"ca": tmp_path / "none.pem"})
        assert error is not None
        assert "its tls files cannot be used" in error.message
