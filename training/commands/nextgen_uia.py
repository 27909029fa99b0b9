"""`qc-model nextgen-uia` and `qc-model train adapter`: adapters and heads on CLIP's image tower."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.adapter_recipes import HeadRecipe
from training.commands.options import typed_command

if TYPE_CHECKING:
    from training.data.lesions import Lesion

app = typer.Typer(
    no_args_is_help=True, help="NextGen-UIA: adapters and heads on CLIP's image tower."
)

Tower = Annotated[
    Path,
    typer.Option(
        "--tower",
        exists=True,
        help="A CLIP folder (config.json, model.safetensors), such as qc-model fetalclip convert"
        " writes; or SonoNet-16's .safetensors.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out holds.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Device = Annotated[str, typer.Option(help="Where the networks run: auto, cpu, cuda or cuda:N.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Of all that is random: the same again.")
]
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
LabelsFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="CSV of pictures with their classes."),
]
LabelColumn = Annotated[str, typer.Option(help="Its column of classes.")]
GroupColumn = Annotated[str, typer.Option(help="Its column of patients.")]
LeaveOut = Annotated[
    list[str] | None, typer.Option(help="A class of --labels to leave out; repeatable.")
]
Hc18 = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of HC18's heads, with ellipses."),
]
Share = Annotated[
    float,
    typer.Option(min=0, max=0.9, help="Share of patients to test on, of data without splits."),
]
Most = Annotated[
    int | None,
    typer.Option(min=1, help="Only so many pictures of each split: to try a command out."),
]
_RECIPE = HeadRecipe()


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


class Part(StrEnum):
    """Which pictures of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def train(
    tower: Tower,
    out: Annotated[Path, typer.Option(help="Where the run goes.")],
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
    labels: LabelsFile = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    leave_out: LeaveOut = None,
    hc18: Hc18 = None,
    held_out: Share = 0.2,
    validation: Annotated[
        float,
        typer.Option(
            min=0.01, max=0.9, help="Share of the other patients that validates, likewise."
        ),
    ] = 0.1,
    layers: Annotated[
        list[int] | None,
        typer.Option(
            min=0, help="Block that the head reads, from 0; repeatable. Default: 3, 6, 9."
        ),
    ] = None,
    side: Annotated[
        int,
        typer.Option(min=32, max=1024, help="Side of SonoNet's pictures, a multiple of 16."),
    ] = 224,
    width: Annotated[int, typer.Option(min=1, help="Channels of the head.")] = 512,
    shots: Annotated[
        int | None,
        typer.Option(min=1, help="Learn from so many patients of each class only (few-shot)."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs.")] = _RECIPE.epochs,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = _RECIPE.batch,
    learning_rate: Annotated[
        float, typer.Option(min=0, callback=_finite, help="Learning rate of AdamW.")
    ] = _RECIPE.learning_rate,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better validation that end the training.")
    ] = _RECIPE.patience,
    tune_tower: Annotated[
        bool, typer.Option("--tune-tower", help="The whole tower learns, at a tenth of the rate.")
    ] = _RECIPE.tune_tower,
    augment: Annotated[
        bool, typer.Option(help="Move, scale, mirror and re-tone the pictures.")
    ] = _RECIPE.augment,
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
    from model.nextgen_uia.network import LAYERS, ClipTower, HeadConfig, Task
    from training.data import lesions
    from training.data.samples import SampleError
    from training.train import runs
    from training.train.nextgen_uia import check_training, train_head

    recipe = HeadRecipe(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        patience=patience,
        tune_tower=tune_tower,
        augment=augment,
        seed=seed,
    )
    target = choose_device(device)
    try:
        pictures = _read(task, data, dataset, labels, label_column, group_column, leave_out, hc18)
        pictures = lesions.divide(pictures, held_out, validation, seed)
        learning, validating = (lesions.part(pictures, name)[:most] for name in ("train", "val"))
        classes = _classes(task, pictures, hc18)
        if task is TaskName.CLASSIFICATION:
            lesions.check_classes(learning, classes, "train")
            lesions.check_classes(validating, classes, "val")
        if shots is not None:
            learning = lesions.draw_shots(learning, shots, seed)
    except SampleError as error:
        raise UsageError(str(error)) from None
    check_training(learning, validating, recipe)
    network = load_tower(tower, tuple(layers or LAYERS), side)
    begin_with = None if start is None else read_trained(start)
    adapters = None
    if begin_with is None and adapter is not AdapterName.NONE:
        if not isinstance(network, ClipTower):
            raise UsageError("--adapter: SonoNet has no attention blocks; give --adapter none")
        blocks = tuple(range(len(network.vision.encoder.layers)))
        adapters = AdapterConfig(Kind(adapter.value), blocks)
    runs.begin_run(out, resume=resume, force=force)
    facts = train_head(
        network.to(target),
        HeadConfig(Task(task.value), classes, width),
        learning,
        validating,
        out,
        recipe,
        adapters=adapters,
        start=begin_with,
        resume=resume,
        command=typed_command(),
    )
    answer = {name: facts[name] for name in ("best epoch", "learnt parameters")}
    typer.echo(json.dumps(answer | {"validation": facts["validation"]["score"]}, indent=1))


@app.command()
def evaluate(
    run: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained head.")
    ],
    tower: Tower,
    data: Data = None,
    dataset: DatasetName = None,
    labels: LabelsFile = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    leave_out: LeaveOut = None,
    hc18: Hc18 = None,
    held_out: Share = 0.2,
    validation: Annotated[float, typer.Option(min=0.01, max=0.9, help="As in training.")] = 0.1,
    part: Annotated[Part, typer.Option("--split", help="Which pictures.")] = Part.TEST,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    most: Most = None,
    seed: Seed = 0,
    with_learnt: Annotated[
        bool, typer.Option("--with-learnt", help="Also judge on pictures that were learnt from.")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write each picture's mask as PNG there.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the figures as JSON.")
    ] = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Print how well a head classifies or segments, with intervals by patient.

    Masks are compared at the pictures' own size: Dice, IoU, HD95 and ASD, in mm where the spacing
    is known; of HC18 also the head circumference. Nothing that failed is left out.

    Example: qc-model nextgen-uia evaluate --run runs/heads --tower sononet16.safetensors
    --hc18 hc18_heads --out runs/heads/figures.json
    """
    from model.device import choose_device
    from model.nextgen_uia.checkpoint import load_network, load_tower, read_trained
    from model.nextgen_uia.network import LAYERS, Task
    from training.data import lesions
    from training.data.samples import SampleError
    from training.evaluation.heads_on_towers import evaluate_head
    from training.train.nextgen_uia import Pictures

    if out is not None and out.exists() and not force:
        raise UsageError(f"{out} exists: name another file, or give --force")
    trained = read_trained(run)
    if trained.head is None:
        raise UsageError(f"{run} holds adapters without a head")
    task = TaskName(trained.head.task.value)
    layers = tuple(trained.tower.get("layers", LAYERS))
    network = load_network(run, load_tower(tower, layers, int(trained.tower.get("side", 224))))
    try:
        pictures = _read(task, data, dataset, labels, label_column, group_column, leave_out, hc18)
        pictures = lesions.part(lesions.divide(pictures, held_out, validation, seed), part.value)[
            :most
        ]
        if trained.head.task is Task.CLASSIFICATION:
            # A class that nobody shows is no fault here; one that the head does not know is.
            present = {lesion.label for lesion in pictures}
            known = [name for name in trained.head.classes if name in present]
            lesions.check_classes(pictures, known, part.value)
        if not pictures:
            raise UsageError(f"split {part.value} has no pictures")
        if not with_learnt:
            _refuse_learnt(run, pictures)
        network.to(choose_device(device))
        held = Pictures(pictures, network.tower.side, trained.head)
        figures = evaluate_head(network, held, batch, masks)
    except SampleError as error:
        raise UsageError(str(error)) from None
    figures |= {"data sha256": lesions.lesions_hash(pictures), "command": typed_command()}
    text = json.dumps(figures, indent=1)
    typer.echo(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")


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


def _read(
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
    from training.data import lesions
    from training.data.labelled import read_labelled

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
    pictures = read_labelled(labels, label_column=label_column, group_column=group_column)
    present = {each.label for each in pictures}
    for name in leave_out or ():
        if name not in present:
            raise UsageError(f"--leave-out {name}: {labels.name} has no such class")
    return lesions.of_labelled([each for each in pictures if each.label not in (leave_out or ())])


def _classes(task: TaskName, pictures: "list[Lesion]", hc18: Path | None) -> tuple[str, ...]:
    from training.data.lesions import HEAD_CLASSES, MASK_CLASSES

    if task is TaskName.SEGMENTATION:
        return MASK_CLASSES if hc18 is None else HEAD_CLASSES
    names = tuple(sorted({lesion.label for lesion in pictures}))
    if len(names) < 2:
        raise UsageError(f"two classes at least are needed; there is {', '.join(names) or 'none'}")
    return names


def _refuse_learnt(run: Path, pictures: "list[Lesion]") -> None:
    """Raises UsageError where the head learnt from one of the pictures."""
    from training.data.samples import file_hash
    from training.train.runs import learnt_pictures

    learnt = learnt_pictures(run) or set()
    for lesion in pictures:
        if file_hash(lesion.image) in learnt:
            raise UsageError(
                f"{lesion.location}: the head learnt from {lesion.image.name}: give the --seed,"
                " --held-out and --validation of its training, or --with-learnt"
            )
