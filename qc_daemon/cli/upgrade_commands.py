"""The commands on a change of version: `upgrade`."""

from pathlib import Path
from typing import Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format
from qc_daemon.cli.output import parse_format, say, write_list

upgrade = typer.Typer(no_args_is_help=True, help="A new version: what it will do.")


@upgrade.callback()
def _group() -> None:
    """Have `check` be a command of its own, though it is the only one."""


@upgrade.command("check")
def check(
    config: Config = None,
    backups: Annotated[
        Path | None,
        typer.Option(
            help="Where the database will be saved, to look for room; else beside the database."
        ),
    ] = None,
    format: Format = "table",
) -> None:
    """Say what an upgrade to this version will do, and what has to be done before; change nothing.

    Run it by the new version while the old one runs: migrations to come, settings that are gone,
    whether the active bundle can be read, room for a backup, the queue, services that run other
    code. Status 1 if something has to be done first.

    Example: qc-daemon upgrade check --config qc-daemon.toml
    """
    from qc_daemon.operations.upgrade_check import examine_upgrade

    output_format = parse_format(format)
    is_ready, rows = True, []
    for each in examine_upgrade(config, backups):
        if output_format == "table":
            say(f"{each.word:4} {each.name}: {each.message}")
        rows.append({"check": each.name, "result": each.word, "message": each.message})
        is_ready = is_ready and each.is_healthy
    if output_format != "table":
        write_list("checks", rows, output_format)
    if not is_ready:
        raise typer.Exit(console.FAILED)
