"""`qc-model iqa`: which frames are usable, by a head on the tower or by the area of a mask."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.console import UsageError
from training.commands.answers import (
    Format,
    FormatOption,
    OutOption,
    answer_each,
    check_target,
    write_json,
    write_records,
)
from training.commands.lesion_sources import AdapterName, Most, Share
from training.commands.nextgen_uia import Part
from training.commands.options import (
    Augment,
    BatchOfPictures,
    Device,
    Epochs,
    FiguresOut,
    Force,
    ForceFiles,
    GroupColumn,
    LearningRate,
    Out,
    Patience,
    Resume,
    Seed,
    SeedOfDivision,
    SonoNetSide,
    Tower,
    TuneTower,
    Validation,
    finite,
    typed_command,
)
from training.fetalclip_recipes import USABILITY, USABILITY_RANK, USABILITY_SCALE

if TYPE_CHECKING:
    from model.nextgen_uia.network import AdaptedNetwork
    from training.data.lesions import Lesion

app = typer.Typer(no_args_is_help=True, help="FetalCLIP-IQA: which frames are usable.")
COLUMNS = ("source", "usable", "score", "threshold")

Frames = Annotated[
    Path,
    typer.Option(
        exists=True, dir_okay=False, help="CSV of frames: file, patient and --usable-column."
    ),
]
UsableColumn = Annotated[str, typer.Option(help="Its column of what is usable.")]
Usable = Annotated[
    list[str] | None,
    typer.Option(help="Values of that column that mean usable; repeatable. Default: 1."),
]
Run = Annotated[
    Path,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder of iqa train, or of segment train: then the mask's area is the score.",
    ),
]


@app.command()
def train(
    tower: Tower,
    frames: Frames,
    out: Out,
    usable_column: UsableColumn = "usable",
    usable: Usable = None,
    group_column: GroupColumn = "patient",
    adapter: Annotated[
        AdapterName, typer.Option(help="Adapters that learn with the head.")
    ] = AdapterName.LORA_MLP,
    tune_tower: TuneTower = USABILITY.tune_tower,
    held_out: Share = 0.2,
    validation: Validation = 0.1,
    side: SonoNetSide = 224,
    epochs: Epochs = USABILITY.epochs,
    batch: BatchOfPictures = USABILITY.batch,
    learning_rate: LearningRate = USABILITY.learning_rate,
    patience: Patience = USABILITY.patience,
    augment: Augment = USABILITY.augment,
    most: Most = None,
    seed: Seed = USABILITY.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train a linear head on the tower's pooled feature, with LoRA in its blocks, and choose the
    threshold on the patients who validate.

    Example: qc-model iqa train --tower fetalclip --frames frames.csv --out runs/iqa

    Example: qc-model iqa train --tower sononet16.safetensors --adapter none --tune-tower
    --frames frames.csv --usable-column quality --usable standard --out runs/iqa
    """
    from dataclasses import replace

    from model.device import choose_device
    from model.nextgen_uia.network import ClipTower, HeadConfig, HeadKind, Task
    from training.data import labelled
    from training.data.samples import SampleError
    from training.evaluation.usability import CLASSES
    from training.train import runs
    from training.train.loop import check_parts
    from training.train.nextgen_uia.trainer import train_head

    recipe = replace(
        USABILITY,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        patience=patience,
        augment=augment,
        tune_tower=tune_tower,
        seed=seed,
    )
    target = choose_device(device)
    parts = _parts(frames, usable_column, usable, group_column, held_out, validation, seed)
    training_part, validation_part = (parts[name][:most] for name in ("train", "val"))
    try:
        labelled.check_present(training_part, CLASSES, "train")
        labelled.check_present(validation_part, CLASSES, "val")
    except SampleError as error:
        raise UsageError(str(error)) from None
    check_parts(training_part, validation_part, recipe.batch)
    network = _pooled_tower(tower, side)
    adapters = None
    if adapter is not AdapterName.NONE:
        if not isinstance(network, ClipTower):
            raise UsageError("--adapter: SonoNet has no attention blocks; give --adapter none")
        adapters = _adapters(adapter, network.blocks)
    runs.begin_run(out, resume=resume, force=force)
    facts = train_head(
        network.to(target),
        HeadConfig(Task.CLASSIFICATION, CLASSES, kind=HeadKind.POOLED),
        training_part,
        validation_part,
        out,
        recipe,
        adapters=adapters,
        resume=resume,
        command=typed_command(),
    )
    threshold = _calibrate(out, tower, validation_part, batch, device)
    answer = {name: facts[name] for name in ("best epoch", "learnt parameters")}
    typer.echo(json.dumps(answer | {"validation": threshold}, indent=1))


