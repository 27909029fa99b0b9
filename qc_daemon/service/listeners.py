"""The listening sockets, opened before any process starts: callers wait for the successor of a
process that died instead of being refused."""

import socket
from pathlib import Path

from detector.console import UsageError
from qc_daemon.observe import log
from qc_daemon.receive import check_tls, listen
from qc_daemon.service.roles import PLAIN, TLS
from qc_daemon.settings import Settings

# The listening sockets by kind, PLAIN and TLS.
Listeners = dict[str, socket.socket]


def listen_dicom(settings: Settings, config_path: Path | None) -> Listeners:
    """Listen on the ports of the settings: a plain one, one for TLS, or both. Raises UsageError."""
    receive, tls = settings.receive, settings.receive.tls
    ports = {} if tls is not None and tls.only else {PLAIN: ("receive.port", receive.port)}
    if tls is not None:
        check_tls(tls)
        ports[TLS] = ("receive.tls.port", tls.port)
    listeners: Listeners = {}
    for kind, (setting, port) in ports.items():
        listeners[kind] = _open(receive.host, port, f"receive.host or {setting}", config_path)
        host, bound = listeners[kind].getsockname()[:2]
        log.get().info("listening", host=host, port=bound, ae_title=receive.ae_title, kind=kind)
    return listeners


def listen_hl7(settings: Settings, config_path: Path | None) -> socket.socket:
    """Listen on the port of HL7 messages. Raises UsageError, also for a certificate that cannot be
    used."""
    hl7 = settings.hl7
    assert hl7.port is not None
    if hl7.tls is not None:
        check_tls(hl7.tls, "hl7.tls")
    listener = _open(hl7.host, hl7.port, "hl7.host or hl7.port", config_path)
    host, bound = listener.getsockname()[:2]
    log.get().info("hl7 listening", host=host, port=bound)
    return listener


def listen_web(settings: Settings, config_path: Path | None) -> socket.socket:
    """Listen on the port of the pages. Raises UsageError, also for a certificate that cannot be
    used."""
    from qc_daemon.web.server import server_context

    web = settings.web
    assert web.port is not None
    server_context(web)
    listener = _open(web.host, web.port, "web.host or web.port", config_path)
    host, bound = listener.getsockname()[:2]
    log.get().info("pages", host=host, port=bound)
    return listener


def _open(host: str, port: int, settings: str, config_path: Path | None) -> socket.socket:
    """A listening socket. Raises UsageError, which names the settings to change."""
    try:
        return listen(host, port)
    except OSError as error:
        where = f" in {config_path}" if config_path else ""
        raise UsageError(
            f"cannot listen on {host}:{port}: {(error.strerror or 'error').lower()};"
            f" change {settings}{where}"
        ) from None
