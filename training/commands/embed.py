"""`qc-model embed` and `search`: features of pictures, and pictures like these."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.commands.answers import Format, FormatOption, OutOption, check_target, write_records
from training.commands.options import Device, ForceFiles, GroupColumn, LabelColumn

if TYPE_CHECKING:
    from training.data.labelled import LabelledPicture

TOWER_HELP = (
    "efficientnet-lite0, sononet16=FILE, clip=FOLDER (fetalclip convert), spatialclip=FOLDER, or"
    ' several joined by "+".'
)
Tower = Annotated[str, typer.Option(help=TOWER_HELP)]
Cache = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Folder where features of pictures are kept."),
]
Labels = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="CSV of pictures, in place of PATHS."),
]


def embed(
    tower: Tower,
    out: Annotated[Path, typer.Option(dir_okay=False, help="The file: .safetensors or .parquet.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, help="Pictures, DICOM files and folders of them."),
    ] = None,
    labels: Labels = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    cache: Cache = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Write a tower's features of pictures, with the SHA-256, class and patient of each.

    Example: qc-model embed --tower sononet16=sononet16.safetensors --labels planes/labels.csv
    --out planes.parquet
    """
    from model.device import choose_device
    from training.features import embeddings
    from training.features.towers import load_tower

    if out.suffix not in (embeddings.SAFETENSORS, embeddings.PARQUET):
        raise UsageError("--out: name a file that ends in .safetensors or .parquet")
    check_target(out, force=force)
    pictures = labelled_or_listed(paths, labels, label_column, group_column)
    result = embeddings.embed(load_tower(tower, choose_device(device)), pictures, cache)
    embeddings.save_embeddings(out, result)
    rows, width = result.features.shape
    typer.echo(f"{rows} pictures, {width} features each, in {out}")


def search(
    embeddings: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file that embed wrote.")
    ],
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Pictures to find others like.")],
    tower: Tower,
    count: Annotated[int, typer.Option(min=1, help="Neighbours of each picture.")] = 5,
    cache: Cache = None,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """List the pictures most similar to these, by the cosine of their features; the same file is
    left out.

    Example: qc-model search planes.parquet new.png --tower sononet16=sononet16.safetensors
    """
    from model.device import choose_device
    from training.features.embeddings import embed, load_embeddings, nearest
    from training.features.towers import load_tower

    check_target(out, force=force)
    known = load_embeddings(embeddings)
    query = embed(
        load_tower(tower, choose_device(device)),
        labelled_or_listed(paths, None, "plane", "patient"),
        cache,
    )
    if query.tower_key != known.tower_key:
        raise UsageError(
            f"{embeddings.name} is of the tower {known.tower}; {query.tower} is another, or has"
            " other weights"
        )
    # One more than asked, for a picture may find itself.
    order, cosines = nearest(query.features, known.features, len(known.files))
    records = []
    for number, source in enumerate(query.files):
        others = [
            (row, cosine)
            for row, cosine in zip(order[number].tolist(), cosines[number].tolist(), strict=True)
            if known.sha256[row] != query.sha256[number]
        ]
        for rank, (row, cosine) in enumerate(others[:count], 1):
            records.append(
                {
                    "source": source,
                    "rank": rank,
                    "cosine": cosine,
                    "neighbour": known.files[row],
                    "label": known.labels[row] or None,
                }
            )
    write_records(records, ("source", "rank", "cosine", "neighbour", "label"), format, out)


def labelled_or_listed(
    paths: list[Path] | None, labels: Path | None, label_column: str, group_column: str
) -> "list[LabelledPicture]":
    """The pictures of the CSV, else the listed ones without class and patient; raises UsageError
    unless one of both is given."""
    from training.data.labelled import LabelledPicture, list_pictures, read_labelled

    if bool(paths) == (labels is not None):
        raise UsageError("give pictures, or --labels with a CSV of them")
    if labels is not None:
        return read_labelled(labels, label_column=label_column, group_column=group_column)
    return [LabelledPicture(path, "", "") for path in list_pictures(paths or ())]
