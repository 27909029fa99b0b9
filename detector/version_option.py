"""The options `--version` and `--debug` of a command line.

Not in `console`, because services import that one and must not load typer.
"""

from importlib.metadata import version
from typing import Annotated

import typer


def add_version(app: typer.Typer, program: str) -> None:
    """Adds `--version`, which prints the program's name and version, and `--debug` to its help."""

    def show_version(is_requested: bool) -> None:
        if is_requested:
            print(program, version("qc-daemon"))
            raise typer.Exit

    @app.callback()
    def options(
        _version: Annotated[
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Show it and exit."
            ),
        ] = False,
        # `console.run` takes it off the command line, wherever it stands, before this sees it.
        _debug: Annotated[
            bool,
            typer.Option("--debug", help="Show the traceback of an error (QC_DEBUG=1 does too)."),
        ] = False,
    ) -> None:
        pass
