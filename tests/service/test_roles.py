"""A role's process by itself: what it leaves when it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qc_daemon.observe.counters import SharedCounters

# A role that fails as told, in place of the real one.
PROGRAM = """
import sys
from detector.errors import ErrorCode, QCError
from qc_daemon.service import roles

def role(context, stop):
    if sys.argv[2] == "ready":
        roles._ready("schedule")
    if sys.argv[2] == "code":
        raise QCError(ErrorCode.STORAGE, "the disk is away")
    raise RuntimeError("no such driver\\nand more")

roles.ROLES["schedule"] = role
sys.exit(roles.main())
"""


# A role that waits for a peer, before or after it is ready.
WAITING_PROGRAM = """
import sys, threading, time
from qc_daemon.service import roles

def role(context, stop):
    if sys.argv[2] == "loading":
        print("loading", flush=True)
        time.sleep(3600)
    threading.Thread(target=time.sleep, args=(3600,)).start()
    roles._ready("schedule")
    print("ready", flush=True)
    stop.wait()

roles.ROLES["schedule"] = role
roles._exit(roles.main())
"""


def orders(tmp_path: Path, shared: SharedCounters, reason: int) -> dict[str, object]:
    """What the supervisor writes to a role's process."""
    return {
        "parent": os.getpid(),
        "settings": {"store": {"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": str(tmp_path)}},
        "counters": {"fd": shared.fd, "more": []},
        "row": 1,
        "listeners": {},
        "slots": None,
        "reason": reason,
    }


def ended(tmp_path: Path, how: str) -> tuple[int, str, list[dict[str, object]], float]:
    """Exit status, reason left, log lines and the ready gauge of a role that failed."""
    shared = SharedCounters.create()
    ours, theirs = os.pipe()
    process = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, "schedule", how],
        input=json.dumps(orders(tmp_path, shared, theirs)),
        capture_output=True,
        text=True,
        pass_fds=(shared.fd, theirs),
        timeout=60,
    )
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        reason = pipe.read()
    assert "Traceback" not in process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    return process.returncode, reason, lines, shared.get(1, "ready")


@pytest.mark.parametrize(
    ("how", "reason"),
    [("start", "RuntimeError: no such driver"), ("code", "the disk is away")],
)
def test_a_role_that_cannot_start_says_why(tmp_path: Path, how: str, reason: str) -> None:
    status, written, lines, ready = ended(tmp_path, how)
    assert (status, written, ready) == (1, reason, 0.0)
    (line,) = lines
    assert (line["event"], line["level"], line["reason"]) == ("failed", "critical", reason)


def test_a_crash_after_the_start_is_named_by_type_and_location_only(tmp_path: Path) -> None:
    """Its message may quote an object that it has read."""
    status, reason, lines, ready = ended(tmp_path, "ready")
    assert (status, ready) == (1, 1.0)
    assert reason.startswith("RuntimeError at ")
    assert [line["event"] for line in lines] == ["ready", "crashed"]
    assert "driver" not in reason + str(lines)


@pytest.mark.parametrize("how", ["loading", "ready"])
def test_a_stop_waits_for_no_load_and_no_thread(tmp_path: Path, how: str) -> None:
    """While it loads it holds no job; later a thread may still wait for a peer."""
    shared = SharedCounters.create()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", WAITING_PROGRAM, "schedule", how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(shared.fd,),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump(orders(tmp_path, shared, -1), process.stdin)
        process.stdin.close()
        assert process.stdout.readline() == f"{how}\n"
        process.terminate()
        assert process.wait(250) == 0
