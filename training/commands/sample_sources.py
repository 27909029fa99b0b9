"""Options of commands on a bundle's parts: their pictures, their folders, how they are divided."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.commands.options import MOST_SEED, finite
from training.data.samples import Origin
from training.recipes import FOLDS

if TYPE_CHECKING:
    from training.data.samples import Sample


def _stride(value: int) -> int:
    if value % 32:
        raise typer.BadParameter(f"{value} is no multiple of 32, the coarsest stride.")
    return value


Samples = Annotated[
    list[Path] | None,
    typer.Option(
        "--samples",
        exists=True,
        dir_okay=False,
        help="SpatialCLIP JSON, each sample with its origin, real or simulated; repeatable.",
    ),
]
OriginOfSamples = Annotated[
    Origin | None,
    typer.Option("--origin", help="Origin of the JSON's samples that do not name theirs."),
]
FetusFramework = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of the Fetus Framework data set."),
]
Dicom = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of other ultrasound; its tuning half is used."
    ),
]
Detector = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained detector.")
]
Describer = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained describer.")
]
Start = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of a trained one to begin with."),
]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of a detector's training.")]
SeedOfDivision = Annotated[
    int,
    typer.Option(min=0, max=MOST_SEED, help="As in training: it names the groups held out."),
]
HeldOut = Annotated[
    float,
    typer.Option(
        min=0, max=1, callback=finite, help="Share of groups kept for validation, within 0 and 1."
    ),
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Its splits; repeatable.")]
Fold = Annotated[
    int | None,
    typer.Option(min=0, max=FOLDS - 1, help="Hold this fold of the real pictures out instead."),
]
Hc18 = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of HC18's heads, with ellipses (labels.csv)."
    ),
]
HeadStructures = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder of heads with boxed falx and choroid plexus (boxes.csv).",
    ),
]
Unlabelled = Annotated[
    float,
    typer.Option(
        min=0,
        callback=finite,
        help="Pictures without a quality label an epoch, for each labelled real one; 0: all.",
    ),
]
DetectorSide = Annotated[
    int,
    typer.Option(
        min=32,
        max=4096,
        callback=_stride,
        help="Side of a detector's picture in pixels, a multiple of 32.",
    ),
]


def check_split(split: list[str] | None, fetus_framework: Path | None) -> None:
    """Raises UsageError on splits without their data set."""
    if split and not fetus_framework:
        raise UsageError("--split goes with --fetus-framework")


def check_fold(fold: int | None, validation: "list[Sample]") -> None:
    """Raises UsageError where the fold holds no picture to validate with."""
    if fold is not None and not validation:
        raise UsageError(
            f"--fold {fold} holds no real picture: simulated ones are never held out by folds"
        )
