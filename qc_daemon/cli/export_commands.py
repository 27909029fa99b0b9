"""The commands `export findings`, `export reviews`, `export audits`: files for other programs."""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.cli.options import Config, Since, Until, load_settings
from qc_daemon.cli.output import parse_format, say, write_lines
from qc_daemon.operations.parquet import write_parquet
from qc_daemon.spool import private_files

export = typer.Typer(
    no_args_is_help=True,
    help="Findings, reviews and audits as CSV, JSON lines or Parquet, for other programs.",
)
Out = Annotated[
    Path | None,
    typer.Option(dir_okay=False, help="File to write, as a whole or not at all; else the output."),
]
ExportFormat = Annotated[
    str, typer.Option("--format", help="csv, json (or jsonl), or parquet (with --out).")
]
_Format = Literal["csv", "json", "parquet"]


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

    chosen, window = _parse(format, out), parse_window(since, until)
    rows = exports.export_findings(load_settings(config), window, as_rows=chosen != "json")
    _write(rows, chosen, exports.FINDING_COLUMNS, out)


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

    chosen, window = _parse(format, out), parse_window(since, until)
    history = History(load_settings(config), window, as_text=chosen == "csv")
    _write(iter(history), chosen, HISTORY_COLUMNS, out)
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

    chosen, period = _parse(format, out), ReportPeriod.parse(start, end)
    rows = exports.export_audits(load_settings(config), period, as_rows=chosen != "json")
    _write(rows, chosen, exports.AUDIT_COLUMNS, out)


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
