"""Writes the rows of every `list`, `show` and `results`: a table, JSON lines or CSV on stdout.

Cells hold what callers sent (AE titles, names, UIDs), so no cell is markup, a control sequence of
the terminal or a formula of a spreadsheet.
"""

import csv
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from detector.console import UsageError
from detector.plain_text import decimals, visible

Format = Literal["table", "json", "csv"]
FORMATS: tuple[Format, ...] = ("table", "json", "csv")
FORMAT_HELP = "table, json or jsonl (both one object a line), or csv."
Row = Mapping[str, Any]
TABLE_LIMIT = 200
"""A table has at most so many rows unless --limit says otherwise."""

_MAX_WIDTH = 100_000
_NOTE_WIDTH = 120
_FORMULA = tuple("=+-@＝＋－＠")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar on stderr that goes when the work is done; nothing where nobody watches, since a file
    would get an empty line of it."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def parse_format(
    value: str, formats: Sequence[Format] = FORMATS, others: Sequence[str] = ()
) -> Format:
    """The format by its name, `jsonl` being JSON too.

    Raises UsageError, which also names `others`: formats that the caller knows.
    """
    name = "json" if value == "jsonl" else value
    for each in formats:
        if name == each:
            return each
    raise UsageError(f"--format {value}: give one of {', '.join([*_names(formats), *others])}")


def _names(formats: Sequence[Format]) -> list[str]:
    return [name for each in formats for name in (("json", "jsonl") if each == "json" else (each,))]


def write_list(
    noun: str,
    rows: Sequence[Row],
    format: Format = "table",
    *,
    columns: Sequence[str] = (),
    heading: str | None = None,
    is_filtered: bool = False,
) -> None:
    """Write rows that share their keys; `noun` is the plural of what a row is, as "jobs".

    Keys become snake_case in JSON and CSV, words in a table. `columns` names the keys that a table
    or CSV shows, in order; without, those of the first row. A value may be None or a list of texts.
    """
    # This import loads the database's libraries, which `--help` does not need.
    from qc_daemon.operations.shared import Listing

    names = list(columns) or list(rows[0] if rows else ())
    if format == "json":
        for row in rows:
            print(json.dumps({_key(name): value for name, value in row.items()}))
    elif format == "csv":
        _write_csv(names, rows)
    elif rows:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print_table(heading or noun, names, rows, width)
    else:
        print(f"no {noun}{' match' if is_filtered else ''}")
    total = rows.total if isinstance(rows, Listing) else len(rows)
    if total is None or len(rows) < total:
        count = f"{len(rows)} of {total}" if total is not None else f"the first {len(rows)}"
        # Programs read stdout: there a note would be a broken row.
        print(
            f"{count} {noun} shown; --limit 0 shows all",
            file=sys.stdout if format == "table" else sys.stderr,
        )


def write_lines(
    rows: Iterable[Row],
    format: Literal["json", "csv"],
    columns: Sequence[str],
    file: TextIO | None = None,
) -> None:
    """Write rows for a program as they come, JSON objects whole, CSV by these columns; to stdout,
    or to `file`."""
    if format == "json":
        for row in rows:
            # Whoever reads a pipe sees each row at once; a file is written as a whole.
            print(json.dumps(row), file=file, flush=file is None)
    else:
        _write_csv(columns, rows, file)


def write_record(record: Row, format: Format = "table") -> None:
    """Write one record: `name: value` lines, one JSON object, or CSV of one row."""
    if format == "json":
        print(json.dumps({_key(name): value for name, value in record.items()}))
    elif format == "csv":
        _write_csv(list(record), [record])
    else:
        for name, value in record.items():
            print(f"{_heading(name)}: {cell(value)}")


def say(line: str) -> None:
    """Print one line of plain text, with control characters escaped."""
    print(visible(line))


def say_notes(notes: Iterable[str]) -> None:
    """Print the lines that explain a table, folded between words."""
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else _NOTE_WIDTH
    for note in notes:
        for line in textwrap.wrap(
            visible(note),
            min(terminal, _NOTE_WIDTH),
            subsequent_indent="  ",
            # A path or a UID that is folded can be neither read nor copied.
            break_long_words=False,
            break_on_hyphens=False,
        ):
            print(line)


def make_table(title: str, columns: Sequence[str], rows: Iterable[Row]) -> Table:
    """A table for a terminal; every cell is literal text."""
    table = Table(title=Text(visible(title)))
    for column in columns:
        table.add_column(Text(_heading(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(column))) for column in columns))
    return table


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value)
    if isinstance(value, float):
        text = f"{value:.4g}"
        # A probability of 0.99996 is not 1, and nobody reads 1e-05.
        is_awkward = 0 < value < 1 and (text == "1" or "e" in text)
        return decimals(value) if is_awkward else text
    return visible(str(value))


def csv_cell(value: object) -> object:
    """A value as CSV has it: numbers as numbers, lists joined by `; `, and no text a formula.

    A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`; a `'` before it makes it text
    (OWASP, CSV injection). A text that is a number needs none.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return csv_cell("; ".join(str(each) for each in value))
    text = visible(str(value))
    is_formula = text.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def _write_csv(columns: Sequence[str], rows: Iterable[Row], file: TextIO | None = None) -> None:
    writer = csv.writer(sys.stdout if file is None else file)
    writer.writerow([_key(column) for column in columns])
    writer.writerows([csv_cell(row.get(column)) for column in columns] for row in rows)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Row], width: int | None = None
) -> None:
    """Print rows, each on one line; where they are wider than `width`, as `name: value` lines.

    A UID that is folded can be neither read nor copied. `width` is a terminal's, None for a pipe,
    which keeps whole lines.
    """
    table = make_table(title, columns, rows)
    natural = Measurement.get(_console(_MAX_WIDTH), _console(_MAX_WIDTH).options, table).maximum
    if width is None or natural <= width:
        _console(natural).print(table)
        return
    for row in rows:
        for column in columns:
            text = cell(row.get(column))
            if text:
                print(f"{_heading(column)}: {text}")
        print()


class _Console(Console):
    """Rich's, which ends with 1 where the reader has gone; `console.run` knows that it is none."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(width: int) -> Console:
    return _Console(width=width, markup=False, emoji=False, highlight=False)


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _heading(name: str) -> str:
    return name.replace("_", " ")
