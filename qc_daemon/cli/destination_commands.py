"""The commands on where objects go: `destination` and `rules`."""

from pathlib import Path
from typing import Annotated

import typer

from detector import console
from detector.plain_text import count_of
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, say_notes, write_list

destination = typer.Typer(no_args_is_help=True, help="Where objects go, and what waits for it.")
Name = Annotated[str, typer.Argument(help="Its name in the settings; see destination list.")]
rules = typer.Typer(no_args_is_help=True, help="Routing rules: which objects go where.")


@destination.command("list")
def destination_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List destinations: whether they are reached and commit, what waits, what was given up.

    Example: qc-daemon destination list --config qc-daemon.toml
    """
    from qc_daemon.operations.destinations import (
        DESTINATION_COLUMNS,
        destination_notes,
        destination_table_row,
        list_destinations,
    )

    output_format = parse_format(format)
    rows = first_page(list_destinations(load_settings(config)), limit, output_format)
    if output_format != "table":
        write_list("destinations", rows, output_format)
        return
    # A person reads what fits a line; a program gets all.
    table = [destination_table_row(row) for row in rows]
    write_list("destinations", table, output_format, columns=DESTINATION_COLUMNS)
    say_notes(note for row in rows for note in destination_notes(row))


@destination.command("retry")
def destination_retry(name: Name, config: Config = None) -> None:
    """Send again what was given up.

    Example: qc-daemon destination retry pacs --config qc-daemon.toml
    """
    from qc_daemon.operations.destinations import retry_destination

    count = retry_destination(load_settings(config), name)
    say(f"{count_of(count, 'job is', 'jobs are')} ready again")


@destination.command("relearn")
def destination_relearn(name: Name, config: Config = None) -> None:
    """Offer again what it does not take.

    Example: qc-daemon destination relearn pacs --config qc-daemon.toml
    """
    from qc_daemon.operations.destinations import relearn_destination

    count = relearn_destination(load_settings(config), name)
    say(f"{count_of(count, 'SOP class is', 'SOP classes are')} offered again")


@rules.command("test")
def rules_test(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE", help="DICOM files.")],
    config: Config = None,
    calling: Annotated[str, typer.Option(help="AE title it would be sent from.")] = "",
    view: Annotated[
        str | None, typer.Option(help="Suppose this view: NT, CRL, HEAD, ABDOMEN or OTHER.")
    ] = None,
    verdict: Annotated[
        str | None, typer.Option(help="Suppose this verdict: standard, non-standard or review.")
    ] = None,
    format: Format = "table",
) -> None:
    """Show where a file's objects would go, by which rule, and why the earlier ones do not match.

    Without --view and --verdict the bundle judges the file, if a rule asks for that.

    Example: qc-daemon rules test nt.dcm --calling VOLUSON1 --view NT --verdict non-standard
    """
    from qc_daemon.operations.routing import route_row, try_rules

    output_format = parse_format(format)
    rows = list(
        try_rules(load_settings(config), paths, calling_ae=calling, view=view, verdict=verdict)
    )
    write_list(
        "routes",
        rows if output_format == "json" else [route_row(row) for row in rows],
        output_format,
    )
    if any("error" in row for row in rows):
        raise typer.Exit(console.FAILED)
