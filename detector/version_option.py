"""`--version` of a command line; apart from `console`, which services import, too."""

from importlib.metadata import version
from typing import Annotated

import typer


def add_version(app: typer.Typer, program: str) -> None:
    """`PROGRAM --version`."""

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
    ) -> None:
        pass
