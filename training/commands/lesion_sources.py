"""Where the pictures of adapters and heads come from: options that name them, and their reading."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.commands.options import finite

if TYPE_CHECKING:
    from training.data.lesions import Lesion

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        exists=True,
        file_okay=False,
        help="Root of the published layout (all/images, all/masks, TASK/DATASET/*.txt); with"
        " --dataset. patients.csv (file,patient) in it names the patients.",
    ),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="A data set of --data, as BUSI.")
]
Labels = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="CSV of pictures with their classes."),
]
Hc18 = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of HC18's heads, with ellipses."),
]
Share = Annotated[
    float,
    typer.Option(
        min=0,
        max=0.9,
        callback=finite,
        help="Share of patients to test on, of data without splits.",
    ),
]
Most = Annotated[
    int | None,
    typer.Option(min=1, help="Only so many pictures of each split: to try a command out."),
]


class TaskName(StrEnum):
    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


class AdapterName(StrEnum):
    """Adapters, and none."""

    NONE = "none"
    MONA = "mona"
    NOISE_AWARE = "mona-noise-aware"
    FREQUENCY = "mona-frequency"
    HYBRID = "mona-hybrid"
    LORA = "lora"
    LORA_SPLIT = "lora-split"
    LORA_MLP = "lora-mlp"


def read_sources(
    task: TaskName,
    data: Path | None,
    dataset: str | None,
    labels: Path | None,
    label_column: str,
    group_column: str,
    leave_out: list[str] | None,
    hc18: Path | None,
) -> "list[Lesion]":
    """The pictures of the one source that is given. Raises UsageError, SampleError."""
    from training.data import labelled, lesions

    if sum(each is not None for each in (data, labels, hc18)) != 1:
        raise UsageError("give pictures by one of --data, --labels and --hc18")
    if (data is None) != (dataset is None):
        raise UsageError("--data and --dataset go together")
    if data is not None and dataset is not None:
        return lesions.read_published(data, task.value, dataset)
    if hc18 is not None:
        if task is not TaskName.SEGMENTATION:
            raise UsageError("--hc18 has masks, no classes: give --task segmentation")
        return lesions.read_hc18(hc18)
    if task is not TaskName.CLASSIFICATION:
        raise UsageError("--labels has classes, no masks: give --task classification")
    assert labels is not None
    pictures = labelled.read_labelled(labels, label_column=label_column, group_column=group_column)
    return lesions.of_labelled(labelled.leave_out(pictures, leave_out or ()))


def class_names(task: TaskName, pictures: "list[Lesion]", hc18: Path | None) -> tuple[str, ...]:
    from training.data.lesions import HEAD_CLASSES, MASK_CLASSES

    if task is TaskName.SEGMENTATION:
        return MASK_CLASSES if hc18 is None else HEAD_CLASSES
    names = tuple(sorted({lesion.label for lesion in pictures}))
    if len(names) < 2:
        raise UsageError(f"two classes at least are needed; there is {', '.join(names) or 'none'}")
    return names
