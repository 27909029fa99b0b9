"""The command lines as a user types them: in a process of their own, or in that of the test.

A Python of its own costs seconds: it is for what only a process shows (its children, its imports,
its standard streams). What a command says and its exit status are the same here.
"""

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import structlog

import training.cli
from qc_daemon.cli import app

Completed = subprocess.CompletedProcess[str]
SECONDS = 280


def qc_daemon(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Completed:
    """`qc-daemon ARGUMENTS`."""
    return _python(("-m", "qc_daemon", *map(str, arguments)), environment)


def qc_model(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Completed:
    """`qc-model ARGUMENTS`."""
    start = "import sys; from training.cli import main; sys.argv[0] = 'qc-model'; main()"
    return _python(("-c", start, *map(str, arguments)), environment)


def qc_daemon_here(*arguments: str | Path) -> Completed:
    """`qc-daemon ARGUMENTS` in this process."""
    return _here(app.main, ("qc-daemon", *map(str, arguments)))


def qc_model_here(*arguments: object) -> Completed:
    """`qc-model ARGUMENTS` in this process."""
    return _here(training.cli.main, ("qc-model", *map(str, arguments)))


def _here(main: Callable[[], None], line: tuple[str, ...]) -> Completed:
    """Run `main`; what it changes of the process is afterwards as before.

    Fixtures of a module or session run commands too, before a test's own fixtures.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status: object = None
    logging, mask = structlog.get_config(), os.umask(0o022)
    with (
        patch.object(sys, "argv", list(line)),
        patch.dict(os.environ),
        warnings.catch_warnings(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            structlog.configure(**logging)
            os.umask(mask)
    assert isinstance(status, int), "a command ends with its status"
    texts = [each.buffer.getvalue().decode() for each in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(list(line), status, *texts)


def _python(arguments: tuple[str, ...], environment: Mapping[str, str] | None) -> Completed:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | dict(environment or {}),
    )