@app.command()
def calibrate(
    run: Run,
    tower: Tower,
    frames: Frames,
    usable_column: UsableColumn = "usable",
    usable: Usable = None,
    group_column: GroupColumn = "patient",
    held_out: Share = 0.2,
    validation: Validation = 0.1,
    batch: BatchOfPictures = 16,
    most: Most = None,
    seed: SeedOfDivision = 0,
    device: Device = "auto",
) -> None:
    """Choose the score from which on frames are usable, of the highest F1 on patients who validate.

    Of a run of segment train the score is the share of the picture that its mask covers.

    Example: qc-model iqa calibrate --run runs/heads --tower fetalclip --frames frames.csv
    """
    parts = _parts(frames, usable_column, usable, group_column, held_out, validation, seed)
    typer.echo(json.dumps(_calibrate(run, tower, parts["val"][:most], batch, device), indent=1))


@app.command()
def evaluate(
    run: Run,
    tower: Tower,
    frames: Frames,
    usable_column: UsableColumn = "usable",
    usable: Usable = None,
    group_column: GroupColumn = "patient",
    held_out: Share = 0.2,
    validation: Validation = 0.1,
    part: Annotated[Part, typer.Option("--split", help="Which frames.")] = Part.TEST,
    batch: BatchOfPictures = 16,
    most: Most = None,
    seed: SeedOfDivision = 0,
    out: FiguresOut = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Print how well usable frames are told, with intervals by patient: at the chosen threshold and
    at the published one (0.5, or 1 % of the picture).

    Example: qc-model iqa evaluate --run runs/iqa --tower fetalclip --frames frames.csv
    """
    import numpy as np

    from training.evaluation import usability
    from training.evaluation.planes import without_nan

    check_target(out, force=force)
    threshold = usability.UsabilityThreshold.load(run)
    parts = _parts(frames, usable_column, usable, group_column, held_out, validation, seed)
    pictures = parts[part.value][:most]
    if not pictures:
        raise UsageError(f"split {part.value} has no frames")
    network, scores = _score(run, tower, pictures, batch, device)
    truth = np.array([each.label == usability.CLASSES[1] for each in pictures])
    groups = [each.group for each in pictures]
    published = usability.PUBLISHED[network.head.config.task]
    figures = without_nan(
        {
            "chosen threshold": usability.usability_metrics(
                scores, truth, groups, threshold.threshold
            ),
            "published threshold": usability.usability_metrics(scores, truth, groups, published),
            "command": typed_command(),
        }
    )
    typer.echo(json.dumps(figures, indent=1))
    write_json(figures, out)


@app.command()
def judge(
    run: Run,
    tower: Tower,
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Pictures, DICOM files and folders of them.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Usable from this score on; default: the run's own.",
        ),
    ] = None,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Say of each frame whether it is usable, and its score. Of a cine the first frame is judged.

    Example: qc-model iqa judge --run runs/iqa --tower fetalclip sweep --format csv --out sweep.csv
    """
    from training.data.labelled import list_pictures
    from training.data.lesions import Lesion
    from training.evaluation.usability import UsabilityThreshold, usability_scores
    from training.train.nextgen_uia.trainer import Pictures

    check_target(out, force=force)
    least = UsabilityThreshold.load(run).threshold if threshold is None else threshold
    files = list_pictures(paths)
    network = _network(run, tower, device)

    def answer(path: Path) -> dict[str, Any]:
        frame = Pictures([Lesion(path, "", "")], network.tower.side, network.head.config)
        score = float(usability_scores(network, frame, 1)[0])
        return {"usable": score >= least, "score": score, "threshold": least}

    write_records(answer_each(files, answer), COLUMNS, format, out)


def _parts(
    frames: Path,
    usable_column: str,
    usable: list[str] | None,
    group_column: str,
    held_out: float,
    validation: float,
    seed: int,
) -> "dict[str, list[Lesion]]":
    """The frames of each split, labelled usable or unusable. Raises UsageError."""
    from dataclasses import replace

    from training.data import labelled, lesions
    from training.data.samples import SampleError
    from training.evaluation.usability import CLASSES

    pictures = labelled.read_labelled(frames, label_column=usable_column, group_column=group_column)
    values, present = set(usable or ("1",)), {each.label for each in pictures}
    missing = sorted(values - present)
    if missing:
        raise UsageError(
            f"--usable {missing[0]}: column {usable_column} has no such value, but"
            f" {', '.join(sorted(present)[:9])}"
        )
    pictures = [replace(each, label=CLASSES[each.label in values]) for each in pictures]
    try:
        return labelled.divide(lesions.of_labelled(pictures), held_out, validation, seed)
    except SampleError as error:
        raise UsageError(str(error)) from None


def _pooled_tower(tower: Path, side: int) -> Any:
    """The tower whose last layer is read."""
    from model.nextgen_uia.checkpoint import load_tower
    from model.nextgen_uia.network import ClipTower

    network = load_tower(tower, None, side)
    if isinstance(network, ClipTower):
        network = ClipTower(network.vision, (network.blocks - 1,)).eval()
    return network


def _adapters(name: AdapterName, blocks: int) -> Any:
    """LoRA with FetalCLIP-IQA's rank and scale, or another adapter as it is published."""
    from math import sqrt

    from model.nextgen_uia.adapters import AdapterConfig, Kind

    kind, layers = Kind(name.value), tuple(range(blocks))
    if kind is not Kind.LORA_MLP:
        return AdapterConfig(kind, layers)
    return AdapterConfig(
        kind, layers, rank=USABILITY_RANK, alpha=USABILITY_SCALE * sqrt(USABILITY_RANK)
    )


def _network(run: Path, tower: Path, device: str) -> "AdaptedNetwork":
    """Raises UsageError on a run that tells other classes."""
    from model.device import choose_device
    from model.nextgen_uia.checkpoint import load_run
    from model.nextgen_uia.network import Task
    from training.evaluation.usability import CLASSES

    network = load_run(run, tower)
    config = network.head.config
    if config.task is Task.CLASSIFICATION and config.classes != CLASSES:
        raise UsageError(
            f"{run} tells {', '.join(config.classes)} apart; give a run of iqa train or segment"
            " train"
        )
    return network.to(choose_device(device))


def _score(
    run: Path, tower: Path, pictures: "list[Lesion]", batch: int, device: str
) -> "tuple[AdaptedNetwork, Any]":
    """Raises UsageError where the run learnt from one of the pictures."""
    from training.evaluation.usability import usability_scores
    from training.train import runs
    from training.train.nextgen_uia.trainer import Pictures

    runs.refuse_learnt(
        run,
        (each.path for each in pictures),
        "judge on others (--held-out, --validation and --seed as in training)",
    )
    network = _network(run, tower, device)
    # Frames have no masks of their own: what is segmented is predicted only.
    frames = Pictures(pictures, network.tower.side, network.head.config)
    return network, usability_scores(network, frames, batch)


def _calibrate(
    run: Path, tower: Path, pictures: "list[Lesion]", batch: int, device: str
) -> dict[str, Any]:
    from dataclasses import asdict

    import numpy as np

    from training.evaluation.usability import CLASSES, choose_threshold

    if not pictures:
        raise UsageError("no frame is held out to validate with: give a larger --validation")
    _, scores = _score(run, tower, pictures, batch, device)
    truth = np.array([each.label == CLASSES[1] for each in pictures])
    threshold = choose_threshold(scores, truth, [each.group for each in pictures])
    threshold.save(run)
    return asdict(threshold)
