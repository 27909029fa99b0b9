"""The commands on examinations: `exam list`, `find`, `close`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector import console
from detector.plain_text import count_of
from qc_daemon.cli.options import Config, Format, Limit, Patient, load_settings, row_limit
from qc_daemon.cli.output import parse_format, say, write_list

if TYPE_CHECKING:
    from qc_daemon.records.listings import ExamFilter

exam = typer.Typer(no_args_is_help=True, help="Examinations: list, find, close one now.")

ExamStates = Annotated[list[str] | None, typer.Option(help="open or closed; repeatable.")]


@exam.command("list")
def exam_list(
    config: Config = None,
    patient: Patient = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    day: Annotated[
        str | None,
        typer.Option(help="Study date, as 2026-11-28; where it has none, the day it came (UTC)."),
    ] = None,
    state: ExamStates = None,
    since: Annotated[
        str | None, typer.Option(help="With an object received from this day or moment on (UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Whose last object came up to this day, or before then.")
    ] = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List exams, the latest first: what became of them, and the ids for results and summary.

    They cannot be searched by the person who scanned, whom the database does not name. Patients are
    named here and in no log.

    Example: qc-daemon exam list --patient "doe jane" --day 2026-11-28
    """
    from qc_daemon.operations.exams import parse_day
    from qc_daemon.records.listings import ExamFilter

    exam_filter = ExamFilter(
        states=_exam_states(state),
        patient=patient,
        accession=accession,
        day=None if day is None else parse_day(day),
    )
    _list_exams(config, exam_filter, since, until, limit, format)


@exam.command("find")
def exam_find(
    text: Annotated[
        str, typer.Argument(help="Part of a patient ID, name, accession number or study UID.")
    ],
    config: Config = None,
    state: ExamStates = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """Find exams by any part of patient ID, name, accession number or Study Instance UID.

    Example: qc-daemon exam find "doe"
    """
    from qc_daemon.records.listings import ExamFilter

    if not text.strip():
        raise console.UsageError("give part of a patient ID, name, accession number or study UID")
    exam_filter = ExamFilter(states=_exam_states(state), text=text)
    _list_exams(config, exam_filter, None, None, limit, format)


def _exam_states(values: list[str] | None) -> list[str]:
    unknown = set(values or ()) - {"open", "closed"}
    if unknown:
        raise console.UsageError(f"--state {min(unknown)}: give open or closed")
    return values or []


def _list_exams(
    config: Path | None,
    exam_filter: "ExamFilter",
    since: str | None,
    until: str | None,
    limit: int | None,
    format: str,
) -> None:
    from qc_daemon.operations.exams import EXAM_COLUMNS, EXAM_TABLE, list_exams, table_row
    from qc_daemon.operations.shared import Listing, parse_window

    output_format = parse_format(format)
    window = parse_window(since, until, row_limit(limit, output_format))
    listing = list_exams(load_settings(config), exam_filter, window)
    rows = listing.rows
    if output_format == "table":
        rows = Listing(map(table_row, rows), rows.total)
    columns = EXAM_TABLE if output_format == "table" else EXAM_COLUMNS
    write_list("exams", rows, output_format, columns=columns, is_filtered=True)
    if listing.unread:
        unread = count_of(listing.unread, "older exam is", "older exams are")
        typer.echo(f"{unread} not searched by name yet; give the command again", err=True)


@exam.command("close")
def exam_close(
    exam: Annotated[str, typer.Argument(help="Exam id or Study Instance UID, as in exam list.")],
    config: Config = None,
) -> None:
    """Close an exam now, without waiting for the quiet time; a late image amends.

    Example: qc-daemon exam close 1.2.840.1
    """
    from qc_daemon.operations.exams import close_exams, parse_exam

    for line in close_exams(load_settings(config), parse_exam(exam)):
        say(line)
