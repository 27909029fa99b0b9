"""The service as a subprocess: started from a settings file, watched through its log, killed."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qc_daemon.settings import ReceiveSettings
from tests.support.waiting import eventually

# The worker loads its models first, on cores that may be busy.
START_SECONDS = 600.0
# The default marks would judge the disk of the machine that runs the tests.
ROOMY = {f"QC_DAEMON_RECEIVE__PRESSURE__{mark}_FREE_MEGABYTES": "0" for mark in ("SOFT", "HARD")}


@dataclass
class Service:
    """`python -m qc_daemon serve` on a folder of its own."""

    folder: Path
    settings: str
    roles: tuple[str, ...] = ("receive", "deliver", "schedule")
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    working_directory: Path | None = None

    @property
    def config(self) -> Path:
        return self.folder / "qc.toml"

    @property
    def log_file(self) -> Path:
        return self.folder / f"log-{self.starts}.jsonl"

    def spawn(self) -> "Service":
        self.config.write_text(self.settings)
        self.starts += 1
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "qc_daemon", "serve", "--config", str(self.config)]
                + [argument for role in self.roles for argument in ("--role", role)],
                stderr=log,
                stdout=log,
                env=os.environ | ROOMY | self.environment,
                cwd=self.working_directory,
            )
        return self

    def start(self) -> "Service":
        """Spawn and wait until every role is ready."""
        self.spawn()
        eventually(lambda: len(self.events("ready")) >= self._processes(), START_SECONDS)
        return self

    def _processes(self) -> int:
        receive = tomllib.loads(self.settings).get("receive", {})
        receivers: int = ReceiveSettings(**receive).processes if "receive" in self.roles else 1
        return len(self.roles) - 1 + receivers

    def events(self, name: str) -> list[dict[str, Any]]:
        """This start's log lines of an event."""
        assert self.process is not None
        lines = [json.loads(line) for line in self._lines() if line.startswith("{")]
        matching = [line for line in lines if line["event"] == name]
        assert matching or self.process.poll() is None, self.log_file.read_text()
        return matching

    def _lines(self) -> list[str]:
        # A last line may be half written.
        return self.log_file.read_text().rpartition("\n")[0].splitlines()

    @property
    def port(self) -> int:
        port: int = eventually(lambda: self.events("listening"), START_SECONDS)[0]["port"]
        return port

    def pid(self, role: str) -> int:
        """The process that now plays the role."""
        ready = [line for line in self.events("ready") if line["role"] == role]
        pid: int = ready[-1]["pid"]
        return pid

    def process_dies(self, role: str) -> int:
        """kill -9 of one role's process; its successor may be long in coming."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_role(self, role: str) -> int:
        """kill -9 of one role's process; waits for its successor."""
        before = len([line for line in self.events("ready") if line["role"] == role])
        pid = self.process_dies(role)
        eventually(
            lambda: len([line for line in self.events("ready") if line["role"] == role]) > before,
            START_SECONDS,
        )
        return pid

    def kill(self) -> list[int]:
        """kill -9 of the supervisor; waits until its children are gone too."""
        assert self.process is not None
        pids = [line["pid"] for line in self.events("ready")]
        self.process.kill()
        self.process.wait()
        eventually(lambda: not any(running(pid) for pid in pids))
        return pids

    def end(self) -> None:
        """Kill what still runs, at the end of a test: a stop waits for associations and jobs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def stop(self) -> int:
        """SIGTERM and the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=90)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=START_SECONDS)


def running(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def pause(seconds: float) -> None:
    """Let something random happen meanwhile; nothing is expected to be done by then."""
    time.sleep(seconds)
