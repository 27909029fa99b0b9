"""Messages to systemd: ready, how it is, still alive (sd_notify(3)); nothing without systemd."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Self

from qc_daemon.observe.metrics import Process

# `systemctl status` shows what was sent last.
_STATUS_SECONDS = 1.0
# The watchdog is answered this often in the time that it allows (sd_watchdog_enabled(3): twice).
_ANSWERS = 4


class SystemdNotifier:
    """Tells systemd of the service's state; the supervisor calls `update` on every round."""

    def __init__(
        self,
        address: str | None,
        watchdog_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._answer_seconds = watchdog_seconds / _ANSWERS if watchdog_seconds else None
        self._clock = clock
        self._is_ready = False
        self._status = ""
        self._status_due = self._answer_due = clock()

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The notifier of the unit that started this process.

        Its variables are taken out: the service's other processes are not to answer.
        """
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        seconds = int(microseconds) / 1e6 if microseconds.isdecimal() and is_ours else None
        return cls(address, seconds)

    def update(self, processes: Callable[[], Sequence[Process]]) -> None:
        """Answer the watchdog and tell the state where that is due."""
        if self._address is None:
            return
        now = self._clock()
        if self._answer_seconds is not None and now >= self._answer_due:
            self._answer_due = now + self._answer_seconds
            self._send("WATCHDOG=1")
        if now >= self._status_due:
            self._status_due = now + _STATUS_SECONDS
            self._tell_state(processes())

    def reloading(self) -> None:
        """The settings are being read again."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def reloaded(self) -> None:
        """The settings have been read again."""
        if self._is_ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _tell_state(self, processes: Sequence[Process]) -> None:
        """Tell how it is, and once that the start is over.

        A process that has failed is started again for as long as it takes: waiting for it, systemd
        would end those that work.
        """
        problems = list(dict.fromkeys(each.problem for each in processes if each.problem))
        status = "; ".join(problems) or f"{len(processes)} processes ready"
        if not self._is_ready and all(each.ready or each.reason for each in processes):
            self._is_ready = True
            self._send("READY=1")
        if status != self._status:
            self._status = status
            self._send("STATUS=" + " ".join(status.split()))

    def _send(self, *assignments: str) -> None:
        """Send a datagram; a systemd that does not take it is no reason to end."""
        if self._address is None:
            return
        # A name in the abstract namespace begins with @.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(errors="replace"), address)
