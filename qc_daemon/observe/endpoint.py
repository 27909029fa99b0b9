"""`/metrics` for Prometheus, `/live` and `/ready` for whoever watches the service, over HTTP.

`/health` is what `/live` was called first; it stays.
"""

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from qc_daemon.observe import log
from qc_daemon.observe.metrics import Service

_REQUEST_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


class _Server(ThreadingHTTPServer):
    """Serves on when a connection or a thread cannot be had, without a traceback."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # The caller still waits: without a pause accept would be tried again at once.
            time.sleep(_PAUSE_SECONDS)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        log.get().debug("request failed", error_type=type(error).__name__)


def listen(host: str, port: int, service: Service) -> ThreadingHTTPServer:
    """Serve the metrics in a thread of their own. Raises OSError (in use, no such address)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(service)

    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS

        def do_GET(self) -> None:
            match self.path:
                case "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
                case "/live" | "/health":
                    self._answer(200 if service.alive else 503, b"alive\n" * service.alive)
                case "/ready":
                    reasons = service.unready()
                    answer = json.dumps({"ready": not reasons, "reasons": reasons}) + "\n"
                    status = 503 if reasons else 200
                    self._answer(status, answer.encode(), "application/json")
                case _:
                    self._answer(404, b"/metrics, /live or /ready\n")

        def _answer(
            self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8"
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a scrape is no event."""

    server = _Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
