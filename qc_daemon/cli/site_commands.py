"""The commands on sites: what probabilities mean in one's own hospital."""

import json
from pathlib import Path
from typing import Annotated

import typer

from detector import console
from detector.plain_text import visible
from qc_daemon.cli.options import By, Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list, write_record
from qc_daemon.settings import load

site = typer.Typer(
    no_args_is_help=True,
    help="Site calibration: what probabilities mean in this hospital, and what is promised of"
    " verdicts.",
)
SiteName = Annotated[
    str | None,
    typer.Option("--site", help="Institution, as the machines name it; else the only one there."),
]


Name = Annotated[str, typer.Argument(help="Institution, as the machines name it.")]


def _warn(line: str) -> None:
    typer.echo(visible(line), err=True)


@site.command("fit")
def site_fit(
    out: Annotated[Path | None, typer.Option(help="File to write, JSON.")] = None,
    findings: Annotated[
        Path | None,
        typer.Option(
            help="What score --format jsonl wrote; without it, what is stored and reviewed.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns source or sop_instance_uid, frame, and label: standard or"
            " non-standard.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Received from this day or moment on: ISO 8601, UTC.")
    ] = None,
    site: SiteName = None,
    device: Annotated[
        str | None, typer.Option(help="Only of this machine, as in device list.")
    ] = None,
    view: Annotated[str | None, typer.Option(help="Only NT, CRL, HEAD or ABDOMEN.")] = None,
    poor_tolerated: Annotated[
        float, typer.Option(help="Share of poor pictures tolerated among those called standard.")
    ] = 0.05,
    standard_tolerated: Annotated[
        float,
        typer.Option(help="Share of standard pictures tolerated among those called non-standard."),
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="Confidence that both shares are kept.")] = 0.9,
    bundle: Annotated[
        str | None,
        typer.Option(help="The bundle of the findings; else what score.bundle says."),
    ] = None,
    config: Config = None,
) -> None:
    """Calibrate probabilities to a hospital, without labels or by a person's.

    From a file of findings, or from what the service stored and people reviewed: then it is a
    proposal, which site activate makes count. Too little to tell is an answer, not a failure: it is
    said and written, nothing is changed by it, and the status is 0. One that makes the figures of
    its own reviews worse, with exams left out in turn, is said and written too, and not proposed.
    Verdicts stay in the order that the bundle gives them.

    Example: qc-daemon site fit --findings findings.jsonl --labels labels.csv --out site.json

    Example: qc-daemon site fit --site "St. Mary's" --config qc-daemon.toml
    """
    from qc_daemon.operations.site_files import fit_files, parse_choice, parse_tolerance
    from qc_daemon.operations.site_words import describe_record

    choice = parse_choice(view, device, since)
    tolerance = parse_tolerance(poor_tolerated, standard_tolerated, confidence)
    if findings is not None:
        if out is None:
            raise console.UsageError("--findings needs --out: name the file to write")
        name = bundle or load(config).score.bundle
        record = fit_files(findings, labels, name, site, choice, tolerance, warn=_warn)
    elif labels is not None or bundle is not None:
        raise console.UsageError("--labels and --bundle go with --findings")
    else:
        from qc_daemon.operations.sites import fit_stored

        record = fit_stored(load_settings(config), site, choice, tolerance)
    if out is not None:
        try:
            out.write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise console.UsageError(f"{out}: cannot be written ({error.strerror})") from error
    for line in describe_record(record):
        say(line)
    if out is not None:
        say(f"{out}: written")


@site.command("show")
def site_show(
    source: Annotated[str, typer.Argument(help="What site fit wrote, or an id of site history.")],
    config: Config = None,
    format: Format = "table",
) -> None:
    """Show a site calibration: what it rests on, figures before and after, what is promised.

    Example: qc-daemon site show site.json
    """
    from model.site.record import read_record
    from qc_daemon.operations.site_words import describe_record, record_row

    output_format = parse_format(format)
    if source.endswith(".json") or Path(source).exists():
        record = read_record(Path(source))
    else:
        from qc_daemon.operations.sites import find_record

        record = find_record(load_settings(config), source)
    if output_format == "table":
        for line in describe_record(record):
            say(line)
    else:
        write_record(
            record.to_json() if output_format == "json" else record_row(record), output_format
        )


@site.command("activate")
def site_activate(
    source: Annotated[str, typer.Argument(help="What site fit wrote, or an id of site history.")],
    by: By,
    even_if_worse: Annotated[
        bool,
        typer.Option(
            "--even-if-worse",
            help="Also one whose own figures, with exams left out in turn, are worse than those of"
            " the bundle as it is.",
        ),
    ] = False,
    config: Config = None,
) -> None:
    """Give new findings of the site the probabilities and thresholds of a calibration.

    What is stored already stays as it was said.

    Example: qc-daemon site activate 78c3012b2bbe --by "Dr Weber"
    """
    from qc_daemon.operations.sites import activate, sites_instead

    settings = load_settings(config)
    decided = activate(settings, source, by, even_if_worse=even_if_worse)
    say(decided.line)
    # A file that was fitted without --site is of images that name none: it would change nothing.
    if others := sites_instead(settings, decided.site):
        _warn(
            f"no image is of site {decided.site} so far; there are: {', '.join(others)}: to"
            " calibrate one of them, fit again with --site"
        )


@site.command("retire")
def site_retire(site: Name, by: By, config: Config = None) -> None:
    """Take back what is active at a site, a waiver too: it is in commissioning again.

    Example: qc-daemon site retire "St. Mary's" --by "Dr Weber"
    """
    from qc_daemon.operations.sites import decide
    from qc_daemon.records.tables import SiteAction

    say(decide(load_settings(config), site, SiteAction.RETIRED, by).line)


@site.command("waive")
def site_waive(site: Name, by: By, config: Config = None) -> None:
    """Decide that verdicts at a site need no calibration for the active bundle.

    Example: qc-daemon site waive "St. Mary's" --by "Dr Weber"
    """
    from qc_daemon.operations.sites import decide
    from qc_daemon.records.tables import SiteAction

    say(decide(load_settings(config), site, SiteAction.WAIVED, by).line)


@site.command("list")
def site_list(limit: Limit = None, config: Config = None, format: Format = "table") -> None:
    """List the sites that images name: calibrated, waived or in commissioning for the active
    bundle, and when a calibration was proposed that nobody has decided on.

    Example: qc-daemon site list
    """
    from qc_daemon.operations.sites import LIST_COLUMNS, list_sites

    output_format = parse_format(format)
    rows = list_sites(load_settings(config))
    write_list("sites", first_page(rows, limit, output_format), output_format, columns=LIST_COLUMNS)


@site.command("history")
def site_history(
    site: SiteName = None, limit: Limit = None, config: Config = None, format: Format = "table"
) -> None:
    """List what was proposed, activated, retired and waived, the newest last.

    Example: qc-daemon site history --site "St. Mary's"
    """
    from qc_daemon.operations.sites import HISTORY_COLUMNS, list_history

    output_format = parse_format(format)
    rows = list_history(load_settings(config), site)
    columns = HISTORY_COLUMNS[:-1] if output_format == "table" else HISTORY_COLUMNS
    write_list("events", first_page(rows, limit, output_format), output_format, columns=columns)
