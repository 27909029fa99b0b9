"""`qc-model dual-branch` and `qc-model train dual-branch`: a classifier of fetal planes."""

import csv
import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.console import UsageError
from detector.errors import QCError
from training.commands.answers import (
    Format,
    FormatOption,
    OutOption,
    Record,
    check_target,
    write_records,
)
from training.commands.options import (
    Annotations,
    ClassFolders,
    Device,
    DicomFolder,
    FetalPlanes,
    Fold,
    Force,
    HeldOut,
    LeaveOut,
    Out,
    PictureList,
    Resume,
    Seed,
    SeedOfDivision,
    finite,
    typed_command,
)
from training.family_recipes import DualBranchRecipe, Loss
from training.recipes import FOLDS

if TYPE_CHECKING:
    from model.dual_branch.network import DualBranch
    from training.data.planes import Plane

app = typer.Typer(no_args_is_help=True, help="The dual-branch classifier of fetal planes.")
_RECIPE = DualBranchRecipe()


class ArchitectureName(StrEnum):
    """The published pairs of backbones, shallow and detailed, and single ones."""

    B0_B6 = "efficientnet-b0-b6"
    RESNETS = "resnet18-resnet34"
    RESNET34_B6 = "resnet34-efficientnet-b6"
    RESNET18_DENSENET = "resnet18-densenet201"
    RESNET18 = "resnet18"
    B7 = "efficientnet-b7"


