"""`--version` and `--debug` of a command line; apart from `console`, which services import, too."""

from importlib.metadata import version
from typing import Annotated

import typer


def add_version(app: typer.Typer, program: str) -> None:
    """`PROGRAM --version`, and `--debug` in its help."""

    def tell(wanted: bool) -> None:
        if wanted:
            print(program, version("qc-daemon"))
            raise typer.Exit

    @app.callback()
    def options(
        _version: Annotated[
            bool,
            typer.Option("--version", callback=tell, is_eager=True, help="Show it and exit."),
        ] = False,
        # `console.run` takes it off the command line, wherever it stands, before this sees it.
        _debug: Annotated[
            bool,
            typer.Option("--debug", help="Show the traceback of an error (QC_DEBUG=1 does too)."),
        ] = False,
    ) -> None:
        pass
