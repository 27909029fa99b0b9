"""The commands on what is stored: `db`, and `spool` for files without a row."""

from pathlib import Path
from typing import Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format, Limit, first_page
from qc_daemon.cli.output import parse_format, say, write_list
from qc_daemon.settings import load

db = typer.Typer(no_args_is_help=True, help="The database: migrate, check, back up.")
spool = typer.Typer(no_args_is_help=True, help="Received files that the database does not know.")


@db.command("upgrade")
def db_upgrade(config: Config = None) -> None:
    """Bring the database to this version's tables."""
    from qc_daemon.records import schema

    schema.upgrade(load(config).store.url)
    say("the database is up to date")


@db.command("downgrade")
def db_downgrade(
    revision: str,
    config: Config = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="A PostgreSQL database is saved already.")
    ] = False,
) -> None:
    """Take the database back to an earlier revision; a SQLite one is copied before.

    What later tables hold is lost. Stop the service first. Example: qc-daemon db downgrade -- -1
    """

    from qc_daemon.operations.database import downgrade

    for line in downgrade(load(config), revision, yes=yes):
        say(line)


@db.command("check")
def db_check(
    config: Config = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look at everything, however large it is.")
    ] = False,
) -> None:
    """Say whether the database has this version's tables and is sound."""
    from qc_daemon.operations.database import check

    say(check(load(config), full=full))


@db.command("backup")
def db_backup(
    target: Annotated[Path, typer.Argument(help="A new file, or with --with-spool a new folder.")],
    config: Config = None,
    with_spool: Annotated[
        bool, typer.Option("--with-spool", help="Save the received objects with it, in a folder.")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard links for received objects, on the same disk.")
    ] = False,
) -> None:
    """Save the database while it is in use, by itself or with the spool.

    Example: qc-daemon db backup /backup/2026-11-29 --with-spool
    """
    if not with_spool:
        from qc_daemon.records import schema

        if link:
            raise console.UsageError("--link is for received objects; add --with-spool")
        schema.backup(load(config).store.url, target)
        say(f"{target}: written, the database alone; --with-spool saves received objects with it")
        return
    from qc_daemon.operations.database import save_all

    lines, complete = save_all(load(config), target, link=link)
    for line in lines:
        say(line)
    if not complete:
        raise typer.Exit(console.FAILED)


@db.command("restore")
def db_restore(
    source: Annotated[Path, typer.Argument(help="A backup's folder, or a database's copy.")],
    config: Config = None,
    release: Annotated[
        bool, typer.Option("--release", help="Take in what came after the backup.")
    ] = False,
) -> None:
    """Put a backup in place of the database, and received objects back that the spool lacks.

    Stop the service first. The old database is moved aside; nothing is deleted.

    Example: qc-daemon db restore /backup/2026-11-29
    """
    from qc_daemon.operations.database import restore_all

    lines, complete = restore_all(load(config), source, release=release)
    for line in lines:
        say(line)
    if not complete:
        raise typer.Exit(console.FAILED)


@spool.command("list")
def spool_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List files in the spool that no row knows: a kill came between file and row."""
    from qc_daemon.operations.spool import ORPHAN_COLUMNS, list_orphans

    chosen = parse_format(format)
    rows = first_page(list_orphans(load(config)), limit, chosen)
    write_list("files without a row", rows, chosen, columns=ORPHAN_COLUMNS)


@spool.command("release")
def spool_release(
    sha256: Annotated[list[str] | None, typer.Argument(help="As listed.")] = None,
    config: Config = None,
    all: Annotated[bool, typer.Option("--all", help="All that are listed.")] = False,
) -> None:
    """Take such files in as if they had been received now.

    Example, after a backup was restored: qc-daemon spool release --all
    """
    from qc_daemon.operations.spool import orphan_hashes, release_orphans

    if all == bool(sha256):
        raise console.UsageError("give either SHA-256 values as listed, or --all")
    settings = load(config)
    names = orphan_hashes(settings) if all else sha256 or []
    say(f"{release_orphans(settings, names)} objects are taken in")


@spool.command("discard")
def spool_discard(
    sha256: Annotated[list[str], typer.Argument(help="As listed.")], config: Config = None
) -> None:
    """Delete such files for good."""
    from qc_daemon.operations.spool import discard_orphans

    say(f"{discard_orphans(load(config), sha256)} files are deleted")
