"""The command lines as a user types them, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Completed = subprocess.CompletedProcess[str]
SECONDS = 280


def qc_daemon(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Completed:
    """`qc-daemon ARGUMENTS`."""
    return _python(("-m", "qc_daemon", *map(str, arguments)), environment)


def qc_model(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Completed:
    """`qc-model ARGUMENTS`."""
    start = "import sys; from training.cli import main; sys.argv[0] = 'qc-model'; main()"
    return _python(("-c", start, *map(str, arguments)), environment)


def _python(arguments: tuple[str, ...], environment: Mapping[str, str] | None) -> Completed:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | dict(environment or {}),
    )
