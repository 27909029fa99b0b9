"""The commands on sites: what probabilities mean in one's own hospital."""

import json
from pathlib import Path
from typing import Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format
from qc_daemon.cli.output import parse_format, say, write_record
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


@site.command("fit")
def site_fit(
    out: Annotated[Path, typer.Option(help="File to write, JSON.")],
    findings: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="What score --format jsonl wrote."),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
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

    Too little to tell is an answer, not a failure: it is said and written, nothing is changed by
    it, and the status is 0. Verdicts stay in the order that the bundle gives them.

    Example: qc-daemon site fit --findings findings.jsonl --labels labels.csv --out site.json
    """
    from qc_daemon.operations.site_files import fit_files, parse_choice, parse_tolerance
    from qc_daemon.operations.site_words import describe_record

    choice = parse_choice(view, device, since)
    tolerance = parse_tolerance(poor_tolerated, standard_tolerated, confidence)
    name = bundle or load(config).score.bundle
    record = fit_files(findings, labels, name, site, choice, tolerance)
    try:
        out.write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise console.UsageError(f"{out}: cannot be written ({error.strerror})") from error
    for line in describe_record(record):
        say(line)
    say(f"{out}: written")


@site.command("show")
def site_show(
    file: Annotated[Path, typer.Argument(help="What site fit wrote.")], format: Format = "table"
) -> None:
    """Show a site calibration: what it rests on, figures before and after, what is promised.

    Example: qc-daemon site show site.json
    """
    from model.site.record import read_record
    from qc_daemon.operations.site_words import describe_record, record_row

    chosen, record = parse_format(format), read_record(file)
    if chosen == "table":
        for line in describe_record(record):
            say(line)
    else:
        write_record(record.to_json() if chosen == "json" else record_row(record), chosen)
