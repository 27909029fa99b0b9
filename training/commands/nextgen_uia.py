"""`qc-model nextgen-uia` and `qc-model train adapter`: adapters and heads on an image tower."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.adapter_recipes import HeadRecipe
from training.commands.answers import check_targets, write_json
from training.commands.lesion_sources import (
    AdapterName,
    Data,
    DatasetName,
    Hc18,
    Labels,
    Most,
    Share,
    TaskName,
    class_names,
    read_sources,
)
from training.commands.options import (
    Augment,
    BatchOfPictures,
    Copies,
    Device,
    Epochs,
    FeatureFolder,
    FiguresOut,
    Fold,
    Force,
    ForceFiles,
    GroupColumn,
    LabelColumn,
    LearningRate,
    LeaveOut,
    Out,
    Patience,
    PicturesAStep,
    Resume,
    RocFile,
    Seed,
    SeedOfDivision,
    SonoNetSide,
    Tower,
    TuneTower,
    Validation,
    WithLearnt,
    typed_command,
)
from training.recipes import FOLDS

if TYPE_CHECKING:
    import torch

    from model.nextgen_uia.network import AdaptedNetwork
    from training.data.lesions import Lesion
    from training.train.nextgen_uia.trainer import Pictures

app = typer.Typer(
    no_args_is_help=True, help="NextGen-UIA: adapters and heads on CLIP's image tower."
)
_RECIPE = HeadRecipe()


class Part(StrEnum):
    """Which pictures of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


