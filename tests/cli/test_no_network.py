"""Nothing phones home: no address but loopback is looked up or connected to, in any process.

The service runs under the same guard in interop/, the demo in cli/test_demo.py, `score` in
operations/test_score_reports.py.
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import qc_model
from tests.support.socket_guard import SocketGuard

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def guard(tmp_path: Path) -> SocketGuard:
    return SocketGuard(tmp_path)


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "socket.getaddrinfo('example.org', 443)",
        "socket.gethostbyname('example.org')",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))",
        "socket.getaddrinfo('2001:db8::1', 80)",
    ],
)
def test_the_guard_sees_and_refuses(guard: SocketGuard, attempt: str) -> None:
    script = f"import socket\ntry:\n {attempt}\nexcept OSError as error: print(error)"
    # In a grandchild, with a parent that says nothing of the guard.
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    process = run(guard, outer)
    assert "the socket guard refuses" in process.stdout
    (line,) = guard.outside()
    assert "192.0.2.1" in line or "example.org" in line or "2001:db8::1" in line


def test_the_guard_lets_loopback_pass(guard: SocketGuard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('localhost', {port}), timeout=5)"
        process = run(guard, script)
    assert process.returncode == 0, process.stderr
    assert guard.outside() == []


def test_train(guard: SocketGuard, tmp_path: Path) -> None:
    environment = guard.environment
    phantoms = qc_model(
        "phantom", "--out", tmp_path / "ph", "--count", "4", environment=environment
    )
    assert phantoms.returncode == 0, phantoms.stderr
    what = ["--out", tmp_path / "run", "--samples", tmp_path / "ph" / "samples.json"]
    small = ["--size", "64", "--epochs", "1", "--batch", "1", "--held-out", "0.5"]
    trained = qc_model("train", "detector", *what, *small, environment=environment)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert len(guard.processes()) >= 2
    assert guard.outside() == []


def run(guard: SocketGuard, script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=guard.environment,
    )
