"""Serves the pages over HTTP: uvicorn on a socket that the supervisor opened.

A client that sends its request slowly, or nothing, is cut off; uvicorn itself only limits how long
a connection may stay idle between two requests.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detector.console import UsageError
from qc_daemon.observe import log
from qc_daemon.settings.web import WebSettings

# Connections at once; more are answered 503. Threads that answer are fewer (anyio: 40).
_MAX_CONNECTIONS = 512
_MAX_HEADER_BYTES = 16_384
_KEEP_ALIVE_SECONDS = 20
_STOP_SECONDS = 5
_CERTIFICATE_SECONDS = 30.0  # Between two looks at whether the certificate was renewed.


def server_context(settings: WebSettings) -> ssl.SSLContext | None:
    """The TLS context of the settings; None without a certificate. Raises UsageError."""
    if settings.certificate is None or settings.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ValueError) as error:
        reason = error.strerror or error.__class__.__name__ if isinstance(error, OSError) else error
        raise UsageError(
            f"web: certificate or key cannot be used: {reason}; see {settings.certificate}"
        ) from None
    return context


class _Protocol(H11Protocol):
    """HTTP/1.1 in which a request has to arrive in time, header and body."""

    request_seconds = 20.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_whole:
            self._disarm()
        elif self._deadline is None:
            # The next request on a connection that was used before.
            self._arm()

    @property
    def _is_whole(self) -> bool:
        """Whether the request that is being answered has arrived."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def on_response_complete(self) -> None:
        self._disarm()
        super().on_response_complete()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.request_seconds, self._cut_off)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self) -> None:
        self._deadline = None
        if not self._is_whole:
            # abort: a client that does not read would not let us close.
            self.transport.abort()


class _Server(uvicorn.Server):
    """The role's own signals stop it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(app: Any, settings: WebSettings, listener: socket.socket, stop: threading.Event) -> None:
    """Answer requests until `stop`; those in progress then have a few seconds to end."""
    context = server_context(settings)

    class Protocol(_Protocol):
        request_seconds = settings.request_seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # The application reads them itself: what it does first depends on who connects.
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )
    server = _Server(config)

    def end() -> None:
        stop.wait()
        server.should_exit = True
        # Live boards would keep their connections for ever.
        app.state.context.board.close()

    threading.Thread(target=end, daemon=True).start()
    if context is not None:
        threading.Thread(
            target=_watch_certificate, args=(settings, context, stop), daemon=True
        ).start()
    server.run(sockets=[listener])


def _watch_certificate(
    settings: WebSettings, context: ssl.SSLContext, stop: threading.Event
) -> None:
    """Show a renewed certificate to new connections."""
    assert settings.certificate is not None
    assert settings.key is not None
    versions = _versions(settings.certificate, settings.key)
    while not stop.wait(_CERTIFICATE_SECONDS):
        current = _versions(settings.certificate, settings.key)
        if current == versions:
            continue
        try:
            # Tried apart first: a certificate without its key would leave the old one unusable.
            server_context(settings)
            context.load_cert_chain(settings.certificate, settings.key)
        except (UsageError, OSError, ValueError) as error:
            # Half renewed: the next look finds the other half.
            log.get(role="web").warning("certificate not loaded", error_type=type(error).__name__)
        else:
            versions = current
            log.get(role="web").info("certificate loaded")


def _versions(*paths: Path) -> tuple[int | None, ...]:
    versions: list[int | None] = []
    for path in paths:
        try:
            versions.append(path.stat().st_mtime_ns)
        except OSError:
            versions.append(None)
    return tuple(versions)
