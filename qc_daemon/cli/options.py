"""Options and arguments that several commands share, the settings that they name, row limits, and
the report of a change."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector import console
from detector.plain_text import count_of, visible
from qc_daemon.cli.output import FORMAT_HELP, TABLE_LIMIT, say
from qc_daemon.settings import Settings, load
from qc_daemon.settings.problems import CONFIG_VARIABLE

if TYPE_CHECKING:
    from qc_daemon.operations.shared import Listing, Outcome

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=CONFIG_VARIABLE,
        help="Settings file (TOML). Without it defaults count, files in ./var.",
    ),
]
Paths = Annotated[list[Path], typer.Argument(help="Files or folders.")]
Format = Annotated[str, typer.Option("--format", help=FORMAT_HELP)]
Limit = Annotated[
    int | None,
    typer.Option(help=f"At most so many, 0: all. A table has {TABLE_LIMIT} unless told otherwise."),
]
Patient = Annotated[
    str | None,
    typer.Option(
        help="Whole patient ID; or words of the name or their beginnings, each of which must begin"
        ' a word of the name, as "jan do" for Doe^Jane; order, case and accents do not count.'
    ),
]
LARGEST_ID = 2**63 - 1  # Ids are signed 64-bit integers in the database.
Ids = Annotated[list[int], typer.Argument(min=1, max=LARGEST_ID, help="As listed.")]
Since = Annotated[
    str | None, typer.Option(help="From this day or moment on: ISO 8601, UTC unless it says.")
]
Until = Annotated[
    str | None, typer.Option(help="Up to this day, which counts whole, or before this moment.")
]
By = Annotated[str, typer.Option("--by", help="Name of the person who decides it.")]
_OLD_NAMES = dict.fromkeys(("changed-by", "confirmed-by", "dismissed-by", "retracted-by"), "by")
AllFrames = Annotated[
    bool | None,
    typer.Option(
        "--all-frames/--best-frames",
        help="Of a cine every frame scored, or the best of each view: a table or CSV has the"
        " best, JSON all, unless told otherwise.",
    ),
]


# The name that the documents give a settings file.
_USUAL_NAME = "qc-daemon.toml"
_STORE_VARIABLE = "QC_DAEMON_STORE"


def option_name(name: str) -> str:
    """The option's name now, for the one that an earlier version had; both without dashes."""
    return _OLD_NAMES.get(name, name)


def load_settings(config: Path | None) -> Settings:
    """The settings of the file and the environment. Raises SettingsError.

    Without a file a line on stderr says where the defaults look: in another folder a command would
    otherwise ask an empty database, or propose to make one.
    """
    settings = load(config)
    if config is None and not any(name.upper().startswith(_STORE_VARIABLE) for name in os.environ):
        folder = visible(str(settings.store.spool.parent))
        here = Path(_USUAL_NAME).is_file()
        fix = (
            f"here is a {_USUAL_NAME}: give --config {_USUAL_NAME}"
            if here
            else "give --config FILE unless that is meant"
        )
        typer.echo(f"no settings file (--config): defaults, files in {folder}; {fix}", err=True)
    return settings


def row_limit(limit: int | None, output_format: str) -> int:
    """The most rows to show, 0 for all: a table has TABLE_LIMIT, other formats all by default."""
    if limit is not None:
        return limit
    return TABLE_LIMIT if output_format == "table" else 0


def first_page(rows: Sequence[dict[str, Any]], limit: int | None, output_format: str) -> "Listing":
    """The first rows, up to the limit, of a list that is in memory as a whole."""
    from qc_daemon.operations.shared import Listing, parse_window

    most = parse_window(None, None, row_limit(limit, output_format)).limit
    return Listing(rows[:most], len(rows))


def report_outcome(outcome: "Outcome", one: str, several: str) -> None:
    """Print how many were changed, and a line for each that was not, which is a failure.

    `one` and `several` follow the count: "job is ready again", "jobs are ready again".
    """
    if outcome.count or not outcome.problems:
        say(count_of(outcome.count, one, several))
    for problem in outcome.problems:
        typer.echo(f"error: {visible(problem)}", err=True)
    if outcome.problems:
        raise typer.Exit(console.FAILED)
