"""`qc-model train detector`, `describer` and `spatialclip`: the parts of a bundle."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError
from training.commands.options import (
    FetalPlanes,
    Force,
    Out,
    PicturesAStep,
    Resume,
    Seed,
    finite,
    typed_command,
)
from training.commands.sample_sources import (
    Describer,
    DetectorSide,
    Epochs,
    FetusFramework,
    Fold,
    Hc18,
    HeadStructures,
    HeldOut,
    OriginOfSamples,
    Samples,
    Splits,
    Start,
    Unlabelled,
    check_fold,
    check_split,
)
from training.recipes import FOLDS, DescriberRecipe, DetectorRecipe, SpatialClipRecipe

_DESCRIBER, _DETECTOR, _SPATIALCLIP = DescriberRecipe(), DetectorRecipe(), SpatialClipRecipe()
"""Their values are the defaults of the options."""


class Scale(StrEnum):
    """Sizes of YOLO11."""

    NANO = "n"
    SMALL = "s"
    MEDIUM = "m"
    LARGE = "l"
    EXTRA = "x"


class Backbone(StrEnum):
    """Image networks of the small SpatialCLIP's tower."""

    EFFICIENTNET = "tf_efficientnet_lite0"
    SONONET = "sononet16"
    BOTH = "tf_efficientnet_lite0+sononet16"


_SCALE = Scale(_DETECTOR.scale)
_BACKBONE = Backbone(_SPATIALCLIP.backbone)


def train_detector(
    out: Out,
    samples: Samples = None,
    origin: OriginOfSamples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    scale: Annotated[Scale, typer.Option(help="Size of YOLO11.")] = _SCALE,
    size: DetectorSide = _DETECTOR.size,
    epochs: Epochs = _DETECTOR.epochs,
    restart: Annotated[
        int,
        typer.Option(
            min=0,
            help="Epochs after which the learning rate begins anew, at half; fewer than --epochs."
            " 0: never.",
        ),
    ] = _DETECTOR.restart,
    batch: PicturesAStep = _DETECTOR.batch,
    seed: Seed = _DETECTOR.seed,
    held_out: HeldOut = 0.1,
    fold: Fold = None,
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Weights to begin with: folder of a trained detector, or a file of another YOLO11"
            " of that --scale (.safetensors; .pt with --trust).",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open --start's .pt, a pickle of ultralytics.")
    ] = False,
    hc18: Hc18 = None,
    head_structures: HeadStructures = None,
    fetal_planes: FetalPlanes = None,
    unlabelled: Unlabelled = _DETECTOR.unlabelled_ratio,
    lying: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=finite, help="How often a simulated head is turned to lie."
        ),
    ] = _DETECTOR.lying_fraction,
    float32_head: Annotated[
        bool, typer.Option("--float32-head", help="Train the last module in full precision.")
    ] = _DETECTOR.float32_head,
    simulated: Annotated[
        float,
        typer.Option(
            min=0, callback=finite, help="Simulated pictures an epoch, for each real one."
        ),
    ] = _DETECTOR.simulated_ratio,
    mirrored: Annotated[
        bool,
        typer.Option("--mirrored", help="It shall look at mirror images too, in twice the time."),
    ] = _DETECTOR.mirrored,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train the anatomy detector on boxed pictures.

    Example: qc-model train detector --out runs/detector --samples runs/phantoms/samples.json

    Example: qc-model train detector --out runs/detector --start yolo11n_coco.safetensors
    --fetus-framework ff --hc18 hc18_heads --unlabelled 0.4 --size 640
    """
    from training.data import splits
    from training.train import detector, runs
    from training.train.start import Start

    if restart >= epochs:
        raise UsageError(f"--restart {restart}: begin anew before the last of {epochs} epochs")
    check_split(split, fetus_framework)
    pictures = splits.load(samples, fetus_framework, split, origin)
    pictures += splits.load_unlabelled(hc18, head_structures, fetal_planes)
    boxed = [sample for sample in pictures if sample.annotated]
    training, validation = (
        splits.split_by_group(boxed, held_out, seed)
        if fold is None
        else splits.leave_fold_out(boxed, fold, FOLDS, seed)
    )
    recipe = DetectorRecipe(
        scale.value,
        size,
        epochs,
        batch,
        restart=restart,
        simulated_ratio=simulated,
        unlabelled_ratio=unlabelled,
        lying_fraction=lying,
        float32_head=float32_head,
        mirrored=mirrored,
        seed=seed,
    )
    check_fold(fold, validation)
    detector.check_training(training, validation, recipe)
    runs.begin_run(out, resume=resume, force=force)
    facts = detector.train_detector(
        training,
        validation,
        out,
        recipe,
        start=None if start is None else Start(start, trust),
        resume=resume,
        command=typed_command(),
    )
    typer.echo(json.dumps(facts["validation"], indent=1))


def train_describer(
    out: Out,
    seed: Seed = _DESCRIBER.seed,
    steps: Annotated[int, typer.Option(min=3, help="Batches of 32 phrases.")] = _DESCRIBER.steps,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train the small describer on phrases made for it.

    Example: qc-model train describer --out runs/describer
    """
    from training.train import describer, runs

    runs.begin_run(out, resume=resume, force=force)
    describer.describer(out, seed=seed, steps=steps, resume=resume)


