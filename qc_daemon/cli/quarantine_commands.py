"""The commands on objects that could not be scored: `quarantine list`, `show`, `release`,
`dismiss`."""

from typing import Annotated

import typer

from qc_daemon.cli.options import (
    LARGEST_ID,
    By,
    Config,
    Format,
    Ids,
    Limit,
    Since,
    Until,
    load_settings,
    report_outcome,
    row_limit,
)
from qc_daemon.cli.output import parse_format, write_list, write_record

quarantine = typer.Typer(
    no_args_is_help=True, help="Objects that could not be scored or reported, and why."
)


@quarantine.command("list")
def quarantine_list(
    config: Config = None,
    code: Annotated[
        list[str] | None,
        typer.Option(
            help="Code of the reason, as truncated-pixel-data; repeatable. The error of a wrong"
            " word names all codes."
        ),
    ] = None,
    dismissed: Annotated[
        bool,
        typer.Option("--dismissed", help="Also those that were dismissed: by whom, when and why."),
    ] = False,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List quarantined objects with their reasons, in order of arrival.

    Example: qc-daemon quarantine list --code truncated-pixel-data --config qc-daemon.toml
    """
    from qc_daemon.operations.quarantine import (
        DISMISSED_TABLE,
        QUARANTINE_COLUMNS,
        QUARANTINE_TABLE,
        list_quarantined,
    )
    from qc_daemon.operations.shared import parse_window

    output_format = parse_format(format)
    window = parse_window(since, until, row_limit(limit, output_format))
    rows = list_quarantined(load_settings(config), code or [], window, with_dismissed=dismissed)
    in_table = DISMISSED_TABLE if dismissed else QUARANTINE_TABLE
    columns = in_table if output_format == "table" else QUARANTINE_COLUMNS
    is_filtered = bool(code or since or until)
    write_list("quarantined objects", rows, output_format, columns=columns, is_filtered=is_filtered)


@quarantine.command("show")
def quarantine_show(
    id: Annotated[int, typer.Argument(min=1, max=LARGEST_ID, help="As listed.")],
    config: Config = None,
    format: Format = "table",
) -> None:
    """Show one quarantined object: its reason and where its bytes lie.

    Example: qc-daemon quarantine show 7 --config qc-daemon.toml
    """
    from qc_daemon.operations.quarantine import show_quarantined

    output_format = parse_format(format)
    write_record(show_quarantined(load_settings(config), id), output_format)


@quarantine.command("release")
def quarantine_release(ids: Ids, config: Config = None) -> None:
    """Score quarantined objects again.

    Example: qc-daemon quarantine release 7 --config qc-daemon.toml
    """
    from qc_daemon.operations.quarantine import release_quarantined

    outcome = release_quarantined(load_settings(config), ids)
    report_outcome(outcome, "object is to be scored again", "objects are to be scored again")


@quarantine.command("dismiss")
def quarantine_dismiss(
    ids: Ids,
    reason: Annotated[str, typer.Option(help="Why nothing more is to be done, in own words.")],
    by: By,
    config: Config = None,
) -> None:
    """Set quarantined objects aside that need nothing more; lists and doctor pass over them.

    Nothing is deleted: they stay in quarantine, quarantine list --dismissed shows them, and
    quarantine release scores them again. Write no patient's name into the reason.

    Example: qc-daemon quarantine dismiss 7 --reason "sent again, whole" --by "Dr Lee"
    """
    from qc_daemon.operations.quarantine import dismiss_quarantined

    outcome = dismiss_quarantined(load_settings(config), ids, reason, by)
    report_outcome(outcome, "object is dismissed", "objects are dismissed")
