"""The shell scripts: no fault by shellcheck; wrong usage is one line before anything changes."""

import subprocess
from pathlib import Path

import pytest

from tests.support.environment import ROOT

DEPLOY = ROOT / "deploy"
INSTALL = DEPLOY / "install.sh"
SCRIPTS = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
)


def install(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`install.sh` with arguments that it refuses, or that only ask for help."""
    return subprocess.run(
        ["sh", str(INSTALL), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_no_fault(script: Path) -> None:
    process = subprocess.run(
        ["shellcheck", str(script)], capture_output=True, text=True, timeout=120
    )
    assert process.stdout + process.stderr == ""


def test_scripts_are_found_and_a_fault_would_be(tmp_path: Path) -> None:
    assert {"install.sh", "qc-daemon", "system-tools.sh"} <= {path.name for path in SCRIPTS}
    script = tmp_path / "fault.sh"
    script.write_text("#!/bin/sh\nrm -rf $1/*\n")
    assert subprocess.run(["shellcheck", str(script)], capture_output=True).returncode == 1


def test_help_names_every_option() -> None:
    process = install("--help")
    assert process.returncode == 0
    options = {
        word.rstrip(")|")
        for line in INSTALL.read_text().splitlines()
        if line.startswith("    --") and ")" in line
        for word in line.split(")")[0].split("|")
        if word.strip().startswith("--")
    }
    assert len(options) > 15
    named = {option.strip() for option in options if option.strip() in process.stdout}
    # The package's own option is no user's.
    assert {option.strip() for option in options} - named == {"--from-package"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colour"], "unknown option --colour"),
        (["--role"], "--role needs a value"),
        (
            ["--role", "score"],
            "--role score: give one of receive work deliver schedule web, or all",
        ),
        (["--no-models"], "name the roles of this host"),
        (["--no-models", "--role", "all"], "the role work needs the models"),
        (["--no-models", "--role", "work"], "the role work needs the models"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--port", "70000"], "--port 70000: a port is 1 to 65535"),
        (["--port", "x"], "--port x: a port is 1 to 65535"),
        (["--web-port", "0"], "--web-port 0: a port is 1 to 65535"),
        (["--ae-title", 'A"\nx = 1'], "1 to 16 letters"),
        (["--ae-title", 'A"\nB'], "1 to 16 letters"),
        (["--ae-title", "A" * 17], "1 to 16 letters"),
        (["--host", 'a"b'], "give an address of this machine"),
        (["--peer", "VOLUSON1"], "give AE@ADDRESS"),
        (["--peer", "VOLUSON1@lab"], "give AE@ADDRESS"),
        (["--pacs", "PACS@10.1.0.5"], "give AE@HOST:PORT"),
        (["--pacs", "PACS@10.1.0.5:0"], "a port is 1 to 65535"),
        (["--database", "mysql://x"], "give sqlite:///PATH or postgresql+psycopg"),
        (["--language", "fr"], "give en, de or zh"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    process = install(*arguments)
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert message in line or message in process.stderr
