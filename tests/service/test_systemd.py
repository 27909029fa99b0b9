"""What the service tells systemd, on a socket that stands for systemd's."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.observe.metrics import Process
from qc_daemon.service.systemd import SystemdNotifier
from tests.support.service import Service
from tests.support.waiting import eventually

READY = Process("receive", running=True, ready=True, restarts=0)
STARTING = Process("work", running=True, ready=False, restarts=0)
FAILED = Process("work", running=False, ready=False, restarts=3, reason="cuda: no such\ndevice")


class Systemd:
    """The socket of a unit: what was sent to it, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.setblocking(False)
        self.messages: list[str] = []

    def read(self) -> list[str]:
        """All that was sent until now."""
        while True:
            try:
                self.messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    def new(self) -> list[str]:
        """What was sent since the last call."""
        self.read()
        messages, self.messages = self.messages, []
        return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(str(tmp_path / "notify"))
    yield listener
    listener.close()


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_ready_once_every_process_is_ready(systemd: Systemd) -> None:
    clock = Clock()
    notifier = SystemdNotifier(systemd.address, clock=clock)
    notifier.update(lambda: [READY, STARTING])
    assert systemd.new() == ["STATUS=work is starting"]
    clock.now = 2.0
    notifier.update(lambda: [READY, READY])
    assert systemd.new() == ["READY=1", "STATUS=2 processes ready"]
    clock.now = 4.0
    notifier.update(lambda: [READY, READY])
    assert systemd.new() == []


def test_a_process_that_failed_does_not_keep_the_others_from_being_ready(systemd: Systemd) -> None:
    notifier = SystemdNotifier(systemd.address)
    notifier.update(lambda: [READY, FAILED])
    # One line, whatever the reason is made of: a line is an assignment.
    status = "STATUS=work is not running; the last one ended: cuda: no such device"
    assert systemd.new() == ["READY=1", status]


def test_the_watchdog_is_answered_in_time(systemd: Systemd) -> None:
    clock = Clock()
    notifier = SystemdNotifier(systemd.address, watchdog_seconds=20.0, clock=clock)
    answers = []
    for second in range(21):
        clock.now = float(second)
        notifier.update(lambda: [STARTING])
        answers.append("WATCHDOG=1" in systemd.new())
    moments = [second for second, is_answer in enumerate(answers) if is_answer]
    assert moments == [0, 5, 10, 15, 20]


def test_no_watchdog_no_answer(systemd: Systemd) -> None:
    notifier = SystemdNotifier(systemd.address)
    notifier.update(lambda: [READY])
    assert "WATCHDOG=1" not in systemd.new()


def test_an_abstract_address_and_the_unit_s_variables() -> None:
    systemd = Systemd(f"@qc-daemon-test-{os.getpid()}")
    environment = {
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": "4000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = SystemdNotifier.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    notifier.update(lambda: [READY])
    assert systemd.new() == ["WATCHDOG=1", "READY=1", "STATUS=1 processes ready"]
    systemd.close()


def test_another_process_s_watchdog_is_left_alone(systemd: Systemd) -> None:
    environment = {
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": "4000000",
        "WATCHDOG_PID": str(os.getpid() + 1),
    }
    SystemdNotifier.from_environment(environment).update(lambda: [READY])
    assert systemd.new() == ["READY=1", "STATUS=1 processes ready"]


def test_without_systemd_nothing_is_asked() -> None:
    def never() -> list[Process]:
        raise AssertionError

    notifier = SystemdNotifier.from_environment({})
    notifier.update(never)
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping()


def test_a_systemd_that_is_gone_ends_nothing(systemd: Systemd) -> None:
    systemd.close()
    SystemdNotifier(systemd.address).update(lambda: [READY])


def test_a_service_from_start_over_reload_to_stop(systemd: Systemd, tmp_path: Path) -> None:
    settings = '[store]\nurl = "sqlite:///qc.db"\nspool = "spool"\n'
    service = Service(tmp_path, settings, roles=("deliver",))
    service.environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "600000000"}
    try:
        service.start()
        eventually(lambda: "STATUS=1 processes ready" in systemd.read())
        # The deliverer, too, says that it is ready, but to its supervisor.
        assert systemd.read().count("READY=1") == 1
        assert "WATCHDOG=1" in systemd.new()
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: "READY=1" in systemd.read())
        reloading, *_ = systemd.new()
        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert service.stop() == 0
        assert systemd.read()[-1] == "STOPPING=1\nSTATUS=stopping"
    finally:
        service.end()
