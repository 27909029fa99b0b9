"""`qc-model fetalclip`: its checkpoints and published figures."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError

app = typer.Typer(no_args_is_help=True, help="FetalCLIP: checkpoints and published figures.")


class FiguresFormat(StrEnum):
    """How figures are written."""

    TABLE = "table"
    JSON = "json"


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="An open_clip checkpoint (.pt, .pth, .bin, .safetensors), or a folder that this"
            " command wrote.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder to write; from a folder, a .safetensors file.")
    ],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CLIP's byte pairs, bpe_simple_vocab_16e6.txt.gz (in PyPI's open-clip-torch):"
            " needed for what reads texts.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="open_clip's JSON of another size; default: FetalCLIP's ViT-L/14 with 117 text"
            " positions.",
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 that the checkpoint has to have.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what --out holds.")] = False,
) -> None:
    """Turn an open_clip checkpoint into a folder of ours, or such a folder into one of open_clip's.

    Example: qc-model fetalclip convert FetalCLIP_weights.pt --out fetalclip
    --vocabulary bpe_simple_vocab_16e6.txt.gz

    Example: qc-model fetalclip convert fetalclip --out fetalclip.safetensors
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists: name another, or give --force")
    if source.is_dir():
        _to_file(source, out)
    else:
        _to_folder(source, out, vocabulary, config, sha256)
    typer.echo(f"{out} written")


def _to_folder(
    source: Path, out: Path, vocabulary: Path | None, config: Path | None, sha256: str | None
) -> None:
    from model.fetalclip import checkpoint
    from model.fetalclip.network import Architecture
    from model.fetalclip.preprocess import read_vocabulary

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    architecture = Architecture() if config is None else Architecture.of_open_clip(config)
    tokenizer = None
    if vocabulary is not None:
        tokenizer = read_vocabulary(vocabulary, architecture.vocabulary)
    state = checkpoint.read_open_clip(source, sha256)
    network = checkpoint.from_open_clip(state, architecture)
    facts = {"name": source.name, "sha256": checkpoint.file_sha256(source)}
    checkpoint.save_fetalclip(out, network, tokenizer, facts)


def _to_file(source: Path, out: Path) -> None:
    from safetensors.torch import save_file

    from model.fetalclip import checkpoint

    if out.suffix != ".safetensors" or out.is_dir():
        raise UsageError("--out: from a folder, name a file that ends in .safetensors")
    network = checkpoint.load_fetalclip(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(checkpoint.to_open_clip(network), out, metadata={"format": "pt"})


@app.command()
def figures(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Folder of the published outputs: hc18_similarity.npz,"
            " test_five_planes_prediction.json, test_brain_subplanes_prediction.json.",
        ),
    ],
    format: Annotated[
        FiguresFormat, typer.Option("--format", help="table or json.")
    ] = FiguresFormat.TABLE,
) -> None:
    """Compute FetalCLIP's published figures again from its published outputs.

    Example: qc-model fetalclip figures fetalclip_ga --format json
    """
    from training.evaluation.fetalclip_figures import published_figures

    result = published_figures(folder)
    if format is FiguresFormat.JSON:
        typer.echo(json.dumps(result, indent=1))
        return
    for figure in result["figures"]:
        low, high = figure["interval"]
        typer.echo(
            f"{figure['name']}: {figure['value']:.4f} ({low:.4f} to {high:.4f}) over"
            f" {figure['n']} pictures; published {figure['published']:.4f}\n  {figure['note']}"
        )
