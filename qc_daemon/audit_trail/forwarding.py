"""Sends each record of this machine's chain to the servers of the settings, in order.

The chain is the queue: a file `sent-NAME` beside it has the number of the last record that a server
has, and what follows waits, however long the server is away. A batch that may or may not have
arrived is sent again: the server may get a record twice, by its number, and none never.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qc_daemon.audit_trail.chain import FormError, read_head
from qc_daemon.audit_trail.event import AuditSource
from qc_daemon.audit_trail.message import make_message
from qc_daemon.audit_trail.recorder import chain_folder, source_of
from qc_daemon.audit_trail.syslog import SyslogError, SyslogTransport, make_syslog, transport_to
from qc_daemon.audit_trail.verification import read_records
from qc_daemon.observe import log
from qc_daemon.settings import Settings
from qc_daemon.settings.observe import AuditServerSettings
from qc_daemon.spool import private_files

BATCH = 100
POLL_SECONDS = 1.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class ForwardingState:
    """How far a server is: the last record it has, and how many wait for it."""

    sent: int
    waiting: int


def read_state(folder: Path, server: str) -> ForwardingState | None:
    """How far a server is; None before the service has begun to send to it. Raises OSError."""
    sent = _read_sent(folder, server)
    if sent is None:
        return None
    return ForwardingState(sent, max(0, _last(folder) - sent))


def begin(settings: Settings) -> None:
    """Note for servers that are new where the log ends now: what is recorded from here on is sent
    to them. Raises OSError."""
    folder = chain_folder(settings)
    private_files.make_folder(folder)
    for server in settings.audit_log.server:
        if _read_sent(folder, server.name) is None:
            _write_sent(folder, server.name, _last(folder))


class Forwarder:
    """Sends to one server, in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        source: AuditSource,
        server: AuditServerSettings,
        transport: SyslogTransport | None = None,
    ) -> None:
        self.folder, self.source, self.server = folder, source, server
        self._transport = transport or transport_to(server)
        self._log = log.get(role="supervisor")
        self._is_failing = False

    def run(self, stop: threading.Event) -> None:
        """Send what waits and what comes, until `stop`. One process of a machine does it."""
        wait = 0.0
        while not stop.wait(wait):
            with self._turn() as is_ours:
                wait = 0.0 if is_ours else LONGEST_RETRY_SECONDS
                while is_ours and not stop.wait(wait):
                    wait = self._step(wait)
        self._transport.close()

    def _step(self, last_wait: float) -> float:
        """Send one batch; the seconds until the next."""
        try:
            count = self.send_batch()
        except SyslogError as error:
            if not self._is_failing:
                self._log.warning(
                    "audit messages not sent",
                    destination=self.server.name,
                    host=self.server.host,
                    port=self.server.port,
                    reason=str(error),
                )
            self._is_failing = True
            return min(max(2 * last_wait, FIRST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)
        except OSError as error:
            reason = (error.strerror or "error").lower()
            self._log.error("audit messages not sent", destination=self.server.name, reason=reason)
            return LONGEST_RETRY_SECONDS
        if self._is_failing and count:
            self._log.info("audit messages sent again", destination=self.server.name)
            self._is_failing = False
        return 0.0 if count == BATCH else POLL_SECONDS

    def send_batch(self) -> int:
        """Send the next records; returns how many. Raises SyslogError, OSError."""
        sent = _read_sent(self.folder, self.server.name) or 0
        if _last(self.folder) <= sent:
            return 0
        batch = list(islice(read_records(self.folder, sent), BATCH))
        if not batch:
            return 0
        messages = []
        for link, body in batch:
            # A record that no message can be made of was tampered with, which `verify` tells.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                messages.append(
                    make_syslog(
                        make_message(self.source, body),
                        at=body["at"],
                        host=self.source.host,
                        sequence=link.sequence,
                        is_success=body["success"],
                    )
                )
        self._transport.send(messages)
        _write_sent(self.folder, self.server.name, batch[-1][0].sequence)
        return len(batch)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether no other process of this machine sends to the server meanwhile."""
        try:
            fd = os.open(
                self.folder / f"sent-{self.server.name}",
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
                private_files.FILE_MODE,
            )
        except OSError:
            yield False
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        else:
            yield True
        finally:
            os.close(fd)


def start(settings: Settings, stop: threading.Event) -> list[threading.Thread]:
    """Begin to send to every server of the settings, until `stop`."""
    folder, source = chain_folder(settings), source_of(settings)
    threads = [
        threading.Thread(target=Forwarder(folder, source, server).run, args=(stop,), daemon=True)
        for server in settings.audit_log.server
    ]
    for thread in threads:
        thread.start()
    return threads


def _last(folder: Path) -> int:
    try:
        head = read_head(folder)
    except FormError:
        return 0
    return 0 if head is None else head.sequence


def _read_sent(folder: Path, server: str) -> int | None:
    try:
        text = (folder / f"sent-{server}").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() else None


def _write_sent(folder: Path, server: str, sequence: int) -> None:
    """In place, so that the lock on the file goes on; a crash before it costs a second sending."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(folder / f"sent-{server}", flags, private_files.FILE_MODE)
    try:
        os.pwrite(fd, f"{sequence:020d}\n".encode(), 0)
    finally:
        os.close(fd)