class Part(StrEnum):
    """Which pictures of a data set that has splits."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        exists=True,
        dir_okay=False,
        help="Text file of the classes, one a line, in the order of the outputs.",
    ),
]
Model = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained classifier.")
]
_Size = Annotated[
    int | None,
    typer.Option(
        min=32,
        max=2048,
        help="Side of the detailed branch's picture in pixels; the shallow one's goes with it."
        " Default: the published sizes.",
    ),
]


def train(
    out: Out,
    annotations: Annotations = None,
    dicom: DicomFolder = None,
    pictures: PictureList = None,
    class_folders: ClassFolders = None,
    fetal_planes: FetalPlanes = None,
    classes: ClassNames = None,
    leave_out: LeaveOut = None,
    architecture: Annotated[
        ArchitectureName, typer.Option(help="Backbones: shallow, then detailed.")
    ] = ArchitectureName.B0_B6,
    size: _Size = None,
    gated: Annotated[
        bool, typer.Option("--gated", help="Learn each branch's share (resnet18-densenet201).")
    ] = False,
    published_layout: Annotated[
        bool,
        typer.Option(
            "--published-layout",
            help="Read whole screens stretched to 852 x 1136, as the published code does.",
        ),
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of a trained or converted one to begin with."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs.")] = _RECIPE.epochs,
    batch: Annotated[int, typer.Option(min=2, help="Pictures a step.")] = _RECIPE.batch,
    learning_rate: Annotated[
        float, typer.Option(min=0, callback=finite, help="Learning rate of AdamW.")
    ] = _RECIPE.learning_rate,
    weight_decay: Annotated[
        float, typer.Option(min=0, callback=finite, help="Weight decay of matrices.")
    ] = _RECIPE.weight_decay,
    cosine: Annotated[
        bool, typer.Option("--cosine", help="Warm up, then lower the learning rate by a cosine.")
    ] = _RECIPE.cosine,
    loss: Annotated[Loss, typer.Option(help="For classes of unlike frequency.")] = _RECIPE.loss,
    smoothing: Annotated[
        float,
        typer.Option(min=0, max=0.5, callback=finite, help="Of the label-smoothing loss."),
    ] = _RECIPE.smoothing,
    focal: Annotated[
        float, typer.Option(min=0, callback=finite, help="Exponent of the focal losses.")
    ] = _RECIPE.focal_gamma,
    balance: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.999999,
            callback=finite,
            help="Beta of class weights by effective number; 0: none.",
        ),
    ] = _RECIPE.balance_beta,
    balance_epoch: Annotated[
        int, typer.Option(min=0, help="Weigh classes from this epoch on (deferred).")
    ] = _RECIPE.balance_epoch,
    frozen_backbones: Annotated[
        bool, typer.Option("--frozen-backbones", help="Let only the head learn.")
    ] = _RECIPE.frozen_backbones,
    augment: Annotated[
        bool, typer.Option(help="Move, scale, mirror and re-tone the pictures.")
    ] = _RECIPE.augment,
    held_out: HeldOut = 0.2,
    fold: Fold = None,
    seed: Seed = _RECIPE.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train the dual-branch classifier on frames labelled with their plane.

    Data sets with splits are divided by them, others by patient (--held-out, or --fold).

    Example: qc-model train dual-branch --out runs/planes --fetal-planes fetal_planes
    --leave-out other --leave-out cervix --architecture resnet18-resnet34 --size 224 --fold 0

    Example: qc-model train dual-branch --out runs/planes --annotations a.csv --dicom files
    """
    from model.device import choose_device
    from model.dual_branch.checkpoint import load_dual_branch
    from model.dual_branch.network import DualBranchConfig, Layout
    from training.data import planes
    from training.data.samples import SampleError
    from training.train import runs
    from training.train.dual_branch import check_training, train_dual_branch

    layout = Layout.PUBLISHED if published_layout else Layout.REGION
    if size is not None and published_layout:
        raise UsageError("--size goes with our layout: the published one has its own sizes")
    recipe = DualBranchRecipe(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        cosine=cosine,
        loss=loss,
        smoothing=smoothing,
        focal_gamma=focal,
        balance_beta=balance,
        balance_epoch=balance_epoch,
        frozen_backbones=frozen_backbones,
        augment=augment,
        seed=seed,
    )
    target = choose_device(device)
    try:
        dataset = _load(annotations, dicom, pictures, class_folders, fetal_planes, leave_out)
        if fold is not None:
            training, validation = planes.leave_fold_out(dataset, fold, FOLDS, seed)
        else:
            training, validation, _ = planes.divide(dataset, held_out, seed)
        names = planes.read_class_names(classes) if classes else _class_names(dataset, annotations)
        planes.check_labels(dataset, names)
        planes.check_present(training, names, "train")
    except SampleError as error:
        raise UsageError(str(error)) from None
    try:
        config = DualBranchConfig(
            architecture.value, names, _sizes(architecture.value, size), layout, gated
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_training(training, validation, recipe)
    begin_with = None if start is None else load_dual_branch(start)
    runs.begin_run(out, resume=resume, force=force)
    facts = train_dual_branch(
        config,
        training,
        validation,
        out,
        recipe,
        device=target,
        start=begin_with,
        resume=resume,
        command=typed_command(),
    )
    validation_facts = facts["validation"]
    typer.echo(
        json.dumps(
            {name: validation_facts[name] for name in ("images", "macro F1")}
            | {"best epoch": facts["best epoch"]},
            indent=1,
        )
    )


@app.command()
def evaluate(
    model: Model,
    annotations: Annotations = None,
    dicom: DicomFolder = None,
    pictures: PictureList = None,
    class_folders: ClassFolders = None,
    fetal_planes: FetalPlanes = None,
    leave_out: LeaveOut = None,
    part: Annotated[
        Part, typer.Option("--split", help="Of a data set with splits: which one.")
    ] = Part.TEST,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="As in training: only these patients. Default: all.",
        ),
    ] = None,
    fold: Fold = None,
    seed: SeedOfDivision = 0,
    with_learnt: Annotated[
        bool,
        typer.Option("--with-learnt", help="Also judge on pictures that the model learnt from."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the figures as JSON.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Draw the confusion matrix (.svg, .png or .pdf)."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write each picture's answer as CSV.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace these files.")] = False,
) -> None:
    """Print how well a classifier tells planes apart: by class, confused with what, macro F1 with
    its interval by patient.

    Example: qc-model dual-branch evaluate --model runs/planes --fetal-planes fetal_planes
    --leave-out other --leave-out cervix --fold 0
    """
    from model.device import choose_device
    from model.dual_branch.checkpoint import load_dual_branch
    from model.dual_branch.preprocess import Preprocessor
    from training.data import planes
    from training.data.samples import SampleError
    from training.evaluation.planes import (
        draw_confusion_matrix,
        plane_metrics,
        print_plane_metrics,
    )
    from training.train.dual_branch import Pictures, predict

    _check_outputs((out, figure, predictions), force)
    if figure is not None and figure.suffix not in (".svg", ".png", ".pdf"):
        raise UsageError("--figure: give a file that ends in .svg, .png or .pdf")
    network = load_dual_branch(model, choose_device(device))
    names = network.config.classes
    try:
        dataset = _load(annotations, dicom, pictures, class_folders, fetal_planes, leave_out)
        planes.check_labels(dataset, names)
        if fold is not None:
            dataset = planes.leave_fold_out(dataset, fold, FOLDS, seed)[1]
        elif any(plane.split for plane in dataset) and part is not Part.ALL:
            dataset = [plane for plane in dataset if plane.split == part.value]
        elif held_out is not None:
            dataset = planes.divide(dataset, held_out, seed)[1]
    except SampleError as error:
        raise UsageError(str(error)) from None
    if not dataset:
        raise UsageError("no picture is left to judge on: give another --split, --fold or data")
    if not with_learnt:
        _refuse_learnt(model, dataset)
    truth = [names.index(plane.label) for plane in dataset]
    probability = predict(network, Pictures(dataset, Preprocessor(network.config)), batch)
    figures = plane_metrics(probability, truth, names, [plane.patient for plane in dataset])
    figures |= {"data sha256": planes.planes_hash(dataset), "command": typed_command()}
    print_plane_metrics(figures)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if figure is not None:
        draw_confusion_matrix(figures, figure)
    if predictions is not None:
        _write_predictions(predictions, dataset, names, probability)