def train(
    tower: Tower,
    out: Out,
    task: Annotated[TaskName, typer.Option(help="What the head says.")] = TaskName.CLASSIFICATION,
    adapter: Annotated[
        AdapterName, typer.Option(help="New adapters; with --start those of the start are used.")
    ] = AdapterName.HYBRID,
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of trained adapters to begin with.",
        ),
    ] = None,
    data: Data = None,
    dataset: DatasetName = None,
    labels: Labels = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    leave_out: LeaveOut = None,
    hc18: Hc18 = None,
    held_out: Share = 0.2,
    fold: Fold = None,
    validation: Validation = 0.1,
    layers: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Block that the head reads, from 0; repeatable. Default: 3, 6, 9 of twelve.",
        ),
    ] = None,
    side: SonoNetSide = 224,
    width: Annotated[int, typer.Option(min=1, help="Channels of the head.")] = 512,
    shots: Annotated[
        int | None,
        typer.Option(min=1, help="Learn from so many patients of each class only (few-shot)."),
    ] = None,
    epochs: Epochs = _RECIPE.epochs,
    batch: PicturesAStep = _RECIPE.batch,
    learning_rate: LearningRate = _RECIPE.learning_rate,
    patience: Patience = _RECIPE.patience,
    tune_tower: TuneTower = _RECIPE.tune_tower,
    augment: Augment = _RECIPE.augment,
    copies: Copies = _RECIPE.copies,
    cache: FeatureFolder = None,
    most: Most = None,
    seed: Seed = _RECIPE.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train a head on an image tower, with adapters or without: classes, or masks.

    Example: qc-model train adapter --tower clip --out runs/busi --task segmentation
    --data NextGen-UIA --dataset BUSI --adapter mona-hybrid

    Example: qc-model train adapter --tower sononet16.safetensors --adapter none --out runs/heads
    --task segmentation --hc18 hc18_heads --width 128 --tune-tower
    """
    from model.device import choose_device
    from model.nextgen_uia.adapters import AdapterConfig, Kind
    from model.nextgen_uia.checkpoint import load_tower, read_trained
    from model.nextgen_uia.network import ClipTower, HeadConfig, Task
    from training.data import labelled
    from training.data.samples import SampleError
    from training.train import runs
    from training.train.loop import check_parts
    from training.train.nextgen_uia.frozen_features import FrozenFeatures
    from training.train.nextgen_uia.trainer import train_head

    recipe = HeadRecipe(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        patience=patience,
        tune_tower=tune_tower,
        augment=augment,
        copies=copies,
        seed=seed,
    )
    if cache is not None and tune_tower:
        raise UsageError("--cache keeps what a frozen tower gives; --tune-tower changes it")
    if cache is not None and augment and not copies:
        raise UsageError("--cache keeps copies: give --copies 5, say, or --no-augment")
    target = choose_device(device)
    try:
        pictures = read_sources(
            task, data, dataset, labels, label_column, group_column, leave_out, hc18
        )
        parts = (
            labelled.divide(pictures, held_out, validation, seed)
            if fold is None
            else labelled.divide_fold(pictures, fold, FOLDS, validation, seed)
        )
        training_part, validation_part = (parts[name][:most] for name in ("train", "val"))
        classes = class_names(task, pictures, hc18)
        if task is TaskName.CLASSIFICATION:
            labelled.check_present(training_part, classes, "train")
            # A rare class may lack there: in some fold it does.
            missing = sorted(set(classes) - {each.label for each in validation_part})
            if missing and validation_part:
                typer.echo(
                    f"note: split val has no picture of {', '.join(map(repr, missing))}: the epoch"
                    " is chosen by the other classes",
                    err=True,
                )
        if shots is not None:
            training_part = labelled.draw_shots(training_part, shots, seed)
    except SampleError as error:
        raise UsageError(str(error)) from None
    check_parts(training_part, validation_part, recipe.batch)
    network = load_tower(tower, tuple(layers) if layers else None, side)
    begin_with = None if start is None else read_trained(start)
    adapters = None
    if begin_with is None and adapter is not AdapterName.NONE:
        if not isinstance(network, ClipTower):
            raise UsageError("--adapter: SonoNet has no attention blocks; give --adapter none")
        blocks = tuple(range(len(network.vision.encoder.layers)))
        adapters = AdapterConfig(Kind(adapter.value), blocks)
    if cache is not None and begin_with is not None and begin_with.tuned:
        raise UsageError("--cache keeps what the tower itself gives; that of --start was tuned")
    network = network.to(target)
    features = None if cache is None else FrozenFeatures(network, cache)
    runs.begin_run(out, resume=resume, force=force)
    facts = train_head(
        network,
        HeadConfig(Task(task.value), classes, width),
        training_part,
        validation_part,
        out,
        recipe,
        adapters=adapters,
        start=begin_with,
        learnt_before=set() if start is None else runs.learnt_pictures(start),
        features=features,
        resume=resume,
        command=typed_command(),
    )
    answer = {name: facts[name] for name in ("best epoch", "learnt parameters")}
    typer.echo(json.dumps(answer | {"validation": facts["validation"]["score"]}, indent=1))


@app.command()
def evaluate(
    run: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a trained head. Repeatable: of runs over folds each judges the pictures"
            " that it has not seen, and the figures are of all.",
        ),
    ],
    tower: Tower,
    data: Data = None,
    dataset: DatasetName = None,
    labels: Labels = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    leave_out: LeaveOut = None,
    hc18: Hc18 = None,
    held_out: Share = 0.2,
    fold: Fold = None,
    validation: Validation = 0.1,
    part: Annotated[
        Part, typer.Option("--split", help="Which pictures; all: as of another data set.")
    ] = Part.TEST,
    batch: BatchOfPictures = 16,
    most: Most = None,
    seed: SeedOfDivision = 0,
    with_learnt: WithLearnt = False,
    masks: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write each picture's mask as PNG there.")
    ] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Write each picture there with the outlines of the drawn mask (blue) and of the"
            " network's (orange).",
        ),
    ] = None,
    roc: RocFile = None,
    out: FiguresOut = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Print how well a head classifies or segments, with intervals by patient.

    Masks are compared at the pictures' own size: Dice, IoU, HD95 and ASD, in mm where the spacing
    is known; of HC18 also the head circumference. Nothing that failed is left out.

    Example: qc-model nextgen-uia evaluate --run runs/heads --tower sononet16.safetensors
    --hc18 hc18_heads --out runs/heads/figures.json --overlays runs/heads/overlays
    """
    from model.device import choose_device
    from model.nextgen_uia.checkpoint import read_trained
    from model.nextgen_uia.network import Task
    from training.data import labelled, lesions
    from training.data.samples import SampleError
    from training.evaluation.heads_on_towers import evaluate_heads
    from training.evaluation.planes import without_nan
    from training.train import runs

    check_targets(out, force=force, pictures=(roc,))
    heads = [read_trained(each).head for each in run]
    for folder, head in zip(run, heads, strict=True):
        if head is None:
            raise UsageError(f"{folder} holds adapters without a head")
        if head != heads[0]:
            raise UsageError(f"{folder} has another head than {run[0]}: judge it alone")
    assert heads[0] is not None
    is_classification = heads[0].task is Task.CLASSIFICATION
    if roc is not None and not is_classification:
        raise UsageError("--roc goes with heads of classes; masks have --overlays")
    if is_classification and (masks or overlays):
        raise UsageError("--masks and --overlays go with heads of masks; classes have --roc")
    target = choose_device(device)
    task = TaskName(heads[0].task.value)
    try:
        pictures = read_sources(
            task, data, dataset, labels, label_column, group_column, leave_out, hc18
        )
        if len(run) == 1 and part is not Part.ALL:
            parts = (
                labelled.divide(pictures, held_out, validation, seed)
                if fold is None
                else labelled.divide_fold(pictures, fold, FOLDS, validation, seed)
            )
            pictures = parts[part.value]
        pictures = pictures[:most]
        if not pictures:
            raise UsageError(f"split {part.value} has no pictures")
        if is_classification:
            # A class that nobody shows is no fault here; one that the head does not know is.
            labelled.check_labels(pictures, heads[0].classes)
        if len(run) > 1:
            judged = runs.assign_judges(run, [each.path for each in pictures])
        else:
            if not with_learnt:
                runs.refuse_learnt(run[0], (each.path for each in pictures))
            judged = [list(range(len(pictures)))]
        figures = evaluate_heads(
            (
                _judge(folder, tower, [pictures[k] for k in numbers], target)
                for folder, numbers in zip(run, judged, strict=True)
                if numbers
            ),
            batch,
            in_mm=all(each.spacing_mm is not None for each in pictures),
            masks=masks,
            overlays=overlays,
            roc=roc,
        )
    except SampleError as error:
        raise UsageError(str(error)) from None
    figures = without_nan(figures)
    figures |= {"data sha256": lesions.lesions_hash(pictures), "command": typed_command()}
    typer.echo(json.dumps(figures, indent=1))
    write_json(figures, out)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="A published file of adapters alone (.pth)."
        ),
    ],
    tower: Tower,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    mask: Annotated[
        bool,
        typer.Option(
            "--mask",
            help="Give the frequency filter a number for each frequency, equal at first: the"
            " published one has one for a channel's whole spectrum.",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Turn published adapters (Mona of any kind, or LoRA) into a folder that --start takes.

    Example: qc-model nextgen-uia convert best_model.pth --tower clip --out adapters
    """
    from model.nextgen_uia import checkpoint
    from model.nextgen_uia.adapters import add_adapters, grid_side, load_adapter_state
    from model.nextgen_uia.network import ClipTower

    if out.exists() and not force:
        raise UsageError(f"{out} exists: name another, or give --force")
    config, weights = checkpoint.read_published(source)
    network = checkpoint.load_tower(tower, layers=config.layers)
    if not isinstance(network, ClipTower):
        raise UsageError("--tower: SonoNet takes no adapters; give a CLIP folder")
    sha256 = checkpoint.tower_sha256(network)
    if mask:
        config, weights = checkpoint.expand_filter(config, weights, grid_side(network.vision))
    try:
        add_adapters(network, config)
        load_adapter_state(network, weights)
    except ValueError as error:
        raise UsageError(f"{source.name} does not fit --tower: {error}") from None
    checkpoint.save_trained(out, network, sha256, adapters=config)
    typer.echo(f"{out} written: {config.kind}, blocks {config.layers[0]} to {config.layers[-1]}")


def _judge(
    run: Path, tower: Path, pictures: "list[Lesion]", device: "torch.device"
) -> "tuple[AdaptedNetwork, Pictures]":
    """The run's network, and the pictures that it judges."""
    from model.nextgen_uia.checkpoint import load_run
    from training.train.nextgen_uia.trainer import Pictures

    network = load_run(run, tower).to(device)
    return network, Pictures(pictures, network.tower.side, network.head.config)
