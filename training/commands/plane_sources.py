"""Where planes and their classifiers come from: options that name them, and their reading."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.commands.options import finite

if TYPE_CHECKING:
    from training.data.planes import Plane

Model = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained classifier.")
]
LeastProbability = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        callback=finite,
        help="Below it no class is named; 0: always one. Default: what the model was fitted to.",
    ),
]


def least_of(model: Path, least_probability: float | None) -> float:
    """Below which probability this model names no class."""
    from training.evaluation.abstention import read_abstention
    from training.train.runs import ABSTENTION

    if least_probability is not None:
        return least_probability
    abstention = read_abstention(model / ABSTENTION)
    return 0.0 if abstention is None else abstention.least_probability


def read_sources(
    annotations: Path | None,
    dicom: Path | None,
    pictures: Path | None,
    class_folders: Path | None,
    fetal_planes: Path | None,
    left_out: list[str] | None,
) -> "list[Plane]":
    """The planes of the one data set that is named. Raises UsageError, SampleError."""
    from training.data import labelled, planes

    sources = [each for each in (annotations, pictures, class_folders, fetal_planes) if each]
    if len(sources) != 1:
        raise UsageError("give one of --annotations, --pictures, --class-folders, --fetal-planes")
    if (annotations is None) != (dicom is None):
        raise UsageError("--annotations and --dicom go together")
    if annotations is not None and dicom is not None:
        dataset = planes.read_annotations(annotations, dicom)
    elif pictures is not None:
        dataset = planes.read_pictures(pictures)
    elif class_folders is not None:
        dataset = planes.read_class_folders(class_folders)
    else:
        dataset = planes.read_fetal_planes(sources[0])
    return labelled.leave_out(dataset, left_out or ())
