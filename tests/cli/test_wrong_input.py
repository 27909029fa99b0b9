"""What a new user may type wrongly: one clear line and exit status 1 or 2, whatever the command.

What a bad DICOM file, bundle or setting leads to stands in test_errors.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector import console
from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.settings import load
from tests.support.databases import migrate

# The words of a command, the exit status and what its message has; names in capitals are files.
CASES: list[tuple[str, int, str]] = [
    ("demo --out FILE", 2, "no folder can be made there (file exists)"),
    ("demo --out FILE/below", 2, "no folder can be made there"),
    ("send FILE --to X", 2, "give AET@HOST:PORT"),
    ("send FILE --to A\\B@127.0.0.1:1", 2, "no backslash"),
    ("send FILE --to A@127.0.0.1:1 --calling A\\B", 2, "--calling A\\B: an AE title has"),
    ("send FILE --to A@127.0.0.1:1 --calling AVERYVERYLONGTITLE", 2, "an AE title has 1 to 16"),
    ("send FILE --to A@127.0.0.1:1 --tls --ca NONE", 2, "does not exist"),
    ("send PIPE --to A@127.0.0.1:1", 2, "is no file"),
    ("send NONE --to A@127.0.0.1:1", 2, "does not exist"),
    ("score FILE --language fr", 2, "--language fr: give one of"),
    ("score FILE --sr FILE", 2, "is a file"),
    ("score FILE --config NONE", 2, "does not exist"),
    ("summary --out EMPTY/page.txt --exam 1 CONFIG", 2, ".html or .pdf"),
    ("summary --out EMPTY/page.pdf CONFIG", 2, "--study or --exam"),
    ("summary --out EMPTY/page.pdf --exam 0 CONFIG", 2, "greater than or equal to 1"),
    ("exam find  CONFIG", 2, "give part of a patient ID"),
    ("exam close nothing CONFIG", 1, "see exam list"),
    ("peer add A --address x CONFIG", 2, "as 10.1.0.5 or 10.1.0.0/16"),
    ("peer approve A CONFIG", 1, "see peer list"),
    ("quarantine show 0 CONFIG", 2, "greater than or equal to 1"),
    ("queue retry 99999999999999999999 CONFIG", 2, "less than or equal to"),
    ("rules test PIPE CONFIG", 1, ""),
    ("rules test FILE --calling AVERYVERYLONGTITLE CONFIG", 2, "an AE title has 1 to 16"),
    ("destination retry none CONFIG", 1, "see destination list"),
    ("db downgrade 9999 CONFIG", 2, "cannot go back to 9999; give"),
    ("db downgrade CONFIG -- -99", 2, "cannot go back to -99; give"),
    ("db downgrade CONFIG -- +1", 2, "cannot go back to +1; give"),
    ("db backup NONE/copy.db CONFIG", 1, "no such file or directory"),
    ("db restore EMPTY CONFIG", 1, "no manifest.json"),
    ("db restore PIPE CONFIG", 1, "is no backup"),
    ("spool release CONFIG", 2, "or --all"),
    ("spool discard ../../x CONFIG", 1, "see spool list"),
    ("bundle show EMPTY", 1, "no readable bundle.json"),
    ("bundle show BROKEN", 1, "bundle.json is invalid"),
    ("bundle show BROKEN --format json", 1, "bundle.json is invalid"),
    ("bundle verify BROKEN", 1, "bundle.json is invalid"),
    ("bundle activate FILE CONFIG", 1, "see bundle list"),
    ("bundle build --out X --detector NONE --describer NONE --spatialclip NONE", 2, "exist"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    (folder / "FILE").write_text("hello\n")
    (folder / "EMPTY").mkdir()
    (folder / "BROKEN").mkdir()
    (folder / "BROKEN" / "bundle.json").write_text("{}")
    os.mkfifo(folder / "PIPE")
    (folder / "qc.toml").write_text("")
    migrate(load(folder / "qc.toml").store.url)
    return folder


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("words", "status", "message"), CASES, ids=[case[0] for case in CASES])
def test_it_ends_with_a_status_and_one_clear_line(
    words: str, status: int, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = {each.name for each in folder.iterdir()}
    arguments = []
    for word in words.split(" "):
        arguments += ["--config", "qc.toml"] if word == "CONFIG" else [word]
    result = CliRunner().invoke(app, arguments)
    error = result.exception
    if isinstance(error, UsageError | QCError):
        assert status == (2 if isinstance(error, UsageError) else 1)
        assert message in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        assert isinstance(error, SystemExit), (error, result.output)
        assert result.exit_code == status
        # Wrong options are shown in a box of a terminal's width.
        plain = "".join(letter for letter in result.output if letter not in "│╭╮╰╯─")
        assert message in " ".join(plain.split())
    # Nothing is left behind, nor made where the user has mistyped a folder.
    assert {each.name for each in folder.iterdir()} == before


@pytest.mark.parametrize("words", ["bundle show", "bundle list", "exam list --format csv"])
@pytest.mark.parametrize("reader", ["closed pipe", "closed output"])
def test_a_reader_that_has_gone_is_no_failure(reader: str, words: str, folder: Path) -> None:
    """As `| head` and `>&-` leave it."""
    start = "import sys; from qc_daemon.cli.app import main; main()"
    command = [sys.executable, "-P", "-c", start, *words.split(), "--config", "qc.toml"]
    read, write = os.pipe()
    os.close(read)
    try:
        process = subprocess.run(
            command if reader == "closed pipe" else ["sh", "-c", 'exec "$@" >&-', "sh", *command],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            cwd=folder,
        )
    finally:
        os.close(write)
    assert (process.returncode, process.stderr) == (0, "")


def test_an_error_of_the_operating_system_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any command, wherever it comes from."""

    def run() -> None:
        (tmp_path / "none").read_bytes()

    assert console.run(run) == console.FAILED
    assert capsys.readouterr().err == f"error: {tmp_path}/none: No such file or directory\n"
