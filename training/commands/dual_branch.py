"""`qc-model dual-branch` and `qc-model train dual-branch`: a classifier of fetal planes."""

import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Augment,
    ClassFolders,
    Device,
    DicomFolder,
    Epochs,
    FetalPlanes,
    Fold,
    Force,
    ForceFiles,
    HeldOut,
    LearningRate,
    LeaveOut,
    Out,
    PictureList,
    Resume,
    Seed,
    finite,
    typed_command,
)
from training.commands.plane_sources import LeastProbability, Model, least_of, read_sources
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


ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        exists=True,
        dir_okay=False,
        help="Text file of the classes, one a line, in the order of the outputs.",
    ),
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
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE: weights that a backbone begins with, as timm's ImageNet ones"
            " (resnet18=model.safetensors); repeatable.",
        ),
    ] = None,
    epochs: Epochs = _RECIPE.epochs,
    batch: Annotated[int, typer.Option(min=2, help="Pictures a step.")] = _RECIPE.batch,
    learning_rate: LearningRate = _RECIPE.learning_rate,
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
    augment: Augment = _RECIPE.augment,
    held_out: HeldOut = 0.2,
    fold: Fold = None,
    seed: Seed = _RECIPE.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train the dual-branch classifier on frames labelled with their plane.

    Data sets with splits are divided by them, others by patient: --held-out of them validate,
    without those of --fold, which are left for qc-model dual-branch evaluate.

    Example: qc-model train dual-branch --out runs/planes --fetal-planes fetal_planes
    --leave-out other --leave-out cervix --architecture resnet18-resnet34 --size 224 --fold 0

    Example: qc-model train dual-branch --out runs/planes --annotations a.csv --dicom files
    """
    from model.device import choose_device
    from model.dual_branch.checkpoint import load_backbones, load_dual_branch
    from model.dual_branch.network import DualBranch, DualBranchConfig, Layout
    from training.data import labelled, planes
    from training.data.samples import SampleError
    from training.train import runs
    from training.train.dual_branch.trainer import train_dual_branch
    from training.train.loop import check_parts

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
        dataset = read_sources(annotations, dicom, pictures, class_folders, fetal_planes, leave_out)
        parts = (
            labelled.divide(dataset, 0, held_out, seed)
            if fold is None
            else labelled.divide_fold(dataset, fold, FOLDS, held_out, seed)
        )
        training, validation = parts["train"], parts["val"]
        names = planes.read_class_names(classes) if classes else _class_names(dataset, annotations)
        labelled.check_labels(dataset, names)
        labelled.check_present(training, names, "train")
    except SampleError as error:
        raise UsageError(str(error)) from None
    try:
        config = DualBranchConfig(
            architecture.value, names, _sizes(architecture.value, size), layout, gated
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_parts(training, validation, recipe.batch)
    if start is not None and backbone:
        raise UsageError("--start and --backbone both give the backbones' weights: give one")
    files = _backbone_files(backbone)
    begin_with = None if start is None else load_dual_branch(start)
    if files:
        # A wrong file is said before a run is begun.
        load_backbones(DualBranch(config), files)
    runs.begin_run(out, resume=resume, force=force)
    facts = train_dual_branch(
        config,
        training,
        validation,
        out,
        recipe,
        device=target,
        start=begin_with,
        backbones=files,
        learnt_before=set() if start is None else runs.learnt_pictures(start),
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
def classify(
    model: Model,
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, pictures and folders of them.")],
    least_probability: LeastProbability = None,
    device: Device = "auto",
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    force: ForceFiles = False,
) -> None:
    """Say of each frame which plane it shows, or none where its probability is too low. A file that
    cannot be read is named, and the status is 1 after all others are done.

    Example: qc-model dual-branch classify --model runs/planes image.dcm
    """
    from model.device import choose_device
    from model.dual_branch.checkpoint import load_dual_branch
    from training.data.labelled import list_pictures

    check_target(out, force=force)
    network = load_dual_branch(model, choose_device(device))
    least = least_of(model, least_probability)
    records = list(_answers(network, list_pictures(paths), least))
    columns = ("source", "frame", "class", "closest", "probability")
    write_records(records, columns, format, out)


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


def _class_names(dataset: "Sequence[Plane]", annotations: Path | None) -> tuple[str, ...]:
    """The published classes where those of annotations are among them; else the data's own, by
    name."""
    from model.dual_branch.network import PUBLISHED_CLASSES

    labels = {plane.label for plane in dataset}
    if annotations is not None and labels <= set(PUBLISHED_CLASSES):
        return PUBLISHED_CLASSES
    return tuple(sorted(labels))


def _backbone_files(backbones: list[str] | None) -> dict[str, Path]:
    """The files of --backbone NAME=FILE. Raises UsageError."""
    files = {}
    for each in backbones or ():
        name, equals, file = each.partition("=")
        if not (name and equals and Path(file).is_file()):
            raise UsageError(
                f"--backbone {each}: give NAME=FILE, a .safetensors file that is there"
            )
        files[name] = Path(file)
    return files


def _sizes(architecture: str, detailed: int | None) -> tuple[tuple[int, int], ...]:
    """Square pictures of this side for the detailed branch, and of the shallow branch's share."""
    from model.dual_branch.network import ARCHITECTURES, MIN_SIDE

    if detailed is None:
        return ()
    branches = ARCHITECTURES[architecture].branches
    longest = max(branches[-1].size)
    sides = [max(MIN_SIDE, round(detailed * max(b.size) / longest)) for b in branches]
    return tuple((side, side) for side in sides)


def _answers(network: "DualBranch", paths: Sequence[Path], least: float) -> Iterator[Record]:
    """What the network says of each frame of the files, or why it cannot."""
    from detector.imaging.reader import read_frames
    from model.dual_branch.preprocess import Preprocessor
    from training.train.dual_branch.trainer import classify_frame

    preprocessor = Preprocessor(network.config)
    for path in paths:
        try:
            for frame in read_frames(path):
                shares = classify_frame(network, preprocessor, frame)
                best = max(shares, key=lambda name: shares[name])
                yield {
                    "source": str(path),
                    "frame": frame.number,
                    "class": best if shares[best] >= least else None,
                    "closest": best,
                    "probability": shares[best],
                    "probabilities": shares,
                }
        except QCError as error:
            facts = {"code": error.code.value, "message": error.message}
            yield {"source": str(path), "error": facts}
