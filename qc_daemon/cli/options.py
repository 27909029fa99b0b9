"""Options and arguments that several commands share, and how they list rows and report changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector import console
from detector.plain_text import visible
from qc_daemon.cli.output import FORMAT_HELP, TABLE_LIMIT, say

if TYPE_CHECKING:
    from qc_daemon.operations.store import Listing, Outcome

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file (TOML); see the README.")
]
Paths = Annotated[list[Path], typer.Argument(help="Files or folders.")]
Format = Annotated[str, typer.Option("--format", help=FORMAT_HELP)]
Limit = Annotated[
    int | None,
    typer.Option(help=f"At most so many, 0: all. A table has {TABLE_LIMIT} unless told otherwise."),
]
LARGEST_ID = 2**63 - 1  # Ids are signed 64-bit integers in the database.
Ids = Annotated[list[int], typer.Argument(min=1, max=LARGEST_ID, help="As listed.")]
Since = Annotated[
    str | None, typer.Option(help="From this day or moment on: ISO 8601, UTC unless it says.")
]
Until = Annotated[
    str | None, typer.Option(help="Up to this day, which counts whole, or before this moment.")
]
AllFrames = Annotated[
    bool | None,
    typer.Option(
        "--all-frames/--best-frames",
        help="Of a cine every frame scored, or the best of each view: a table or CSV has the"
        " best, JSON all, unless told otherwise.",
    ),
]


def row_limit(limit: int | None, chosen: str) -> int:
    """How many rows: a person reads a page, a program all unless it asks for fewer."""
    if limit is not None:
        return limit
    return TABLE_LIMIT if chosen == "table" else 0


def first_page(rows: Sequence[dict[str, Any]], limit: int | None, chosen: str) -> "Listing":
    """The first rows of a list that its command has whole."""
    from qc_daemon.operations.store import Listing, parse_window

    most = parse_window(None, None, row_limit(limit, chosen)).limit
    return Listing(rows[:most], len(rows))


def report_outcome(outcome: "Outcome", line: str) -> None:
    """Say how many were changed, and each that was not, which is a failure."""
    if outcome.count or not outcome.problems:
        say(f"{outcome.count} {line}")
    for problem in outcome.problems:
        typer.echo(f"error: {visible(problem)}", err=True)
    if outcome.problems:
        raise typer.Exit(console.FAILED)
