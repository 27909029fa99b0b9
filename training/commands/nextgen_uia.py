"""`qc-model nextgen-uia`: adapters and heads on CLIP's image tower."""

from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError

app = typer.Typer(
    no_args_is_help=True, help="NextGen-UIA: adapters and heads on CLIP's image tower."
)

Tower = Annotated[
    Path,
    typer.Option(
        "--tower",
        exists=True,
        help="A CLIP folder (config.json, model.safetensors), such as qc-model fetalclip convert"
        " writes; or SonoNet-16's .safetensors.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out holds.")]


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="A published file of adapters alone (.pth)."
        ),
    ],
    tower: Tower,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    mask: Annotated[
        bool,
        typer.Option(
            "--mask",
            help="Give the frequency filter a number for each frequency, equal at first: the"
            " published one has one for a channel's whole spectrum.",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Turn published adapters (Mona of any kind, or LoRA) into a folder that --start takes.

    Example: qc-model nextgen-uia convert best_model.pth --tower clip --out adapters
    """
    from model.nextgen_uia import checkpoint
    from model.nextgen_uia.adapters import add_adapters, grid_side, load_adapter_state
    from model.nextgen_uia.network import ClipTower

    if out.exists() and not force:
        raise UsageError(f"{out} exists: name another, or give --force")
    config, weights = checkpoint.read_published(source)
    network = checkpoint.load_tower(tower, layers=config.layers)
    if not isinstance(network, ClipTower):
        raise UsageError("--tower: SonoNet takes no adapters; give a CLIP folder")
    sha256 = checkpoint.tower_sha256(network)
    if mask:
        config, weights = checkpoint.expand_filter(config, weights, grid_side(network.vision))
    try:
        add_adapters(network, config)
        load_adapter_state(network, weights)
    except ValueError as error:
        raise UsageError(f"{source.name} does not fit --tower: {error}") from None
    checkpoint.save_trained(out, network, sha256, adapters=config)
    typer.echo(f"{out} written: {config.kind}, blocks {config.layers[0]} to {config.layers[-1]}")
