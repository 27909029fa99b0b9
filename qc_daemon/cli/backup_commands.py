"""The commands on scheduled backups: `backup list`, `backup create`, `backup verify`."""

from typing import Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list

backup = typer.Typer(
    no_args_is_help=True,
    help="Backups of database and spool that the service makes each night; db restore puts one"
    " back.",
)


@backup.command("list")
def backup_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List the backups, newest first: good or not, how large, when read back.

    Example: qc-daemon backup list --config qc-daemon.toml
    """
    from qc_daemon.operations.backups import COLUMNS, list_backups

    output_format = parse_format(format)
    rows = first_page(list_backups(load_settings(config)), limit, output_format)
    write_list("backups", rows, output_format, columns=COLUMNS)


@backup.command("create")
def backup_create(config: Config = None) -> None:
    """Make one now, as the service does each night: read it back, remove those that are not kept.

    Example: qc-daemon backup create --config qc-daemon.toml
    """
    from qc_daemon.operations.backups import describe, make_backup

    for line in describe(*make_backup(load_settings(config))):
        say(line)


@backup.command("verify")
def backup_verify(
    names: Annotated[list[str] | None, typer.Argument(help="As listed; without, all.")] = None,
    config: Config = None,
    format: Format = "table",
) -> None:
    """Read every file of backups back and compare it with what was saved; status 1 if any differs.

    Example: qc-daemon backup verify backup-20261130T030000Z
    """
    from qc_daemon.operations.backups import COLUMNS, verify_backups

    output_format = parse_format(format)
    rows = verify_backups(load_settings(config), names or [])
    write_list("backups", rows, output_format, columns=COLUMNS)
    if any(row["state"] != "good" for row in rows):
        raise typer.Exit(console.FAILED)