def train_spatialclip(
    out: Out,
    detector: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a trained detector; or five times, the folds' in order.",
        ),
    ],
    describer: Describer,
    samples: Samples = None,
    origin: OriginOfSamples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    hc18: Hc18 = None,
    head_structures: HeadStructures = None,
    fetal_planes: FetalPlanes = None,
    unlabelled: Unlabelled = _SPATIALCLIP.unlabelled_ratio,
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs in which everything learns at once.")
    ] = _SPATIALCLIP.epochs,
    batch: Annotated[int, typer.Option(min=2, help="Pictures a step.")] = _SPATIALCLIP.batch,
    stages: Annotated[
        tuple[int, int, int],
        typer.Option(
            min=0, help="Epochs of the three published stages; any above 0 replaces --epochs."
        ),
    ] = _SPATIALCLIP.stages,
    start: Start = None,
    learning_rate: Annotated[
        float, typer.Option(min=0, callback=finite, help="Learning rate after the warm-up.")
    ] = _SPATIALCLIP.learning_rate,
    simulated: Annotated[
        float,
        typer.Option(
            min=0, callback=finite, help="Simulated pictures an epoch, for each real one; 0: all."
        ),
    ] = _SPATIALCLIP.simulated_ratio,
    focal: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Exponent of the focal loss; 0: none."),
    ] = _SPATIALCLIP.focal_gamma,
    balanced: Annotated[
        bool, typer.Option(help="Weigh both classes alike.")
    ] = _SPATIALCLIP.class_balanced,
    ema: Annotated[
        float,
        typer.Option(
            min=0, max=0.99999, callback=finite, help="Decay of the weights' average; 0: none."
        ),
    ] = _SPATIALCLIP.ema_decay,
    modality_dropout: Annotated[
        float,
        typer.Option(
            min=0,
            max=1 / 3,
            callback=finite,
            help="How often each of picture, words and layout is hidden; at most a third.",
        ),
    ] = _SPATIALCLIP.modality_dropout,
    lora: Annotated[
        int,
        typer.Option(
            min=0, help="Rank of adapters in place of whole blocks in the last stage; 0: none."
        ),
    ] = _SPATIALCLIP.lora_rank,
    backbone: Annotated[
        Backbone, typer.Option(help="Image networks of the tower; --start must have the same.")
    ] = _BACKBONE,
    backbone_rate: Annotated[
        float,
        typer.Option(
            min=0, callback=finite, help="Times the learning rate, for the backbone; 0: frozen."
        ),
    ] = _SPATIALCLIP.backbone_rate,
    cached_augmentations: Annotated[
        int,
        typer.Option(
            min=0, help="Of a picture, on which a frozen backbone runs once; 0: always anew."
        ),
    ] = _SPATIALCLIP.cached_augmentations,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Give the network the backbone's average too.")
    ] = _SPATIALCLIP.pooled,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Let the backbone see mirror images too.")
    ] = _SPATIALCLIP.mirrored,
    clean_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=finite, help="Share of draws that show a picture as it is."
        ),
    ] = _SPATIALCLIP.clean_fraction,
    sononet: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Weights of SonoNet-16 (.safetensors), for a backbone that has it.",
        ),
    ] = None,
    seed: Seed = _SPATIALCLIP.seed,
    held_out: HeldOut = 0.1,
    like: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a trained SpatialCLIP: its recipe, in place of these options.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Where boxes, words and features are kept; default: beside OUT."
        ),
    ] = None,
    fold: Fold = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train SpatialCLIP on what the detector and the describer make of the pictures.

    Example: qc-model train spatialclip --out runs/spatialclip --detector runs/detector
    --describer runs/describer --samples runs/phantoms/samples.json
    """
    from training.data import splits
    from training.train import runs, small_spatialclip
    from training.train.spatialclip import check_training

    check_split(split, fetus_framework)
    if len(detector) not in (1, FOLDS):
        raise UsageError(f"--detector: give one, or {FOLDS} for the folds")
    recipe = SpatialClipRecipe(
        epochs=epochs,
        batch=batch,
        stages=stages,
        learning_rate=learning_rate,
        simulated_ratio=simulated,
        unlabelled_ratio=unlabelled,
        focal_gamma=focal,
        class_balanced=balanced,
        ema_decay=ema,
        modality_dropout=modality_dropout,
        lora_rank=lora,
        backbone=backbone.value,
        backbone_rate=backbone_rate,
        cached_augmentations=cached_augmentations,
        pooled=pooled,
        mirrored=mirrored,
        clean_fraction=clean_fraction,
        seed=seed,
    )
    if like is not None:
        recipe = SpatialClipRecipe.of_run(like)
    for folder in detector:
        runs.check_weights(folder, "detector")
    runs.check_weights(describer, "describer")
    if start is not None:
        runs.check_weights(start, "spatialclip")
    cache = cache or out.parent
    parts = [
        *splits.load_parts(samples, fetus_framework, split, origin),
        splits.load_unlabelled(hc18, head_structures, fetal_planes),
    ]
    pictures = [sample for part in parts for sample in part]
    training, validation = (
        splits.split_by_group(pictures, held_out, seed)
        if fold is None
        else splits.leave_fold_out(pictures, fold, FOLDS, seed)
    )
    check_fold(fold, validation)
    check_training(training, validation, recipe)
    runs.begin_run(out, resume=resume, force=force)
    cache.mkdir(parents=True, exist_ok=True)
    # Each part as a whole, as a cross-validation has cached it, and so for any split of them.
    prepared = [
        item
        for part in parts
        for item in small_spatialclip.prepare_out_of_fold(
            part, detector, describer, cache / "evidence", seed
        )
    ]
    by_sample = dict(zip(map(id, pictures), prepared, strict=True))
    facts = small_spatialclip.train_small_spatialclip(
        [by_sample[id(sample)] for sample in training],
        [by_sample[id(sample)] for sample in validation],
        out,
        recipe,
        start=start,
        sononet=sononet,
        cache=cache,
        resume=resume,
        command=typed_command(),
    )
    typer.echo(json.dumps(facts["validation"], indent=1))
