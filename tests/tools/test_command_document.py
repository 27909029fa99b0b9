"""docs/commands.md is what the command line is, and documents name only commands that there are."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import training.cli
from qc_daemon.cli.app import app
from tests.support.environment import ROOT
from tools.command_document import DOCUMENT, commands, document

PROGRAMS = {"qc-daemon": app, "qc-model": training.cli.app}
COMMANDS = {
    name: command
    for program, application in PROGRAMS.items()
    for name, command in commands(typer.main.get_command(application), program)
}
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path != DOCUMENT),
]
HOWTO = ROOT / "docs" / "howto.md"


def typed_lines(text: str) -> list[str]:
    """The lines of code blocks that are a command of ours, without prompts, comments and pipes."""
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.startswith("    "):
            continue
        words = line.strip().removeprefix("sudo ").removeprefix(".venv/bin/")
        if words.split(" ")[0] in PROGRAMS:
            lines.append(re.split(r" > | \| |; ", words)[0])
    return lines


def parse(line: str) -> None:
    """Parse a line as its command would. Raises what click says of it."""
    words = shlex.split(line, comments=True)
    for length in range(len(words), 0, -1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            break
    else:
        raise AssertionError(f"no such command: {line}")
    try:
        COMMANDS[name].make_context(name, words[length:])
    except typer.BadParameter as error:
        # The files of the examples are not here.
        if "does not exist" not in str(error):
            raise


def test_the_document_is_up_to_date() -> None:
    """If not: `make commands`."""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_is_parsed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in typed_lines(path.read_text(encoding="utf-8")):
        if "…" not in line and "..." not in line and "<" not in line:
            try:
                parse(line)
            except Exception as error:
                raise AssertionError(f"{path.name}: {line}: {error}") from error


def test_the_guide_has_every_command_of_the_service() -> None:
    text = HOWTO.read_text(encoding="utf-8")
    missing = [
        name
        for name in COMMANDS
        if name.startswith("qc-daemon ")
        and not re.search(rf"\b{re.escape(name.removeprefix('qc-daemon '))}\b", text)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "line", ["qc-daemon queue lists", "qc-daemon queue list --sate dead", "qc-daemon peer approve"]
)
def test_a_command_that_does_not_exist_is_an_error(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017
        parse(line)
