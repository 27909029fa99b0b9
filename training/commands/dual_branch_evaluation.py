"""`qc-model dual-branch evaluate` and `abstention`: how good classifiers of planes are, and when
they name none."""

import csv
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.console import UsageError
from training.commands.answers import check_target, check_targets, write_json
from training.commands.options import (
    Annotations,
    BatchOfPictures,
    ClassFolders,
    Device,
    DicomFolder,
    FetalPlanes,
    FiguresOut,
    Fold,
    ForceFiles,
    LeaveOut,
    PictureList,
    RocFile,
    SeedOfDivision,
    WithLearnt,
    finite,
    typed_command,
)
from training.commands.plane_sources import LeastProbability, Model, least_of, read_sources
from training.recipes import FOLDS

if TYPE_CHECKING:
    import torch

    from training.data.planes import Plane


class Part(StrEnum):
    """Which pictures of a data set that has splits."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


Split = Annotated[Part, typer.Option("--split", help="Of a data set with splits: which one.")]
HeldOut = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, callback=finite, help="As in training: only these patients. Default: all."
    ),
]


def evaluate(
    model: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a trained classifier. Repeatable: of classifiers over folds each judges"
            " the pictures that it has not seen, and the figures are of all.",
        ),
    ],
    annotations: Annotations = None,
    dicom: DicomFolder = None,
    pictures: PictureList = None,
    class_folders: ClassFolders = None,
    fetal_planes: FetalPlanes = None,
    leave_out: LeaveOut = None,
    unknown: Annotated[
        list[str] | None,
        typer.Option(help="A class that was not learnt, to check abstention on; repeatable."),
    ] = None,
    part: Split = Part.TEST,
    held_out: HeldOut = None,
    fold: Fold = None,
    seed: SeedOfDivision = 0,
    with_learnt: WithLearnt = False,
    least_probability: LeastProbability = None,
    batch: BatchOfPictures = 16,
    device: Device = "auto",
    out: FiguresOut = None,
    figure: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Draw the confusion matrix (.svg, .png or .pdf)."),
    ] = None,
    roc: RocFile = None,
    predictions: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write each picture's answer as CSV.")
    ] = None,
    force: ForceFiles = False,
) -> None:
    """Print how well classifiers tell planes apart: by class, confused with what, macro F1 with its
    interval by patient; and how many pictures get a class where they may abstain.

    Example: qc-model dual-branch evaluate --model runs/planes --fetal-planes fetal_planes
    --leave-out other --leave-out cervix --fold 0

    Example: qc-model dual-branch evaluate --model runs/fold0 --model runs/fold1 --model runs/fold2
    --model runs/fold3 --model runs/fold4 --fetal-planes fetal_planes --unknown other
    """
    import numpy as np

    from model.device import choose_device
    from training.data import labelled, planes
    from training.data.samples import SampleError
    from training.evaluation.abstention import abstention_metrics
    from training.evaluation.planes import (
        draw_confusion_matrix,
        draw_roc,
        plane_metrics,
        print_abstention,
        print_plane_metrics,
        without_nan,
    )
    from training.train import runs

    check_targets(out, predictions, force=force, pictures=(figure, roc))
    target = choose_device(device)
    names = _classes_of(model)
    try:
        dataset = read_sources(annotations, dicom, pictures, class_folders, fetal_planes, leave_out)
        test_planes = labelled.leave_out(dataset, unknown or (), "--unknown")
        unknown_planes = [plane for plane in dataset if plane.label in (unknown or ())]
        labelled.check_labels(test_planes, names)
        if len(model) == 1:
            test_planes = _part(test_planes, part, held_out, fold, seed)
        if not test_planes:
            raise UsageError("no picture is left to judge on: give another --split, --fold or data")
        if len(model) > 1:
            parts = runs.assign_judges(model, [plane.path for plane in test_planes])
        else:
            if not with_learnt:
                runs.refuse_learnt(model[0], (plane.path for plane in test_planes))
            parts = [list(range(len(test_planes)))]
    except SampleError as error:
        raise UsageError(str(error)) from None
    probability = np.zeros((len(test_planes), len(names)))
    least = np.zeros(len(test_planes))
    is_rejected: list[bool] = []
    for folder, numbers in zip(model, parts, strict=True):
        if not numbers and not unknown_planes:
            continue
        threshold = least_of(folder, least_probability)
        least[numbers] = threshold
        answers = _predict(
            folder, [*(test_planes[k] for k in numbers), *unknown_planes], batch, target
        )
        probability[numbers] = answers[: len(numbers)]
        is_rejected += (answers[len(numbers) :].max(1) < threshold).tolist()
    truth = [names.index(plane.label) for plane in test_planes]
    groups = [plane.group for plane in test_planes]
    figures = plane_metrics(probability, truth, names, groups)
    figures["with abstention"] = without_nan(
        abstention_metrics(probability, truth, names, groups, least)
    )
    if unknown_planes:
        # Each model has judged each of them.
        figures["unknown"] = {
            "pictures": len(unknown_planes),
            "rejected": float(np.mean(is_rejected)),
        }
    figures |= {"data sha256": planes.planes_hash(test_planes), "command": typed_command()}
    print_plane_metrics(figures)
    print_abstention(figures)
    write_json(figures, out)
    if figure is not None:
        draw_confusion_matrix(figures, figure)
    if roc is not None:
        draw_roc(probability, truth, names, roc)
    if predictions is not None:
        _write_predictions(predictions, test_planes, names, probability, least)


def abstention(
    model: Model,
    annotations: Annotations = None,
    dicom: DicomFolder = None,
    pictures: PictureList = None,
    class_folders: ClassFolders = None,
    fetal_planes: FetalPlanes = None,
    leave_out: LeaveOut = None,
    part: Split = Part.VAL,
    held_out: HeldOut = None,
    seed: SeedOfDivision = 0,
    accuracy: Annotated[
        float,
        typer.Option(
            min=0.5, max=1, callback=finite, help="Share of the named classes that shall be right."
        ),
    ] = 0.95,
    with_learnt: WithLearnt = False,
    batch: BatchOfPictures = 16,
    device: Device = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the threshold that the model has.")
    ] = False,
) -> None:
    """Fit below which probability a classifier names no class, on patients held out, and keep it
    with the model.

    Example: qc-model dual-branch abstention --model runs/published --pictures ours/pictures.csv
    """
    from model.device import choose_device
    from training.data import labelled
    from training.data.samples import SampleError
    from training.evaluation.abstention import fit_abstention, save_abstention
    from training.train import runs

    check_target(model / runs.ABSTENTION, force=force)
    target = choose_device(device)
    names = _classes_of([model])
    try:
        dataset = read_sources(annotations, dicom, pictures, class_folders, fetal_planes, leave_out)
        labelled.check_labels(dataset, names)
        dataset = _part(dataset, part, held_out, None, seed)
    except SampleError as error:
        raise UsageError(str(error)) from None
    if not dataset:
        raise UsageError("no picture is left to fit on: give another --split, --held-out or data")
    if not with_learnt:
        runs.refuse_learnt(model, (plane.path for plane in dataset))
    rule = fit_abstention(
        _predict(model, dataset, batch, target),
        [names.index(plane.label) for plane in dataset],
        [plane.group for plane in dataset],
        accuracy,
    )
    save_abstention(model / runs.ABSTENTION, rule)
    typer.echo(json.dumps(rule.to_json(), indent=1))


def _part(
    dataset: "list[Plane]", part: Part, held_out: float | None, fold: int | None, seed: int
) -> "list[Plane]":
    """Those that are asked for. Raises SampleError."""
    from training.data import labelled

    if fold is not None:
        return labelled.leave_fold_out(dataset, fold, FOLDS, seed)[1]
    if any(plane.split for plane in dataset):
        return [plane for plane in dataset if part is Part.ALL or plane.split == part.value]
    if held_out is not None:
        return labelled.divide(dataset, 0, held_out, seed)["val"]
    return dataset


def _classes_of(models: Sequence[Path]) -> tuple[str, ...]:
    """The classes that all of these name. Raises UsageError where they differ."""
    from model.dual_branch.checkpoint import read_config

    names = [read_config(model).classes for model in models]
    for model, each in zip(models, names, strict=True):
        if each != names[0]:
            raise UsageError(f"{model} has other classes than {models[0]}: judge it alone")
    return names[0]


def _predict(model: Path, dataset: "list[Plane]", batch: int, device: "torch.device") -> Any:
    """(N, C) probabilities of a model."""
    from model.dual_branch.checkpoint import load_dual_branch
    from model.dual_branch.preprocess import Preprocessor
    from training.train.dual_branch.trainer import Pictures, predict

    network = load_dual_branch(model, device)
    return predict(network, Pictures(dataset, Preprocessor(network.config)), batch)


def _write_predictions(
    path: Path, dataset: "Sequence[Plane]", names: Sequence[str], probability: Any, least: Any
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "frame", "class", "predicted", "answered", *names])
        for plane, row, threshold in zip(dataset, probability, least, strict=True):
            shares = [f"{value:.6f}" for value in row]
            is_answered = int(row.max() >= threshold)
            name = names[int(row.argmax())]
            writer.writerow([plane.path.name, plane.frame, plane.label, name, is_answered, *shares])
