"""`qc-model`: make phantoms, train, calibrate, evaluate. One verb, one function."""

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector import console
from detector.errors import ErrorCode, QCError
from detector.version_option import add_version
from training import recipes
from training.commands import (
    adapter_few_shot,
    captions,
    dual_branch,
    dual_branch_evaluation,
    nextgen_uia,
)
from training.commands.embed import embed, search
from training.commands.fetalclip import app as fetalclip
from training.commands.fetalclip import iqa, segment
from training.commands.fetalclip.distil import distil
from training.commands.fetalclip.explain import explain
from training.commands.fetalclip.gestational_age import gestational_age
from training.commands.fetalclip.zero_shot import zero_shot
from training.commands.options import (
    MOST_SEED,
    FetalPlanes,
    Force,
    Out,
    PicturesAStep,
    Resume,
    Seed,
    finite,
    typed_command,
)
from training.commands.probe import classify, few_shot, probe
from training.data.samples import Origin
from training.phantom.command import phantom
from training.phantom.history.command import history
from training.recipes import FOLDS, DescriberRecipe, DetectorRecipe, SpatialClipRecipe

if TYPE_CHECKING:
    from training.data.samples import Sample

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, calibrate and evaluate the models of qc-daemon.",
)
add_version(app, "qc-model")
train = typer.Typer(no_args_is_help=True, help="Train one of the models.")
app.add_typer(train, name="train")
phantom_app = typer.Typer(invoke_without_command=True)
phantom_app.callback()(phantom)
phantom_app.command()(history)
app.add_typer(phantom_app, name="phantom")
app.add_typer(fetalclip.app, name="fetalclip")
app.add_typer(nextgen_uia.app, name="nextgen-uia")
train.command("adapter")(nextgen_uia.train)
train.command("captions")(captions.train)
nextgen_uia.app.command("retrieval")(captions.retrieval)
nextgen_uia.app.command("few-shot")(adapter_few_shot.few_shot)
app.command("zero-shot")(zero_shot)
app.command()(embed)
app.command()(search)
app.command()(explain)
app.command()(distil)
app.add_typer(segment.app, name="segment")
app.add_typer(iqa.app, name="iqa")
app.command()(probe)
app.command()(classify)
app.command("few-shot")(few_shot)
app.command("gestational-age")(gestational_age)
train.command("dual-branch")(dual_branch.train)
dual_branch.app.command("evaluate")(dual_branch_evaluation.evaluate)
dual_branch.app.command("abstention")(dual_branch_evaluation.abstention)
app.add_typer(dual_branch.app, name="dual-branch")

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


def _stride(value: int) -> int:
    if value % 32:
        raise typer.BadParameter(f"{value} is no multiple of 32, the coarsest stride.")
    return value


Samples = Annotated[
    list[Path] | None,
    typer.Option(
        "--samples",
        exists=True,
        dir_okay=False,
        help="SpatialCLIP JSON, each sample with its origin, real or simulated; repeatable.",
    ),
]
OriginOfSamples = Annotated[
    Origin | None,
    typer.Option("--origin", help="Origin of the JSON's samples that do not name theirs."),
]
FetusFramework = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of the Fetus Framework data set."),
]
Dicom = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of other ultrasound; its tuning half is used."
    ),
]
Detector = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained detector.")
]
Describer = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained describer.")
]
Start = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of a trained one to begin with."),
]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of a detector's training.")]
SeedOfDivision = Annotated[
    int,
    typer.Option(min=0, max=MOST_SEED, help="As in training: it names the groups held out."),
]
HeldOut = Annotated[
    float,
    typer.Option(
        min=0, max=1, callback=finite, help="Share of groups kept for validation, within 0 and 1."
    ),
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Its splits; repeatable.")]
Fold = Annotated[
    int | None,
    typer.Option(min=0, max=FOLDS - 1, help="Hold this fold of the real pictures out instead."),
]
Hc18 = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of HC18's heads, with ellipses (labels.csv)."
    ),
]
HeadStructures = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder of heads with boxed falx and choroid plexus (boxes.csv).",
    ),
]
Unlabelled = Annotated[
    float,
    typer.Option(
        min=0,
        callback=finite,
        help="Pictures without a quality label an epoch, for each labelled real one; 0: all.",
    ),
]
DetectorSide = Annotated[
    int,
    typer.Option(
        min=32,
        max=4096,
        callback=_stride,
        help="Side of a detector's picture in pixels, a multiple of 32.",
    ),
]


