"""The commands on a patient as a whole: `patient merge`, `split`, `correct`, `erase`, and
`erasure list`, `erasure show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import Format as OutputFormat
from qc_daemon.cli.output import parse_format, say, write_list, write_record

if TYPE_CHECKING:
    from qc_daemon.operations.patients.corrections import CorrectionResult

By = Annotated[str, typer.Option("--by", help="Who orders it: a person's name.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the exams; change nothing.")]
TextFormat = Annotated[
    str, typer.Option("--format", help="table (lines of text) or json (one object).")
]

patient = typer.Typer(no_args_is_help=True, help="What concerns a patient as a whole.")
erasure = typer.Typer(no_args_is_help=True, help="Erasures of patients, and their certificates.")


@patient.command("merge")
def patient_merge(
    source: Annotated[str, typer.Option("--from", help="Patient ID that is to be no longer.")],
    into: Annotated[str, typer.Option("--into", help="Patient ID of the same patient.")],
    by: By = "",
    issuer: Annotated[
        str | None, typer.Option(help="Issuer of Patient ID, for reports from now on.")
    ] = None,
    without_exam: Annotated[
        bool,
        typer.Option("--without-exam", help="Also where one of the two has no exam here yet."),
    ] = False,
    dry_run: DryRun = False,
    config: Config = None,
    format: TextFormat = "table",
) -> None:
    """Make two Patient IDs one patient, who has the second one from then on.

    Received images stay as they are. Exams are found by the new Patient ID; each report that was
    made is made anew, replaces the former one and goes to the same destinations. What comes later
    with the first ID belongs to the patient too. `patient split` undoes it.

    Example: qc-daemon patient merge --from 4711 --into 4712 --dry-run

    Example: qc-daemon patient merge --from 4711 --into 4712 --by "Dr Lee"
    """
    from qc_daemon.operations.patients.corrections import merge

    output_format = _parse_order(format, by, dry_run)
    settings = load_settings(config)
    result = merge(
        settings, source, into, by, issuer, is_new_id_allowed=without_exam, is_preview=dry_run
    )
    _print_change(result, output_format)


@patient.command("split")
def patient_split(
    patient_id: Annotated[str, typer.Argument(help="The Patient ID that headers have.")],
    by: By = "",
    dry_run: DryRun = False,
    config: Config = None,
    format: TextFormat = "table",
) -> None:
    """Undo a merge: images with this Patient ID in their headers are its own patient's again.

    Example: qc-daemon patient split 4711 --by "Dr Lee"
    """
    from qc_daemon.operations.patients.corrections import split

    output_format = _parse_order(format, by, dry_run)
    _print_change(split(load_settings(config), patient_id, by, is_preview=dry_run), output_format)


@patient.command("correct")
def patient_correct(
    patient_id: Annotated[str, typer.Argument(help="The whole Patient ID, as exam list has it.")],
    by: By = "",
    name: Annotated[str | None, typer.Option(help="The name, Family^Given.")] = None,
    birth_date: Annotated[
        str | None, typer.Option("--birth-date", help="The birth date, YYYY-MM-DD.")
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--new-id", help="Patient ID instead of this one.")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="Issuer of Patient ID.")] = None,
    as_received: Annotated[
        bool,
        typer.Option("--as-received", help="Name, birth date and issuer as headers say, again."),
    ] = False,
    dry_run: DryRun = False,
    config: Config = None,
    format: TextFormat = "table",
) -> None:
    """Say otherwise than the headers who a patient is.

    Received images stay as they are. Exams are found by what is said; each report that was made is
    made anew, replaces the former one and goes to the same destinations. To undo it, give the
    former Patient ID by --new-id, or --as-received.

    Example: qc-daemon patient correct 4711 --name "Doe^Jane" --birth-date 1990-05-31 --by "Dr Lee"

    Example: qc-daemon patient correct 4711 --new-id 4799 --dry-run
    """
    from qc_daemon.operations.patients.corrections import correct

    output_format = _parse_order(format, by, dry_run)
    result = correct(
        load_settings(config),
        patient_id,
        by,
        name=name,
        birth_date=birth_date,
        new_id=new_id,
        issuer=issuer,
        is_as_received=as_received,
        is_preview=dry_run,
    )
    _print_change(result, output_format)


def _parse_order(format: str, by: str, dry_run: bool) -> OutputFormat:
    """The format. Raises UsageError where nobody orders a change."""
    output_format = parse_format(format, ("table", "json"))
    if not dry_run and not by:
        raise console.UsageError("look with --dry-run, then say who orders it: --by NAME")
    return output_format


def _print_change(result: "CorrectionResult", output_format: OutputFormat) -> None:
    if output_format == "json":
        write_record(result.document, output_format)
        return
    for line in result.lines:
        say(line)


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
