"""The commands on stored findings: `results` lists them, `results import` takes them in."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError
from detector.plain_text import count_of
from qc_daemon.cli.options import (
    LARGEST_ID,
    AllFrames,
    Config,
    Format,
    Limit,
    Patient,
    load_settings,
    row_limit,
)
from qc_daemon.cli.output import parse_format, progress_bar, say, write_lines, write_list

results = typer.Typer(invoke_without_command=True)

GATES_HELP = (
    "Probability: that the view is a standard one. Gates (in CSV and JSON): how much the picture,"
    " its description and the layout of its structures (image, text, spatial) weighed in that; they"
    " sum to 1."
)


@results.callback(epilog=GATES_HELP)
def results_list(
    context: typer.Context,
    config: Config = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    exam: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="Exam id, as in exam list.")
    ] = None,
    patient: Patient = None,
    since: Annotated[
        str | None, typer.Option(help="Received from this day or moment on: ISO 8601, UTC.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Received up to this day, or before this moment.")
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="Id or name of one of the operators, as in person list.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Id or name of the ultrasound machine, as in device list.")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Institution, as the machines name it; case and accents do not count."),
    ] = None,
    view: Annotated[
        list[str] | None, typer.Option(help="NT, CRL, HEAD, ABDOMEN or OTHER; repeatable.")
    ] = None,
    verdict: Annotated[
        list[str] | None, typer.Option(help="standard, non-standard or review; repeatable.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="SOP_UID[/FRAME]",
            help="Only images like this one, the most similar first, with the cosine of their"
            " embeddings: 20 unless --limit says otherwise.",
        ),
    ] = None,
    all_frames: AllFrames = None,
    all_revisions: Annotated[
        bool | None,
        typer.Option(
            "--all-revisions/--current",
            help="Also what a later content of the same image has superseded, marked so: in JSON"
            " always, unless told otherwise.",
        ),
    ] = None,
    image_features: Annotated[
        bool,
        typer.Option(
            "--image-features",
            help="In JSON also image statistics and embedding of each picture, as results import"
            " takes them in.",
        ),
    ] = False,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """Show stored findings and recorded reasons; of an exam, as a table, its state before them.

    CSV has one value a column, and the patient ID: keep it where patient data may be.

    Example: qc-daemon results --since 2026-11-01 --until 2026-11-30 --format csv

    Example: qc-daemon results --site "St. Mary's" --view NT --verdict review

    Example: qc-daemon results --like 1.2.826.0.1.3680043.8.498.1/3 --view NT
    """
    if context.invoked_subcommand is not None:
        return
    from qc_daemon.operations.exams import describe_exams, require_exam
    from qc_daemon.operations.results import (
        CSV_COLUMNS,
        TABLE_COLUMNS,
        parse_finding_filter,
        read_findings,
        table_row,
    )
    from qc_daemon.operations.shared import Listing, parse_window
    from qc_daemon.records.listings import ExamFilter

    settings, output_format = load_settings(config), parse_format(format)
    if image_features and output_format != "json":
        raise UsageError("--image-features: they are not for tables; add --format jsonl")
    exam_filter = ExamFilter(exam_id=exam, study=study, patient=patient)
    finding_filter = parse_finding_filter(person, device, site, view or (), verdict or ())
    window = parse_window(since, until, row_limit(limit, output_format))
    is_of_exam = study is not None or exam is not None
    if is_of_exam:
        require_exam(settings, study, exam)
    # A table is what people look at, who may have to read one of these blinded.
    left_out: list[int] | None = [] if output_format == "table" else None
    if like is not None:
        from qc_daemon.operations.similar_images import LIMIT, SIMILARITY, Likeness, read_similar

        similar = read_similar(
            settings,
            Likeness.parse(like),
            "finding" if output_format == "json" else "row",
            limit=LIMIT if limit is None else limit or None,
            exam_filter=exam_filter,
            window=window,
            finding_filter=finding_filter,
            all_frames=bool(all_frames),
            all_revisions=bool(all_revisions),
            with_image_features=image_features,
            left_out=left_out,
        )
        if output_format == "table":
            rows = [table_row(row) for row in similar]
            columns = (SIMILARITY, *TABLE_COLUMNS)
            write_list("similar images", rows, columns=columns, is_filtered=True)
            _say_left_out(left_out)
        else:
            write_lines(similar, output_format, (*CSV_COLUMNS, SIMILARITY))
        return
    findings = read_findings(
        settings,
        exam_filter,
        # One row more than the limit shows whether there are more.
        replace(window, limit=window.limit and window.limit + 1),
        "finding" if output_format == "json" else "row",
        all_frames=output_format == "json" if all_frames is None else all_frames,
        all_revisions=output_format == "json" if all_revisions is None else all_revisions,
        best_first=output_format == "table",
        finding_filter=finding_filter,
        with_image_features=image_features,
        left_out=left_out,
    )
    if output_format == "table":
        if is_of_exam:
            for line in describe_exams(settings, study, exam):
                say(line)
        page_rows = [table_row(row) for row in findings]
        is_cut = window.limit is not None and len(page_rows) > window.limit
        page = Listing(page_rows[: window.limit], None if is_cut else len(page_rows))
        write_list("findings", page, columns=TABLE_COLUMNS, is_filtered=True)
        _say_left_out(left_out)
    else:
        write_lines(islice(findings, window.limit), output_format, CSV_COLUMNS)


def _say_left_out(left_out: list[int] | None) -> None:
    if left_out:
        waiting = count_of(len(set(left_out)), "finding that waits", "findings that wait")
        typer.echo(
            f"left out: {waiting} for a blinded reading, whatever the models say of it;"
            " see review list",
            err=True,
        )


@results.command("import")
def results_import(
    files: Annotated[
        list[Path],
        typer.Argument(help="What results --format jsonl wrote.", exists=True, dir_okay=False),
    ],
    config: Config = None,
) -> None:
    """Take in findings that another database or qc-model phantom history wrote, for audits.

    They are marked as imported: nothing is reported or delivered of them, and there are no
    pictures. What is stored already stays as it is. A file with a wrong line is left out whole.
    Reviews are taken in by review import. Where there is no database, one is made.

    Example: qc-daemon results import findings.jsonl
    """
    from qc_daemon.operations.database import make_if_absent
    from qc_daemon.operations.result_import import count_lines, import_findings

    settings = load_settings(config)
    if line := make_if_absent(settings):
        typer.echo(line, err=True)
    with progress_bar() as bar:
        task = bar.add_task("Importing findings", total=count_lines(files))
        outcome = import_findings(settings, files, progress=lambda lines: bar.advance(task, lines))
    duplicates = f", {outcome.duplicates} known already" if outcome.duplicates else ""
    errors = f", {outcome.errors} of images that were not scored left out" if outcome.errors else ""
    say(f"{count_of(outcome.stored, 'finding')} imported{duplicates}{errors}")
