"""The commands on a patient as a whole: `patient erase`, `erasure list`, `erasure show`."""

from pathlib import Path
from typing import Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list, write_record

patient = typer.Typer(no_args_is_help=True, help="What concerns a patient as a whole.")
erasure = typer.Typer(no_args_is_help=True, help="Erasures of patients, and their certificates.")


@patient.command("erase")
def patient_erase(
    patient_id: Annotated[str, typer.Argument(help="The whole Patient ID, as exam list has it.")],
    by: Annotated[str, typer.Option("--by", help="Who orders it: a person's name.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the certificate, as text and JSON.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Needed: it cannot be undone.")] = False,
    config: Config = None,
    format: Annotated[
        str, typer.Option("--format", help="table (lines of text) or json (one object).")
    ] = "table",
) -> None:
    """Remove all that is stored of a patient: images, findings, reviews, reports, files.

    The certificate says what was removed, and what destinations, backups and the audit log keep.
    While an exam of the patient is open, or a job waits or runs, nothing is removed. Given again,
    the command finds nothing.

    Example: qc-daemon patient erase 4711 --dry-run

    Example: qc-daemon patient erase 4711 --by "Dr Lee" --out certificates --yes
    """
    from qc_daemon.operations.patients.erasure import erase, preview

    output_format = parse_format(format, ("table", "json"))
    if not dry_run and not (yes and by):
        raise console.UsageError(
            "it cannot be undone: look with --dry-run, then give --by NAME and --yes"
        )
    settings = load_settings(config)
    result = preview(settings, patient_id) if dry_run else erase(settings, patient_id, by, out)
    if output_format == "json":
        write_record(result.document, output_format)
        return
    if result.number is None and not dry_run:
        say("there is nothing of this patient here")
        for number in result.earlier:
            say(f"erased before: see erasure show {number}")
        return
    for line in result.lines:
        say(line)


@erasure.command("list")
def erasure_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List the erasures, newest first; no patient is named.

    Example: qc-daemon erasure list --config qc-daemon.toml
    """
    from qc_daemon.operations.patients.erasure import COLUMNS, list_erasures

    output_format = parse_format(format)
    rows = first_page(list_erasures(load_settings(config)), limit, output_format)
    write_list("erasures", rows, output_format, columns=COLUMNS)


@erasure.command("show")
def erasure_show(
    number: Annotated[int, typer.Argument(help="As listed.", min=1, max=2**31 - 1)],
    config: Config = None,
    format: Annotated[
        str, typer.Option("--format", help="table (lines of text) or json (one object).")
    ] = "table",
) -> None:
    """Show a certificate as it is stored, and whether its hash is still its own.

    Example: qc-daemon erasure show 1 --format json
    """
    from qc_daemon.operations.patients.erasure import show_erasure

    output_format = parse_format(format, ("table", "json"))
    document, lines = show_erasure(load_settings(config), number)
    if output_format == "json":
        write_record(document, output_format)
    else:
        for line in lines:
            say(line)
    if not document["is_unchanged"]:
        raise typer.Exit(console.FAILED)