def main() -> None:
    sys.exit(console.run(_run))


def _run() -> None:
    """Run the command; where memory is short one line says what helps."""
    try:
        app()
    except MemoryError:
        raise QCError(ErrorCode.INTERNAL, "not enough memory: try a smaller --batch") from None


@train.command("detector")
def train_detector(
    out: Out,
    samples: Samples = None,
    origin: OriginOfSamples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    scale: Annotated[Scale, typer.Option(help="Size of YOLO11.")] = _SCALE,
    size: DetectorSide = _DETECTOR.size,
    epochs: Epochs = _DETECTOR.epochs,
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

    _check_split(split, fetus_framework)
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
        simulated_ratio=simulated,
        unlabelled_ratio=unlabelled,
        lying_fraction=lying,
        float32_head=float32_head,
        mirrored=mirrored,
        seed=seed,
    )
    _check_fold(fold, validation)
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


@train.command("describer")
def train_describer(
    out: Out,
    seed: Seed = _DESCRIBER.seed,
    steps: Annotated[int, typer.Option(min=3, help="Batches of 32 phrases.")] = _DESCRIBER.steps,
    force: Force = False,
) -> None:
    """Train the small describer on phrases made for it.

    Example: qc-model train describer --out runs/describer
    """
    from training.train import describer, runs

    runs.begin_run(out, force=force)
    describer.describer(out, seed=seed, steps=steps)


@train.command("spatialclip")
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

    _check_split(split, fetus_framework)
    if len(detector) not in (1, FOLDS):
        raise console.UsageError(f"--detector: give one, or {FOLDS} for the folds")
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
    _check_fold(fold, validation)
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


@app.command("cross-validate")
def cross_validate(
    out: Out,
    fetus_framework: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the Fetus Framework data set."),
    ],
    boxed: Annotated[
        list[Path],
        typer.Option(
            exists=True, dir_okay=False, help="Simulated pictures (JSON) for the detectors."
        ),
    ],
    judged: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Simulated pictures and negatives (JSON) for SpatialCLIP; repeat it.",
        ),
    ],
    describer: Describer,
    detector_start: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a detector that saw simulated pictures only.",
        ),
    ],
    spatialclip_start: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a SpatialCLIP that saw simulated pictures only.",
        ),
    ],
    origin: OriginOfSamples = None,
    hc18: Hc18 = None,
    head_structures: HeadStructures = None,
    fetal_planes: FetalPlanes = None,
    unlabelled: Unlabelled = recipes.DETECTOR_FOLD.unlabelled_ratio,
    detector_size: DetectorSide = recipes.DETECTOR_FOLD.size,
    detector_epochs: Epochs = recipes.DETECTOR_FOLD.epochs,
    stages: Annotated[
        tuple[int, int, int],
        typer.Option(min=0, help="Epochs of SpatialCLIP's three published stages."),
    ] = recipes.SPATIALCLIP.stages,
    seed: Seed = 0,
    nested: Annotated[
        bool, typer.Option(help="Also bound the leak that is left, with one nested fold.")
    ] = False,
    styles: Annotated[
        bool,
        typer.Option(
            "--looks",
            help="Also leave out each style: pictures clustered by grey levels, grain and size.",
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="Models trained at a time, about 5 GB of memory each.")
    ] = 1,
) -> None:
    """Judge every real picture by models that never saw it; resumes where it was stopped.

    Example: qc-model cross-validate --out runs/folds --fetus-framework ff --boxed a/samples.json
    --judged b/samples.json --describer runs/describer --detector-start runs/detector-simulated
    --spatialclip-start runs/spatialclip-simulated
    """
    from model.spatialclip.checkpoint import load_spatialclip
    from training.crossval import run
    from training.crossval.folds import Plan
    from training.data import splits
    from training.train import runs

    if not any(stages):
        raise console.UsageError("--stages: give at least one stage an epoch")
    runs.check_weights(describer, "describer")
    runs.check_weights(detector_start, "detector")
    runs.check_weights(spatialclip_start, "spatialclip")
    backbone = load_spatialclip(spatialclip_start).config.stem
    figures = run.cross_validate(
        Plan(
            out,
            splits.load(None, fetus_framework, None),
            splits.require_simulated(splits.load(boxed, None, None, origin), "--boxed"),
            splits.require_simulated(splits.load(judged, None, None, origin), "--judged"),
            describer,
            detector_start,
            spatialclip_start,
            replace(
                recipes.DETECTOR_FOLD,
                size=detector_size,
                epochs=detector_epochs,
                unlabelled_ratio=unlabelled,
                seed=seed,
            ),
            replace(recipes.SPATIALCLIP, stages=stages, seed=seed, backbone=backbone),
            folds=FOLDS,
            seed=seed,
            command=typed_command(),
            unlabelled=splits.load_unlabelled(hc18, head_structures, fetal_planes),
        ),
        nested=nested,
        leave_styles_out=styles,
        jobs=jobs,
    )
    long = ("risk and coverage", "sets", "alignment by fold")
    short = {name: figure for name, figure in figures.items() if name not in long}
    typer.echo(json.dumps(short, indent=1))