@app.command()
def classify(
    model: Model,
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, pictures and folders of them.")],
    device: Device = "auto",
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    force: Force = False,
) -> None:
    """Say of each frame which plane it shows. A file that cannot be read is named, and the status
    is 1 after all others are done.

    Example: qc-model dual-branch classify --model runs/planes image.dcm
    """
    from model.device import choose_device
    from model.dual_branch.checkpoint import load_dual_branch
    from training.data.labelled import list_pictures

    check_target(out, force=force)
    network = load_dual_branch(model, choose_device(device))
    records = list(_answers(network, list_pictures(paths)))
    write_records(records, ("source", "frame", "class", "probability"), format, out)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A published best_model.pth.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    classes: ClassNames = None,
    architecture: Annotated[
        ArchitectureName | None,
        typer.Option(help="What it has to be. Default: what its tensors say."),
    ] = None,
    force: Force = False,
) -> None:
    """Turn a checkpoint of the published code into a folder of ours, which carries its classes.

    Its classes are the published 16 unless --classes names others.

    Example: qc-model dual-branch convert best_model.pth --out runs/published
    """
    from model.dual_branch.checkpoint import read_published, save_dual_branch
    from model.dual_branch.network import PUBLISHED_CLASSES
    from training.data.planes import read_class_names
    from training.data.samples import SampleError, file_hash
    from training.train import runs

    try:
        names = read_class_names(classes) if classes else PUBLISHED_CLASSES
    except SampleError as error:
        raise UsageError(str(error)) from None
    network = read_published(source, names, None if architecture is None else architecture.value)
    runs.begin_run(out, force=force)
    save_dual_branch(out, network, {"source": source.name, "sha256": file_hash(source)})
    typer.echo(f"{out} written: {network.config.architecture}, {len(names)} classes")


def _load(
    annotations: Path | None,
    dicom: Path | None,
    pictures: Path | None,
    class_folders: Path | None,
    fetal_planes: Path | None,
    left_out: list[str] | None,
) -> "list[Plane]":
    """The planes of the one data set that is named. Raises UsageError, SampleError."""
    from training.data import planes

    given = [each for each in (annotations, pictures, class_folders, fetal_planes) if each]
    if len(given) != 1:
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
        dataset = planes.read_fetal_planes(given[0])
    return planes.leave_out(dataset, left_out or ())


def _class_names(dataset: "Sequence[Plane]", annotations: Path | None) -> tuple[str, ...]:
    """The published classes where those of annotations are among them; else the data's own, by
    name."""
    from model.dual_branch.network import PUBLISHED_CLASSES

    labels = {plane.label for plane in dataset}
    if annotations is not None and labels <= set(PUBLISHED_CLASSES):
        return PUBLISHED_CLASSES
    return tuple(sorted(labels))


def _sizes(architecture: str, detailed: int | None) -> tuple[tuple[int, int], ...]:
    """Square pictures of this side for the detailed branch, and of the shallow branch's share."""
    from model.dual_branch.network import ARCHITECTURES, MIN_SIDE

    if detailed is None:
        return ()
    branches = ARCHITECTURES[architecture].branches
    longest = max(branches[-1].size)
    sides = [max(MIN_SIDE, round(detailed * max(b.size) / longest)) for b in branches]
    return tuple((side, side) for side in sides)


def _refuse_learnt(model: Path, dataset: "Sequence[Plane]") -> None:
    from training.data.samples import file_hash
    from training.train.runs import learnt_pictures

    learnt = learnt_pictures(model) or set()
    count = sum(file_hash(path) in learnt for path in {plane.path for plane in dataset})
    if count:
        raise UsageError(
            f"the model learnt from {count} of these files: judge on others (--fold, --held-out"
            " and --seed as in training), or give --with-learnt"
        )


def _check_outputs(paths: Sequence[Path | None], force: bool) -> None:
    for path in paths:
        check_target(path, force=force)
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def _write_predictions(
    path: Path, dataset: "Sequence[Plane]", names: Sequence[str], probability: Any
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "frame", "class", "predicted", *names])
        for plane, row in zip(dataset, probability, strict=True):
            shares = [f"{value:.6f}" for value in row]
            writer.writerow(
                [plane.path.name, plane.frame, plane.label, names[int(row.argmax())], *shares]
            )


def _answers(network: "DualBranch", paths: Sequence[Path]) -> Iterator[Record]:
    """What the network says of each frame of the files, or why it cannot."""
    from detector.imaging.reader import read_frames
    from model.dual_branch.preprocess import Preprocessor
    from training.train.dual_branch import classify_frame

    preprocessor = Preprocessor(network.config)
    for path in paths:
        try:
            for frame in read_frames(path):
                shares = classify_frame(network, preprocessor, frame)
                best = max(shares, key=lambda name: shares[name])
                yield {
                    "source": str(path),
                    "frame": frame.number,
                    "class": best,
                    "probability": shares[best],
                    "probabilities": shares,
                }
        except QCError as error:
            facts = {"code": error.code.value, "message": error.message}
            yield {"source": str(path), "error": facts}
