"""The commands on models: `bundle list`, `show`, `verify`, `build`, `activate`."""

from pathlib import Path
from typing import Annotated

import typer

from detector import console
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list, write_record
from qc_daemon.settings import load

Name = Annotated[
    str | None,
    typer.Argument(
        help="A shipped bundle's name or a folder; without, the settings' score.bundle.",
        show_default=False,
    ),
]
bundle = typer.Typer(no_args_is_help=True, help="Models: list, verify, build, activate.")


@bundle.command("list")
def bundle_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List shipped bundles and the active one.

    Example: qc-daemon bundle list --config qc-daemon.toml
    """
    from qc_daemon.operations.bundles import list_bundles

    chosen = parse_format(format)
    rows = list_bundles(load_settings(config))
    write_list("bundles", first_page(rows, limit, chosen), chosen)


@bundle.command("show")
def bundle_show(name: Name = None, config: Config = None, format: Format = "table") -> None:
    """Show a bundle's manifest and model card.

    Example: qc-daemon bundle show default --format json
    """
    from qc_daemon.operations.bundles import describe_bundle, show_bundle, without_references

    chosen = parse_format(format)
    name = name or load(config).score.bundle
    if chosen == "table":
        typer.echo(describe_bundle(name))
    else:
        details = show_bundle(name)
        write_record(details if chosen == "json" else without_references(details), chosen)


@bundle.command("verify")
def bundle_verify(name: Name = None, config: Config = None) -> None:
    """Check every file of a bundle against its manifest.

    Example: qc-daemon bundle verify mine/
    """
    from model.bundle.bundle import verify
    from qc_daemon.operations.bundles import bundle_folder

    problems = verify(bundle_folder(name or load(config).score.bundle))
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(console.FAILED)
    say("verified: every file is as the manifest says")


@bundle.command("build")
def bundle_build(
    out: Annotated[Path, typer.Option(help="The new bundle's folder.")],
    detector: Annotated[
        Path, typer.Option(exists=True, help="YOLO folder, or a .pt with --trust.")
    ],
    describer: Annotated[Path, typer.Option(exists=True, file_okay=False, help="BioGPT folder.")],
    spatialclip: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="SpatialCLIP or CLIP folder.")
    ],
    name: Annotated[str, typer.Option(help="Its name, as lists and reports show it.")] = "custom",
    version: Annotated[str, typer.Option(help="Its version, as reports show it.")] = "1",
    clip: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="CLIP folder under a SpatialCLIP checkpoint."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle a .pt that you trust, once.")
    ] = False,
) -> None:
    """Make a bundle of local model folders.

    Example: qc-daemon bundle build --out mine --detector yolo/ --describer biogpt/
    --spatialclip spatialclip/ --name mine
    """
    from model.bundle.build import build

    new_bundle = build(
        detector, describer, spatialclip, out, name=name, version=version, trust=trust, clip=clip
    )
    say(f"{out}: {new_bundle.id.name} {new_bundle.id.version}, model_id {new_bundle.id.model_id}")


@bundle.command("activate")
def bundle_activate(
    name: Annotated[str, typer.Argument(help="A shipped bundle's name or a folder.")],
    config: Config = None,
) -> None:
    """Score new exams with this bundle.

    Example: qc-daemon bundle activate ./mine --config qc-daemon.toml
    """
    from qc_daemon.operations.bundles import activate_bundle

    say(f"active: model_id {activate_bundle(load_settings(config), name)}")
