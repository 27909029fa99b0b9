"""The commands `export findings`, `reviews`, `audits` and `releases`: files for other programs; and
`export --teaching`, `export --release`: de-identified images for teaching."""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.cli.options import (
    LARGEST_ID,
    Config,
    Since,
    Until,
    load_settings,
    report_outcome,
)
from qc_daemon.cli.output import parse_format, progress_bar, say, write_lines
from qc_daemon.operations.parquet import write_parquet
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

export = typer.Typer(no_args_is_help=True, invoke_without_command=True)
Out = Annotated[
    Path | None,
    typer.Option(dir_okay=False, help="File to write, as a whole or not at all; else the output."),
]
ExportFormat = Annotated[
    str, typer.Option("--format", help="csv, json (or jsonl), or parquet (with --out).")
]
_Format = Literal["csv", "json", "parquet"]


@export.callback()
def export_teaching(
    context: typer.Context,
    teaching: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Prepare de-identified images for teaching in this folder, which is new or empty.",
        ),
    ] = None,
    view: Annotated[
        list[str] | None, typer.Option(help="NT, CRL, HEAD, ABDOMEN or OTHER; repeatable.")
    ] = None,
    verdict: Annotated[
        list[str] | None,
        typer.Option(
            help="standard, non-standard or review, the person's where one said otherwise than the"
            " models; repeatable."
        ),
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="Id or name of one of the operators, as in person list.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Id or name of the ultrasound machine, as in device list.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Institution, as the machines name it.")] = None,
    exam: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="Exam id, as in exam list.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images, 0: all.")] = None,
    release: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Release the images of this folder that you have looked at, into its subfolder"
            " released.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="With --release: name of the person who has looked at them.")
    ] = None,
    reject: Annotated[
        list[int] | None,
        typer.Option(help="With --release: number of an image that must not leave; repeatable."),
    ] = None,
    only: Annotated[
        list[int] | None,
        typer.Option(help="With --release: only the image of this number; repeatable."),
    ] = None,
    config: Config = None,
) -> None:
    """Write findings, reviews and audits for other programs (the commands below), or prepare and
    release de-identified images for teaching.

    Images are prepared first (PS3.15 Annex E, Basic Profile, Clean Pixel Data): nothing of the
    header stays but numbers, what lies outside of the tissue is blanked, and so are words inside
    it. Then a person looks at index.html in the folder, since a detector can miss words, and
    releases what is clean; export releases lists who released what.

    Example: qc-daemon export --teaching lesson/ --view NT --verdict non-standard --limit 20

    Example: qc-daemon export --release lesson/ --by "Dr Lee" --reject 3 --reject 7
    """
    if context.invoked_subcommand is not None:
        if teaching is not None or release is not None:
            raise UsageError(
                f"export {context.invoked_subcommand} goes without --teaching and --release"
            )
        return
    if (teaching is None) == (release is None):
        raise UsageError("give --teaching FOLDER, --release FOLDER or a command: see export --help")
    if release is not None:
        if by is None:
            raise UsageError("--release needs --by, the name of the person who has looked at them")
        _release(load_settings(config), release, by, reject or (), only or ())
        return
    assert teaching is not None
    if by is not None or reject or only:
        raise UsageError("--by, --reject and --only go with --release")
    from qc_daemon.operations.exams import require_exam
    from qc_daemon.operations.results import parse_finding_filter
    from qc_daemon.operations.shared import parse_window
    from qc_daemon.operations.teaching_preparation import describe_preparation, prepare
    from qc_daemon.records.listings import ExamFilter

    finding_filter = parse_finding_filter(person, device, site, view or (), verdict or ())
    window = parse_window(since, until, limit)
    settings = load_settings(config)
    if exam is not None:
        require_exam(settings, None, exam)
    with progress_bar() as bar:
        task = bar.add_task("Preparing images")
        preparation = prepare(
            settings,
            teaching,
            ExamFilter(exam_id=exam),
            window,
            finding_filter,
            lambda done, count: bar.update(task, completed=done, total=count),
        )
    for line in describe_preparation(preparation, teaching):
        say(line)
    report_outcome(preparation.outcome, "image is to be looked at", "images are to be looked at")


