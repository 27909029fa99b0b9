"""Options that commands of several model families have."""

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from model.device import NAMES
from training.recipes import FOLDS

MOST_SEED = 2**32 - 1


def finite(value: float | None) -> float | None:
    """The value; refuses nan and the infinities, which a comparison with a bound lets pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def typed_command() -> str:
    """The command as it can be typed again, without the folders of this machine."""
    return shlex.join(
        ["qc-model", *(Path(a).name if a.startswith("/") else a for a in sys.argv[1:])]
    )


Out = Annotated[Path, typer.Option(help="Where the run goes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out holds already.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Seed = Annotated[
    int, typer.Option(min=0, max=MOST_SEED, help="Of all that is random: the same again.")
]
SeedOfDivision = Annotated[
    int,
    typer.Option(min=0, max=MOST_SEED, help="As in training: it names the patients held out."),
]
HeldOut = Annotated[
    float,
    typer.Option(
        min=0, max=1, callback=finite, help="Share of patients kept for validation, within 0 and 1."
    ),
]
Fold = Annotated[
    int | None,
    typer.Option(min=0, max=FOLDS - 1, help="Hold this fifth of the patients out instead."),
]
Device = Annotated[str, typer.Option(help=f"Where the networks run: {NAMES}.")]

Annotations = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="CSV of frames in DICOM files (SOPInstanceUID, split, class, class_int, frame);"
        " with --dicom.",
    ),
]
DicomFolder = Annotated[
    Path | None,
    typer.Option("--dicom", exists=True, file_okay=False, help="Folder of --annotations' files."),
]
PictureList = Annotated[
    Path | None,
    typer.Option(
        "--pictures",
        exists=True,
        dir_okay=False,
        help="CSV of pictures beside it (file, class, patient; split where wanted).",
    ),
]
ClassFolders = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder with a folder of pictures for each class; the patient is what stands before"
        " the first _ of a name.",
    ),
]
FetalPlanes = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of FETAL_PLANES_DB's planes (labels.csv)."
    ),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(help="A class whose pictures are left out; repeatable."),
]
