"""A process of the least priority that the role `schedule` starts for nightly work."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from qc_daemon.observe import log
from qc_daemon.settings import Settings

_PRIORITY = 10
_END_SECONDS = 10.0


class NightProcess:
    """`python -m MODULE`, which gets the settings on standard input and ends with this process."""

    def __init__(self, module: str, settings: Settings) -> None:
        self._module, self._settings = module, settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_working(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it."""
        orders = {"parent": os.getpid(), "settings": self._settings.model_dump(mode="json")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(orders).encode())

    def end(self) -> None:
        """End it if it still runs; what it was at is taken up another time."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def take_orders() -> Settings:
    """In such a process: the settings, with log, priority and signals as they have to be."""
    from qc_daemon.service.roles import exit_with_parent
    from qc_daemon.spool import private_files

    orders = json.load(sys.stdin)
    exit_with_parent(orders["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_PRIORITY)
    private_files.set_umask()
    log.configure()
    log.quiet_libraries()
    log.quiet_crashes()
    settings = Settings(**orders["settings"])
    log.configure_service(settings.observe.log_level)
    return settings
