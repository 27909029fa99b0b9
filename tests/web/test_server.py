"""The server itself: slow clients are cut off, it stops, and a renewed certificate is shown."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detector.console import UsageError
from qc_daemon.settings.web import WebSettings
from qc_daemon.web.server import run, server_context
from tests.support.certificates import Authority
from tests.support.web_site import WebSite

REQUEST = b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@contextmanager
def serving(site: WebSite, settings: WebSettings) -> Iterator[int]:
    """The port of the pages, served in a thread."""
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()
    port = listener.getsockname()[1]
    thread = threading.Thread(target=run, args=(site.app, settings, listener, stop))
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def answer_of(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    content = b""
    while block := connection.recv(65536):
        content += block
    return content


def test_a_page_is_served_and_the_server_says_nothing_of_itself(site: WebSite) -> None:
    with (
        serving(site, site.exam.settings.web) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(REQUEST + b"Connection: close\r\n\r\n")
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"uvicorn" not in answer
    assert b"content-security-policy: default-src 'none'" in answer.lower()


def is_cut_off(connection: socket.socket, more: bytes) -> bool:
    """Whether the server ends the connection although `more` comes now and then."""
    connection.settimeout(0.05)
    for _ in range(600):
        try:
            connection.sendall(more)
            if connection.recv(65536) == b"":
                return True
        except TimeoutError:
            time.sleep(0.01)
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    "start",
    [
        b"",
        REQUEST,
        b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nname",
    ],
)
def test_who_does_not_finish_a_request_is_cut_off(site: WebSite, start: bytes) -> None:
    settings = site.exam.settings.web.model_copy(update={"request_seconds": 0.5})
    with serving(site, settings) as port:
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(start)
            assert is_cut_off(slow, b"x" if start else b"")
        with socket.create_connection(("127.0.0.1", port)) as other:
            other.sendall(REQUEST + b"Connection: close\r\n\r\n")
            assert answer_of(other).startswith(b"HTTP/1.1 200")


def test_a_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("empty.pem", "missing.pem"):
        file = tmp_path / name
        with pytest.raises(UsageError, match="certificate or key cannot be used"):
            server_context(WebSettings(certificate=file, key=file))
    assert server_context(WebSettings()) is None


def test_pages_are_served_over_tls(site: WebSite, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    identity = authority.issue("localhost")
    settings = site.exam.settings.web.model_copy(
        update={"certificate": identity.certificate, "key": identity.key}
    )
    trust = ssl.create_default_context(cafile=str(authority.certificate))
    trust.check_hostname = False
    with (
        serving(site, settings) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(REQUEST + b"Connection: close\r\n\r\n")
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"strict-transport-security" in answer.lower()
