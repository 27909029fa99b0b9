"""A DICOMweb service that is stored to by STOW-RS and answers as a test sets it."""

import json
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class StowRequest:
    """A request as it came: the parts of a multipart body."""

    path: str
    headers: dict[str, str]
    parts: tuple[bytes, ...]


def stored_response(uid: str) -> bytes:
    """Referenced SOP Sequence with the instance (PS3.18 10.5.3.2)."""
    return _response("00081199", {"00081155": {"vr": "UI", "Value": [uid]}})


def failed_response(uid: str, reason: int) -> bytes:
    """Failed SOP Sequence with the instance and its Failure Reason."""
    return _response(
        "00081198",
        {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}},
    )


def _response(tag: str, item: dict[str, Any]) -> bytes:
    return json.dumps({tag: {"vr": "SQ", "Value": [item]}}).encode()


@dataclass
class StowServer:
    """`status`, `body` and `headers` answer a POST.

    QIDO-RS finds the instances `queryable`, and answers with `query_status`. With `tls` it speaks
    HTTPS. `breaks_off` is called in place of an answer to a POST, after which the connection is
    closed.
    """

    status: int = 200
    query_status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    queryable: Sequence[str] = ()
    tls: ssl.SSLContext | None = None
    breaks_off: Callable[[], object] | None = None
    requests: list[StowRequest] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    _server: Any = None

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://localhost:{self._server.server_port}/dicom-web"

    def start(self) -> "StowServer":
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if web.breaks_off is not None:
                    self.rfile.read(10)
                    web.breaks_off()
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.requests.append(StowRequest(self.path, dict(self.headers), _parts(self, body)))
                self._answer(web.status, web.body, web.headers)

            def do_GET(self) -> None:
                web.queries.append(self.path)
                matches = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in web.queryable]
                self._answer(web.query_status, json.dumps(matches).encode(), {})

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/dicom+json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _parts(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[bytes, ...]:
    head = f"Content-Type: {handler.headers['Content-Type']}\r\n\r\n".encode()
    boundary = BytesParser().parsebytes(head).get_boundary()
    assert boundary is not None
    first, *parts, last = body.split(f"--{boundary}".encode())
    assert (first, last.strip()) == (b"", b"--")
    return tuple(part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts)
