"""Answers of a command: one record a picture, as JSON lines, CSV or a table."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from detector.console import UsageError
from detector.errors import QCError
from detector.plain_text import visible

Record = dict[str, Any]
_PICTURES = (".svg", ".png", ".pdf")


class Format(StrEnum):
    """How records are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="table, jsonl or csv.")]
OutOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="The file to write; default: standard output.")
]


def check_target(out: Path | None, *, force: bool) -> None:
    """Raises UsageError on a file that is there and not to be replaced."""
    if out is not None and out.exists() and not force:
        raise UsageError(f"{out} exists: name another file, or give --force")


def check_folder(folder: Path | None, *, force: bool) -> None:
    """Raises UsageError on a folder that holds files which are not to be replaced."""
    if folder is not None and folder.exists() and any(folder.iterdir()) and not force:
        raise UsageError(f"{folder} holds files: name another folder, or give --force")


def file_stem(name: str) -> str:
    """The name as a part of a file's name: what may not stand there is a hyphen."""
    return re.sub(r"[^\w.-]+", "-", name)[:60]


def check_targets(*paths: Path | None, force: bool, pictures: Sequence[Path | None] = ()) -> None:
    """As `check_target` of several files, whose folders are made; `pictures` have to end as
    matplotlib writes them."""
    for path in (*paths, *pictures):
        check_target(path, force=force)
    for path in pictures:
        if path is not None and path.suffix not in _PICTURES:
            raise UsageError(f"{path.name}: give a file that ends in {', '.join(_PICTURES)}")
    for path in (*paths, *pictures):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def write_json(figures: Any, out: Path | None) -> None:
    """Write figures to the file, if there is one."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def answer_each(paths: Sequence[Path], answer: Callable[[Path], Record]) -> list[Record]:
    """The record of each file, in order; {"source", "error"} of one that cannot be answered."""
    records: list[Record] = []
    for path in paths:
        try:
            records.append({"source": str(path)} | answer(path))
        except QCError as error:
            facts = {"code": error.code.value, "message": error.message}
            records.append({"source": str(path), "error": facts})
    return records


def write_records(
    records: Sequence[Record], columns: Sequence[str], format: Format, out: Path | None
) -> None:
    """Write the records; `columns` are those of a table and of CSV, which has `error` behind them.

    JSON lines have every key. Exit status 1 if a record is an error.
    """
    if out is None:
        _write(records, columns, format, sys.stdout)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as file:
            _write(records, columns, format, file)
    failures = sum("error" in record for record in records)
    if failures:
        typer.echo(f"{failures} of {len(records)} files could not be answered", err=True)
        raise typer.Exit(1)


def _write(
    records: Iterable[Record], columns: Sequence[str], format: Format, file: IO[str]
) -> None:
    if format is Format.JSONL:
        file.writelines(json.dumps(record) + "\n" for record in records)
        return
    rows = [_cells(record, columns) for record in records]
    header = [*columns, "error"]
    if format is Format.CSV:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
        return
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        file.write("  ".join(cells).rstrip() + "\n")


def _cells(record: Record, columns: Sequence[str]) -> list[str]:
    error = record.get("error")
    cells = [_cell(record.get(column)) for column in columns]
    return [
        visible(cell) for cell in (*cells, f"{error['code']}: {error['message']}" if error else "")
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
