"""The commands on what is stored: `db`, and `spool` for received files."""

from pathlib import Path
from typing import Annotated

import typer

from detector import console
from detector.plain_text import count_of
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list, write_record

db = typer.Typer(no_args_is_help=True, help="The database: migrate, check, back up.")
spool = typer.Typer(
    no_args_is_help=True, help="Received files: are they whole, does the database know them."
)


@db.command("upgrade")
def db_upgrade(config: Config = None) -> None:
    """Bring the database to this version's tables, or make it if it is not there.

    Example: qc-daemon db upgrade --config qc-daemon.toml
    """
    from qc_daemon.operations.database import upgrade

    say(upgrade(load_settings(config)))


@db.command("downgrade")
def db_downgrade(
    revision: Annotated[
        str, typer.Argument(help="Such as 0012, or -1 (one step) after --; base: no tables.")
    ],
    config: Config = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="A PostgreSQL database is saved already.")
    ] = False,
) -> None:
    """Take the database back to an earlier revision; a SQLite one is copied before.

    What later tables hold is lost. Stop the service first.

    Example: qc-daemon db downgrade --config qc-daemon.toml -- -1
    """
    from qc_daemon.operations.database import downgrade

    for line in downgrade(load_settings(config), revision, yes=yes):
        say(line)


@db.command("check")
def db_check(
    config: Config = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look at everything, however large it is.")
    ] = False,
) -> None:
    """Say whether the database has this version's tables and is sound.

    Example: qc-daemon db check --full --config qc-daemon.toml
    """
    from qc_daemon.operations.database import check

    say(check(load_settings(config), full=full))


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
        schema.backup(load_settings(config).store.url, target)
        say(f"{target}: written, the database alone; --with-spool saves received objects with it")
        return
    from qc_daemon.operations.database import save_all

    lines, complete = save_all(load_settings(config), target, link=link)
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
    format: Annotated[
        str, typer.Option("--format", help="table (lines of text) or json (one object).")
    ] = "table",
) -> None:
    """Put a backup in place of the database, and received objects back that the spool lacks.

    Stop the service first. The old database is moved aside; nothing is deleted. What came after
    the backup is listed: objects, and what people decided, with the commands that repeat it. All
    decisions are also written to decisions.json in the folder before_restore_… beside the database
    (of PostgreSQL: in the spool).

    Example: qc-daemon db restore /backup/2026-11-29
    """
    from qc_daemon.operations.database import describe_restore, restore_all, restore_record

    output_format = parse_format(format, ("table", "json"))
    result = restore_all(load_settings(config), source, release=release)
    if output_format == "json":
        write_record(restore_record(result), output_format)
    else:
        for line in describe_restore(result):
            say(line)
    if not result.is_complete:
        raise typer.Exit(console.FAILED)


@spool.command("check")
def spool_check(
    config: Config = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every file: a size alone shows no altered bytes.")
    ] = False,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List received objects whose file is missing or damaged, and what to do; status 1 if any is.

    Only sizes are compared, unless --full reads the files: that finds altered bytes too, as the
    scrub does at night.

    Example: qc-daemon spool check --full
    """
    from qc_daemon.operations.spool import (
        FAULT_ADVICE,
        FAULT_COLUMNS,
        FAULT_TABLE,
        SIZES_ONLY,
        list_faulty_files,
    )

    output_format = parse_format(format)
    rows = list_faulty_files(load_settings(config), full=full)
    page = first_page(rows, limit, output_format)
    columns = FAULT_TABLE if output_format == "table" else FAULT_COLUMNS
    # Without reading them nobody knows whether files are undamaged.
    noun = "missing or damaged files" if full else "missing files, none of another size"
    write_list(
        noun if not rows else "missing or damaged files", page, output_format, columns=columns
    )
    if not full:
        # Programs read stdout: there a note would be a broken row.
        typer.echo(SIZES_ONLY, err=output_format != "table")
    if not rows:
        return
    if output_format == "table":
        for line in FAULT_ADVICE:
            say(line)
    raise typer.Exit(console.FAILED)


@spool.command("list")
def spool_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List files that the database does not know: a service was killed before it recorded them.

    Example: qc-daemon spool list --config qc-daemon.toml
    """
    from qc_daemon.operations.spool import ORPHAN_COLUMNS, list_orphans

    output_format = parse_format(format)
    rows = first_page(list_orphans(load_settings(config)), limit, output_format)
    write_list("files without a row", rows, output_format, columns=ORPHAN_COLUMNS)


@spool.command("release")
def spool_release(
    sha256: Annotated[list[str] | None, typer.Argument(help="As listed.")] = None,
    config: Config = None,
    all: Annotated[bool, typer.Option("--all", help="All that are listed.")] = False,
) -> None:
    """Take such files in as if they had been received now.

    This is also how objects come back that are newer than a restored backup.

    Example: qc-daemon spool release --all --config qc-daemon.toml
    """
    from qc_daemon.operations.spool import orphan_hashes, release_orphans

    if all == bool(sha256):
        raise console.UsageError("give either SHA-256 values as listed, or --all")
    settings = load_settings(config)
    names = orphan_hashes(settings) if all else sha256 or []
    say(f"{count_of(release_orphans(settings, names), 'object is', 'objects are')} taken in")


@spool.command("discard")
def spool_discard(
    sha256: Annotated[list[str], typer.Argument(help="As listed.")], config: Config = None
) -> None:
    """Delete such files for good.

    Example: qc-daemon spool discard 5f1a... --config qc-daemon.toml
    """
    from qc_daemon.operations.spool import discard_orphans

    count = discard_orphans(load_settings(config), sha256)
    say(f"{count_of(count, 'file is', 'files are')} deleted")
