"""docs/commands.md, made from the command line itself.

`python -m tools.command_document` writes it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import training.cli
from qc_daemon.cli.app import app

DOCUMENT = Path(__file__).parent.parent / "docs" / "commands.md"

_HEAD = """# Commands

Made from the command line by `make commands`; a test holds the two equal. What to do when:
[how-to](howto.md). The service's settings file is `--config FILE` (`-c`) or `QC_DAEMON_CONFIG`.
Exit status: 0 done, 1 the work failed, 2 wrong usage or settings.
"""


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that can be run, by its words, with what it is to click."""
    members = getattr(command, "commands", None)
    if members is None or command.invoke_without_command:
        yield name, command
    for member, each in (members or {}).items():
        yield from commands(each, f"{name} {member}")


def document() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, program in (("qc-daemon", app), ("qc-model", training.cli.app)):
        every = list(commands(typer.main.get_command(program), title))
        groups: dict[str, list[tuple[str, Any]]] = {}
        for name, command in every:
            words = name.split()
            groups.setdefault(" ".join(words[:2]), []).append((name, command))
        parts += [_section(name, members) for name, members in sorted(groups.items())]
    return "\n".join(parts)


def _section(name: str, members: list[tuple[str, Any]]) -> str:
    lines = [f"## `{name}`", ""]
    for command_name, command in members:
        if command_name != name:
            lines += [f"### `{command_name}`", ""]
        lines += _description(command)
        rows = list(_parameters(command))
        if rows:
            lines += ["| option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _description(command: Any) -> Iterator[str]:
    """Paragraphs of the help; examples as code."""
    for paragraph in re.split(r"\n\s*\n", str(command.help or "").strip()):
        text = " ".join(paragraph.replace("\b", "").split()).replace("\\[", "[")
        line = re.sub(r"^Examples?:\s*", "", text)
        is_code = line != text or re.match(r"qc-(daemon|model) [a-z-]+ ", line)
        if line:
            yield f"    {line}" if is_code else _plain(line)
            yield ""


def _parameters(command: Any) -> Iterator[str]:
    for each in command.params:
        if "--help" in each.opts or getattr(each, "hidden", False):
            continue
        is_argument = each.param_type_name == "argument"
        name = each.name.upper() if is_argument else ", ".join((*each.opts, *each.secondary_opts))
        needed = " *needed*" if each.required else ""
        text = " ".join(str(each.help or "").split()).replace("\\[", "[")
        yield f"| `{name}`{needed} | {_plain(text)} |"


def _plain(text: str) -> str:
    """Text of a help page as Markdown: nothing in it is markup."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)


def main() -> None:
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