def _release(
    settings: Settings, folder: Path, by: str, reject: Sequence[int], only: Sequence[int]
) -> None:
    from qc_daemon.operations.teaching_folder import RELEASED
    from qc_daemon.operations.teaching_release import release

    outcome = release(settings, folder, by, reject, only)
    say(
        f"{count_of(outcome.released, 'image is', 'images are')} released to {folder / RELEASED},"
        f" {outcome.rejected} rejected, {outcome.waiting} still to be looked at"
    )


@export.command("findings")
def export_findings(
    since: Since = None,
    until: Until = None,
    format: ExportFormat = "csv",
    out: Out = None,
    config: Config = None,
) -> None:
    """Write current findings with their facts of acquisition and reviews, but no identifier of a
    patient: results has those.

    --since and --until are about when an image was received.

    Example: qc-daemon export findings --since 2026-01-01 --out findings.csv
    """
    from qc_daemon.operations import exports
    from qc_daemon.operations.shared import parse_window

    output_format, window = _parse(format, out), parse_window(since, until)
    rows = exports.export_findings(load_settings(config), window, as_rows=output_format != "json")
    _write(rows, output_format, exports.FINDING_COLUMNS, out)


@export.command("reviews")
def export_reviews(
    since: Since = None,
    until: Until = None,
    format: ExportFormat = "csv",
    out: Out = None,
    config: Config = None,
) -> None:
    """Write what persons said of findings, an event a row, as review export does.

    --since and --until are about when a review was made. Findings that wait for a blinded reading
    are left out, and counted at the end: review export --whole has them.

    Example: qc-daemon export reviews --format jsonl --out reviews.jsonl
    """
    from qc_daemon.operations.review_files import HISTORY_COLUMNS, History
    from qc_daemon.operations.shared import parse_window

    output_format, window = _parse(format, out), parse_window(since, until)
    history = History(load_settings(config), window, as_text=output_format == "csv")
    _write(iter(history), output_format, HISTORY_COLUMNS, out)
    if history.left_out:
        left_out = count_of(history.left_out, "finding waits", "findings wait")
        typer.echo(f"not exported: {left_out} for a blinded reading", err=True)


@export.command("audits")
def export_audits(
    start: Annotated[
        str | None, typer.Option("--from", help="Audits of this day or later; ISO 8601.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Audits of this day or earlier; ISO 8601.")
    ] = None,
    format: ExportFormat = "csv",
    out: Out = None,
    config: Config = None,
) -> None:
    """Write audits: as CSV or Parquet a row for each measure of each person, device and site, as
    JSON each audit whole.

    Example: qc-daemon export audits --from 2026-01-01 --out audits.csv
    """
    from qc_daemon.operations import exports
    from qc_daemon.operations.audit_reports import ReportPeriod

    output_format, period = _parse(format, out), ReportPeriod.parse(start, end)
    rows = exports.export_audits(load_settings(config), period, as_rows=output_format != "json")
    _write(rows, output_format, exports.AUDIT_COLUMNS, out)


@export.command("releases")
def export_releases(
    since: Since = None,
    until: Until = None,
    format: ExportFormat = "csv",
    out: Out = None,
    config: Config = None,
) -> None:
    """Write who released or rejected which images for teaching, and when.

    Example: qc-daemon export releases --since 2026-01-01
    """
    from qc_daemon.operations.shared import parse_window
    from qc_daemon.operations.teaching_release import RELEASE_COLUMNS, list_releases

    output_format, window = _parse(format, out), parse_window(since, until)
    rows = list_releases(load_settings(config), window)
    _write(iter(rows), output_format, RELEASE_COLUMNS, out)


def _parse(format: str, out: Path | None) -> _Format:
    if format == "parquet":
        if out is None:
            raise UsageError("--format parquet needs --out FILE")
        return "parquet"
    return "csv" if parse_format(format, ("csv", "json"), ("parquet",)) == "csv" else "json"


def _write(
    rows: Iterator[dict[str, Any]],
    format: _Format,
    columns: Sequence[str],
    out: Path | None,
) -> None:
    """Write the rows. Raises QCError STORAGE for a file that cannot be written."""
    if out is None:
        assert format != "parquet"
        write_lines(rows, format, columns)
        sys.stdout.flush()
        return
    try:
        with private_files.replacing(out) as file:
            if format == "parquet":
                write_parquet(rows, columns, file)
            else:
                text = io.TextIOWrapper(file, encoding="utf-8", newline="")
                write_lines(rows, format, columns, text)
                text.flush()
                text.detach()
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{out} cannot be written: {error.strerror}") from error
    say(f"{out}: written")
