"""`qc-model segment`: masks by a decoder on a tower, and what they measure."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.console import UsageError
from training.commands import nextgen_uia
from training.commands.answers import (
    Format,
    FormatOption,
    OutOption,
    answer_each,
    check_folder,
    check_target,
    file_stem,
    write_records,
)
from training.commands.lesion_sources import (
    Data,
    DatasetName,
    Hc18,
    Most,
    Share,
    TaskName,
    class_names,
    read_sources,
)
from training.commands.options import (
    Augment,
    BatchOfPictures,
    Device,
    Epochs,
    Fold,
    Force,
    ForceFiles,
    LearningRate,
    Out,
    Patience,
    Resume,
    Seed,
    SonoNetSide,
    Spacing,
    Tower,
    TuneTower,
    Validation,
    typed_command,
)
from training.fetalclip_recipes import SEGMENTATION
from training.recipes import FOLDS

if TYPE_CHECKING:
    from model.nextgen_uia.network import AdaptedNetwork, HeadKind
    from model.nextgen_uia.network import Tower as ImageTower
    from training.commands.fetalclip.gestational_age import Measurement

app = typer.Typer(
    no_args_is_help=True, help="FetalCLIP's decoder: masks on an image tower, and head sizes."
)
COLUMNS = ("source", "share", "circumference_mm", "spacing_mm", "reason")

RunFolder = Annotated[
    Path,
    typer.Option(exists=True, file_okay=False, help="Folder of a trained decoder or head."),
]


@app.command()
def train(
    tower: Tower,
    out: Out,
    data: Data = None,
    dataset: DatasetName = None,
    hc18: Hc18 = None,
    held_out: Share = 0.2,
    fold: Fold = None,
    validation: Validation = 0.1,
    block: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Block that the decoder reads, from 0, four times. Default: the last of each"
            " quarter; published, of 24: 5, 7, 11, 23. Of SonoNet-16's five: two or more, default"
            " 1 to 4.",
        ),
    ] = None,
    side: SonoNetSide = 224,
    width: Annotated[int, typer.Option(min=1, help="Channels of the decoder at full size.")] = 32,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Learn from so many patients only (few-shot).")
    ] = None,
    epochs: Epochs = SEGMENTATION.epochs,
    batch: BatchOfPictures = SEGMENTATION.batch,
    learning_rate: LearningRate = SEGMENTATION.learning_rate,
    patience: Patience = SEGMENTATION.patience,
    tune_tower: TuneTower = SEGMENTATION.tune_tower,
    augment: Augment = SEGMENTATION.augment,
    most: Most = None,
    seed: Seed = SEGMENTATION.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train a decoder on four layers of a frozen CLIP tower and the picture itself, or a U-shaped
    one on the layers of SonoNet-16.

    Example: qc-model segment train --tower fetalclip --hc18 hc18_heads --out runs/heads

    Example: qc-model segment train --tower sononet16.safetensors --hc18 hc18_heads --fold 0
    --tune-tower --epochs 40 --learning-rate 2e-3 --out runs/heads

    Example: qc-model segment train --tower fetalclip --data NextGen-UIA --dataset BUSI
    --shots 8 --out runs/busi
    """
    from dataclasses import replace

    from model.device import choose_device
    from model.nextgen_uia.network import HeadConfig, Task
    from training.data import labelled
    from training.data.samples import SampleError
    from training.train import runs
    from training.train.loop import check_parts
    from training.train.nextgen_uia.trainer import train_head

    recipe = replace(
        SEGMENTATION,
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
        pictures = read_sources(
            TaskName.SEGMENTATION, data, dataset, None, "plane", "patient", None, hc18
        )
        parts = (
            labelled.divide(pictures, held_out, validation, seed)
            if fold is None
            else labelled.divide_fold(pictures, fold, FOLDS, validation, seed)
        )
        training_part, validation_part = (parts[name][:most] for name in ("train", "val"))
        if shots is not None:
            training_part = labelled.draw_shots(training_part, shots, seed)
        classes = class_names(TaskName.SEGMENTATION, pictures, hc18)
    except SampleError as error:
        raise UsageError(str(error)) from None
    check_parts(training_part, validation_part, recipe.batch)
    network, kind = _load_tower(tower, tuple(sorted(set(block or ()))), side)
    config = HeadConfig(Task.SEGMENTATION, classes, width, kind)
    runs.begin_run(out, resume=resume, force=force)
    facts = train_head(
        network.to(target),
        config,
        training_part,
        validation_part,
        out,
        recipe,
        resume=resume,
        command=typed_command(),
    )
    answer = {name: facts[name] for name in ("best epoch", "learnt parameters")}
    typer.echo(json.dumps(answer | {"validation Dice": facts["validation"]["score"]}, indent=1))


app.command(
    help="""Print how well masks agree, with intervals by patient: Dice, IoU, HD95 and ASD of each
    picture at its own size, of HC18 also the head circumference. What failed counts.

    Example: qc-model segment evaluate --run runs/heads --tower fetalclip --hc18 hc18_heads
    --out runs/heads/figures.json
    """
)(nextgen_uia.evaluate)


@app.command()
def measure(
    run: RunFolder,
    tower: Tower,
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Pictures, DICOM files and folders of them.")
    ],
    measurements: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="CSV of files (file) with pixel_mm, as of HC18."
        ),
    ] = None,
    spacing: Spacing = None,
    masks: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write each picture's mask as PNG there.")
    ] = None,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Segment pictures and measure the circumference of the ellipse of the largest piece, in mm. Of
    a cine that is its first frame.

    Example: qc-model segment measure --run runs/heads --tower fetalclip head.dcm --masks masks
    """
    from model.device import choose_device
    from model.nextgen_uia.checkpoint import load_run
    from model.nextgen_uia.network import Task
    from training.commands.fetalclip.gestational_age import Measurement, read_measurements
    from training.data.labelled import list_pictures

    check_target(out, force=force)
    check_folder(masks, force=force)
    network = load_run(run, tower)
    if network.head.config.task is not Task.SEGMENTATION:
        raise UsageError(f"{run} tells classes apart; give a run that segments")
    by_name = {} if measurements is None else read_measurements(measurements)
    files = list_pictures(paths)
    network.to(choose_device(device))
    if masks is not None:
        masks.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for number, path in enumerate(files, 1):
        file = None if masks is None else masks / f"{number:04}-{file_stem(path.stem)}.png"
        measurement = by_name.get(path.name, Measurement())
        records += answer_each(
            [path],
            lambda path, m=measurement, file=file: _measure(network, path, m, spacing, file),  # type: ignore[misc]
        )
    write_records(records, COLUMNS, format, out)


def _load_tower(path: Path, layers: tuple[int, ...], side: int) -> "tuple[ImageTower, HeadKind]":
    """The tower whose `layers` (empty: the default ones) the decoder reads, and which decoder.
    Without SonoNet-16's first block logits are made at half size, which costs a third as much.

    Raises UsageError where it cannot read them, QCError on no tower.
    """
    from model.fetalclip.decoder import STAGES, STRIDE, decoder_layers
    from model.nextgen_uia.checkpoint import load_tower
    from model.nextgen_uia.network import ClipTower, HeadKind, SonoNetTower

    if path.is_file():
        every_but_first = tuple(range(1, SonoNetTower.blocks))
        if len(layers) == 1:
            raise UsageError("--block: the decoder reads two blocks of SonoNet-16 at least")
        return load_tower(path, layers or every_but_first, side), HeadKind.PYRAMID
    tower = load_tower(path)
    assert isinstance(tower, ClipTower)
    try:
        tower = ClipTower(tower.vision, layers or decoder_layers(tower.blocks)).eval()
    except ValueError as error:
        raise UsageError(f"--tower, --block: {error}") from None
    if len(tower.layers) != STAGES:
        raise UsageError(f"--block: the decoder reads {STAGES} blocks, not {len(tower.layers)}")
    if tower.side % STRIDE:
        raise UsageError(
            f"--tower: its pictures are {tower.side} pixels wide, which is no multiple of {STRIDE}"
        )
    return tower, HeadKind.DECODER


def _measure(
    network: "AdaptedNetwork",
    path: Path,
    measurement: "Measurement",
    spacing: float | None,
    file: Path | None,
) -> dict[str, Any]:
    from training.commands.fetalclip.gestational_age import header_spacing
    from training.data.labelled import read_first_frame
    from training.evaluation.metrics.segmentation import head_circumference_mm
    from training.train.nextgen_uia.trainer import segment_picture

    frame = read_first_frame(path)
    mask = segment_picture(network, frame.pixels)
    if file is not None:
        from PIL import Image

        Image.fromarray(mask * (255 // mask.max() if mask.any() else 1)).save(file)
    spacing_mm = measurement.spacing_mm or header_spacing(frame) or spacing
    # Without a scale the ellipse is measured in pixels, and not reported.
    circumference = head_circumference_mm(mask, spacing_mm or 1.0)
    reason = None
    if circumference is None:
        reason = "nothing-found"
    elif spacing_mm is None:
        reason = "no-spacing"
    return {
        "share": float((mask > 0).mean()),
        "circumference_mm": None if reason else circumference,
        "spacing_mm": spacing_mm,
        "reason": reason,
        "mask": None if file is None else file.name,
    }