@app.command()
def negatives(
    out: Out,
    dicom: Dicom = None,
    samples: Samples = None,
    origin: OriginOfSamples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    count: Annotated[
        int, typer.Option(min=0, help="Pictures made of those of --samples and the data set.")
    ] = 600,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write pictures that are none of the views: other ultrasound, and what is cut and shuffled
    from pictures of the views.

    Example: qc-model negatives --out runs/negatives --dicom us_dicom --fetus-framework ff

    Example: qc-model negatives --out runs/negatives --dicom us_dicom
    """
    from training.data import splits
    from training.data.dataset_folder import begin_dataset
    from training.data.negatives import write_negatives
    from training.data.other_organs import split_by_vendor

    if not (dicom or samples or fetus_framework):
        raise console.UsageError("no pictures; give --dicom, --samples or --fetus-framework")
    _check_split(split, fetus_framework)
    has_pictures = samples or fetus_framework
    pictures = splits.load(samples, fetus_framework, split, origin) if has_pictures else []
    others = split_by_vendor(dicom)[0] if dicom else []
    begin_dataset(out, force=force)
    written = write_negatives(out, others, pictures, count, seed)
    if not written:
        raise console.UsageError("no picture could be made of these: nothing was written")
    typer.echo(f"{written} pictures in {out}")


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    detector: Detector,
    describer: Describer,
    spatialclip: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of a trained SpatialCLIP.")
    ],
    samples: Samples = None,
    origin: OriginOfSamples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    seed: SeedOfDivision = 0,
    held_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="As in training, for the pictures of the data set; those of --samples are all"
            " taken.",
        ),
    ] = 0.1,
    dicom: Dicom = None,
    cross_validation: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of a cross-validation: its unseen pictures calibrate too.",
        ),
    ] = None,
    note: Annotated[
        list[str] | None, typer.Option(help="A limit for the model card. Repeat it for more.")
    ] = None,
    name: Annotated[str, typer.Option(help="The bundle's name, as reports show it.")] = "default",
    version: Annotated[str, typer.Option(help="The bundle's version, as reports show it.")] = "0",
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle in --out.")] = False,
) -> None:
    """Fit calibration, thresholds and the out-of-distribution score, and write the bundle.

    Example: qc-model calibrate --out bundles/ours --name ours --detector runs/detector
    --describer runs/describer --spatialclip runs/spatialclip --samples runs/val/samples.json
    """
    from training.bundling import make
    from training.data import splits
    from training.data.other_organs import split_by_vendor

    _check_split(split, fetus_framework)
    make.check_target(out, force=force)
    calibration_samples: list[Sample] = []
    if samples:
        calibration_samples += splits.load(samples, None, None, origin)
    if fetus_framework:
        # The simulated pictures are a set of their own; of the real ones only those held out.
        calibration_samples += splits.split_by_group(
            splits.load(None, fetus_framework, split), held_out, seed
        )[1]
    if not calibration_samples:
        raise console.UsageError(
            "no pictures to calibrate on; give --samples, or --fetus-framework with a larger"
            " --held-out"
        )
    manifest = make.make_bundle(
        out,
        detector,
        describer,
        spatialclip,
        calibration_samples,
        split_by_vendor(dicom)[0] if dicom else [],
        name=name,
        version=version,
        command=typed_command(),
        cross_validation=cross_validation,
        notes=note or (),
        force=force,
    )
    typer.echo(json.dumps(manifest["metrics"], indent=1))


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name or a folder.")] = "default",
    samples: Samples = None,
    origin: OriginOfSamples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="As in training: only these groups of the data set. Default: all of it.",
        ),
    ] = None,
    seed: SeedOfDivision = 0,
    count: Annotated[int, typer.Option(help="Phantoms of unseen seeds; 0: none.", min=0)] = 400,
    first_phantom: Annotated[
        int, typer.Option(min=0, help="Seed of the first phantom.")
    ] = 9_000_000,
    dicom: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of other ultrasound; its judging half is used.",
        ),
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also with each branch off, and each alone.")
    ] = False,
    augment: Annotated[
        int,
        typer.Option(
            help="Further looks at each region, averaged; n cost n times as much again.",
            min=0,
            max=16,
        ),
    ] = 0,
    worst: Annotated[int, typer.Option(help="Failures named for each set.", min=0)] = 20,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the figures as JSON.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Write an HTML report, and its figures as JSON beside it."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of --out and --report.")
    ] = False,
) -> None:
    """Print how good a bundle is on unseen phantoms, labelled pictures and other organs' pictures.

    Example: qc-model evaluate --dicom ../shared/data/us_dicom

    Example: qc-model evaluate --count 0 --fetus-framework ff --split set2_train --held-out 0.1
    --ablate --report runs/evaluation.html
    """
    from training.data import splits

    if report and report.suffix != ".html":
        raise console.UsageError("--report: give a file that ends in .html")
    _check_split(split, fetus_framework)
    if held_out is not None and not fetus_framework:
        raise console.UsageError(
            "--held-out goes with --fetus-framework; of --samples it takes all"
        )
    reports = (report, report.with_suffix(".json")) if report else ()
    for path in (out, *reports):
        if path is not None and path.exists() and not force:
            raise console.UsageError(f"{path} exists: name another file, or give --force")
    labelled = splits.load(samples, None, None, origin) if samples else []
    if fetus_framework:
        real = splits.load(None, fetus_framework, split)
        labelled += real if held_out is None else splits.split_by_group(real, held_out, seed)[1]
    if not (labelled or count or dicom):
        raise console.UsageError("no pictures; give --samples, --fetus-framework or --count")
    for path in (out, *reports):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    # After the checks, for these load the networks' libraries.
    from training.evaluation.evaluate import evaluate_bundle, print_table
    from training.evaluation.report import write_report

    figures = evaluate_bundle(
        bundle,
        count,
        first_phantom,
        dicom,
        labelled=labelled,
        ablation=ablate,
        augment=augment,
        worst=worst,
    ) | {"command": typed_command()}
    print_table(figures)
    if out:
        out.write_text(json.dumps(figures, indent=1))
    if report:
        write_report(report, "Evaluation", figures)


def _check_split(split: list[str] | None, fetus_framework: Path | None) -> None:
    if split and not fetus_framework:
        raise console.UsageError("--split goes with --fetus-framework")


def _check_fold(fold: int | None, validation: "list[Sample]") -> None:
    if fold is not None and not validation:
        raise console.UsageError(
            f"--fold {fold} holds no real picture: simulated ones are never held out by folds"
        )
