"""`qc-model segment`: masks by FetalCLIP's decoder on a frozen tower, and what they measure."""

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
    Spacing,
    Tower,
    Validation,
    typed_command,
)
from training.fetalclip_recipes import SEGMENTATION
from training.recipes import FOLDS

if TYPE_CHECKING:
    from model.nextgen_uia.network import AdaptedNetwork
    from training.commands.fetalclip.gestational_age import Measurement

app = typer.Typer(
    no_args_is_help=True, help="FetalCLIP's decoder: masks on a frozen tower, and head sizes."
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
            " quarter; published, of 24: 5, 7, 11, 23.",
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Channels of the decoder at full size.")] = 32,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Learn from so many patients only (few-shot).")
    ] = None,
    epochs: Epochs = SEGMENTATION.epochs,
    batch: BatchOfPictures = SEGMENTATION.batch,
    learning_rate: LearningRate = SEGMENTATION.learning_rate,
    patience: Patience = SEGMENTATION.patience,
    augment: Augment = SEGMENTATION.augment,
    most: Most = None,
    seed: Seed = SEGMENTATION.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train the decoder on four layers of a frozen CLIP tower and the picture itself.

    Example: qc-model segment train --tower fetalclip --hc18 hc18_heads --out runs/heads

    Example: qc-model segment train --tower fetalclip --data NextGen-UIA --dataset BUSI
    --shots 8 --out runs/busi
    """
    from dataclasses import replace

    from model.device import choose_device
    from model.fetalclip.decoder import decoder_layers
    from model.nextgen_uia.checkpoint import load_tower
    from model.nextgen_uia.network import ClipTower, HeadConfig, HeadKind, Task
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
    network = load_tower(tower)
    if not isinstance(network, ClipTower):
        raise UsageError("--tower: SonoNet has too few blocks for the decoder; give a CLIP folder")
    try:
        layers = tuple(sorted(block)) if block else decoder_layers(network.blocks)
        config = HeadConfig(Task.SEGMENTATION, classes, width, HeadKind.DECODER)
        network = ClipTower(network.vision, layers).eval()
        check_decoder(network, config)
    except ValueError as error:
        raise UsageError(f"--tower, --block: {error}") from None
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


def check_decoder(tower: Any, config: Any) -> None:
    """Raises ValueError where the decoder cannot read this tower."""
    from model.fetalclip.decoder import STAGES, STRIDE

    if len(tower.layers) != STAGES:
        raise ValueError(f"the decoder reads {STAGES} blocks, not {len(tower.layers)}")
    if tower.side % STRIDE:
        raise ValueError(
            f"the tower's pictures are {tower.side} pixels wide, which is no multiple of {STRIDE}"
        )


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
