"""Options that commands of several model families have."""

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError
from model.device import NAMES
from training.recipes import FOLDS

MOST_SEED = 2**32 - 1


def finite(value: float | None) -> float | None:
    """The value; refuses nan and the infinities, which a comparison with a bound lets pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def read_names(rename: list[str] | None) -> dict[str, str]:
    """Pairs OLD=NEW of --rename. Raises UsageError."""
    names = {}
    for each in rename or ():
        old, equals, new = each.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--rename {each}: give OLD=NEW")
        names[old] = new
    return names


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
Epochs = Annotated[int, typer.Option(min=1, help="Epochs.")]
LearningRate = Annotated[
    float, typer.Option(min=0, callback=finite, help="Highest learning rate of AdamW.")
]
Patience = Annotated[
    int, typer.Option(min=1, help="Epochs without a better validation that end the training.")
]
TuneTower = Annotated[
    bool, typer.Option("--tune-tower", help="The whole tower learns, at a tenth of the rate.")
]
SonoNetSide = Annotated[
    int, typer.Option(min=32, max=1024, help="Side of SonoNet's pictures, a multiple of 16.")
]
Augment = Annotated[bool, typer.Option(help="Move, scale, mirror and re-tone the pictures.")]
Copies = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="Learn from a picture and so many augmented copies of it, made once (published: 5, few"
        " shots 10); 0: another one at each step.",
    ),
]
FeatureFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        file_okay=False,
        help="With --copies: what a SpatialCLIP's image networks give of them is kept there, and"
        " read by other folds and runs.",
    ),
]
Validation = Annotated[
    float,
    typer.Option(
        min=0.01, max=0.9, callback=finite, help="Share of the other patients that validates."
    ),
]
PicturesAStep = Annotated[int, typer.Option(min=1, help="Pictures a step.")]
BatchOfPictures = Annotated[int, typer.Option(min=1, help="Pictures at a time.")]
WithLearnt = Annotated[
    bool,
    typer.Option("--with-learnt", help="Also judge on pictures that the model learnt from."),
]
FiguresOut = Annotated[
    Path | None, typer.Option("--out", dir_okay=False, help="Write the figures as JSON.")
]
ForceFiles = Annotated[bool, typer.Option("--force", help="Replace the files that are written.")]
RocFile = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        help="Draw the ROC curve of each class against the others (.svg, .png, .pdf).",
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(
        min=0, max=1, callback=finite, help="Share of patients kept for validation, within 0 and 1."
    ),
]
Fold = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=FOLDS - 1,
        help="Leave this fifth of the patients out: it neither trains nor validates.",
    ),
]
Spacing = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=10,
        callback=finite,
        help="Side of a pixel in mm of files that do not say it.",
    ),
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
LabelColumn = Annotated[str, typer.Option(help="Its column of classes.")]
GroupColumn = Annotated[str, typer.Option(help="Its column of patients.")]
Tower = Annotated[
    Path,
    typer.Option(
        "--tower",
        exists=True,
        help="A CLIP folder (config.json, model.safetensors), such as qc-model fetalclip convert"
        " writes; a SpatialCLIP's (config.json, weights.safetensors), as a bundle has one; or"
        " SonoNet-16's .safetensors.",
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(help="Another name of one of its classes, as thorax=heart; repeatable."),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(help="A class whose pictures are left out; repeatable."),
]
