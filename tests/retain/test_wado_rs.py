"""An object that a DICOMweb service gives back, and what else it may answer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import ErrorCode, QCError
from qc_daemon.retain.retrieve import ObjectToRetrieve
from qc_daemon.retain.wado_rs import first_part, get
from qc_daemon.settings import DestinationSettings

TARGET = ObjectToRetrieve("1.2", "1.3", "1.4", "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.1.2.1")
FILE = b"\0" * 128 + b"DICM" + bytes(range(256)) * 8
TYPE = 'multipart/related; type="application/dicom"; boundary="x-y"'
BODY = b"--x-y\r\nContent-Type: application/dicom\r\n\r\n" + FILE + b"\r\n--x-y--\r\n"


@contextmanager
def service(*answers: tuple[int, str, bytes]) -> Iterator[tuple[DestinationSettings, list[str]]]:
    """A service that gives these answers one after the other; the requests' Accept headers."""
    accepts: list[str] = []
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accepts.append(f"{self.path} {self.headers['Accept']}")
            status, content_type, body = waiting.pop(0)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/dicom-web"
        yield DestinationSettings(name="pacs", kind="dicomweb", url=url, timeout=10), accepts
    finally:
        server.shutdown()
        server.server_close()


def test_the_bytes_are_those_that_were_stored() -> None:
    with service((200, TYPE, BODY)) as (destination, accepts):
        assert get(destination, TARGET) == FILE
    assert accepts[0].startswith("/dicom-web/studies/1.2/series/1.3/instances/1.4 ")
    assert "transfer-syntax=*" in accepts[0]


def test_a_service_without_multipart_and_without_the_wildcard_is_understood() -> None:
    with service((406, "text/plain", b""), (200, "application/dicom", FILE)) as (each, accepts):
        assert get(each, TARGET) == FILE
    assert "transfer-syntax" not in accepts[1]


@pytest.mark.parametrize("status", [404, 410])
def test_what_it_does_not_have_is_none(status: int) -> None:
    with service((status, "text/plain", b"")) as (destination, _):
        assert get(destination, TARGET) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((401, "text/plain", b""), "answered HTTP 401"),
        ((302, "text/html", b""), "answered HTTP 302"),
        ((503, "text/plain", b""), "answered HTTP 503"),
        ((200, "text/html", b"<html>"), "did not give a DICOM file"),
        ((200, TYPE, BODY[:-9]), "did not give a DICOM file"),
        ((200, TYPE, b""), "did not give a DICOM file"),
    ],
)
def test_whatever_else_it_answers_it_is_asked_again(
    answer: tuple[int, str, bytes], why: str
) -> None:
    with service(answer) as (destination, _), pytest.raises(QCError, match=why) as failure:
        get(destination, TARGET)
    assert failure.value.code is ErrorCode.DELIVERY_UNREACHABLE


def test_one_that_is_away_is_unreachable() -> None:
    with service() as (destination, _):
        pass
    with pytest.raises(QCError, match="destination pacs cannot be asked for an object") as failure:
        get(destination, TARGET)
    assert failure.value.code is ErrorCode.DELIVERY_UNREACHABLE


@given(content=st.binary(max_size=300), preamble=st.binary(max_size=20))
def test_a_part_is_found_whatever_bytes_it_has(content: bytes, preamble: bytes) -> None:
    boundary = b"b7c1d2"
    body = (
        preamble + b"--" + boundary + b"\r\nA: b\r\n\r\n" + content + b"\r\n--" + boundary + b"--"
    )
    found = first_part(body, f"Multipart/Related; boundary={boundary.decode()}")
    # Boundaries are chosen so that no content has them.
    if b"--" + boundary not in content + preamble:
        assert found == content


@given(st.binary(max_size=200), st.text(max_size=60))
def test_any_answer_is_a_part_or_none(body: bytes, content_type: str) -> None:
    found = first_part(body, content_type)
    assert found is None or found in body
