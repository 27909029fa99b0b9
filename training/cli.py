"""`qc-model`: make phantoms, train, calibrate, evaluate. One verb, one function."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from detector import console
from detector.version_option import add_version
from training.phantom.command import phantom

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, calibrate and evaluate the models of qc-daemon.",
)
add_version(app, "qc-model")
train = typer.Typer(no_args_is_help=True, help="Train one of the models.")
app.add_typer(train, name="train")
app.command()(phantom)

Samples = Annotated[
    list[Path] | None, typer.Option("--samples", help="SpatialCLIP JSON; repeatable.")
]
FetusFramework = Annotated[
    Path | None, typer.Option(help="Folder of the Fetus Framework data set.")
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Its splits; repeatable.")]
FOLDS = 5
Fold = Annotated[
    int | None,
    typer.Option(min=0, max=FOLDS - 1, help="Hold this fold of the real pictures out instead."),
]
Out = Annotated[Path, typer.Option(help="Where the run goes.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]


def main() -> None:
    sys.exit(console.run(app))


@train.command("detector")
def train_detector(
    out: Out,
    samples: Samples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    scale: Annotated[str, typer.Option(help="YOLO11 n, s, m, l or x")] = "n",
    size: int = 416,
    epochs: int = 30,
    batch: int = 16,
    seed: int = 0,
    held_out: Annotated[float, typer.Option(help="Share of groups kept for validation.")] = 0.1,
    fold: Fold = None,
    start: Annotated[
        Path | None, typer.Option(help="Folder of a trained detector to begin with.")
    ] = None,
    simulated: Annotated[
        float, typer.Option(help="Simulated pictures an epoch, for each real one.")
    ] = 1.0,
    mirrored: Annotated[
        bool,
        typer.Option("--mirrored", help="It shall look at mirror images too, in twice the time."),
    ] = False,
    resume: Resume = False,
) -> None:
    """Train the anatomy detector on boxed pictures.

    Example: qc-model train detector --out runs/detector --samples runs/phantoms/samples.json
    """
    from training import corpus, detector

    boxed = [s for s in corpus.gather(samples, fetus_framework, split) if s.annotated]
    training, validation = (
        corpus.divide(boxed, held_out, seed)
        if fold is None
        else corpus.without_fold(boxed, fold, FOLDS, seed)
    )
    recipe = detector.DetectorRecipe(
        scale, size, epochs, batch, simulated=simulated, mirrored=mirrored, seed=seed
    )
    facts = detector.train_detector(
        training, validation, out, recipe, start=start, resume=resume, command=_command()
    )
    typer.echo(json.dumps(facts["validation"], indent=1))


@train.command("describer")
def train_describer(out: Out, seed: int = 0, steps: int = 1500) -> None:
    """Train the small describer on phrases made for it.

    Example: qc-model train describer --out runs/describer
    """
    from training import describer

    describer.describer(out, seed=seed, steps=steps)


@train.command("spatialclip")
def train_spatialclip(
    out: Out,
    detector: Annotated[
        list[Path],
        typer.Option(help="Folder of a trained detector; or five times, the folds' in order."),
    ],
    describer: Annotated[Path, typer.Option(help="Folder of a trained describer.")],
    samples: Samples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    epochs: Annotated[int, typer.Option(help="Epochs in which everything learns at once.")] = 16,
    stages: Annotated[
        tuple[int, int, int],
        typer.Option(help="Epochs of the three published stages; any above 0 replaces --epochs."),
    ] = (0, 0, 0),
    start: Annotated[
        Path | None, typer.Option(help="Folder of a trained SpatialCLIP to begin with.")
    ] = None,
    learning_rate: float = 6e-4,
    simulated: Annotated[
        float, typer.Option(help="Simulated pictures an epoch, for each real one; 0: all.")
    ] = 0.0,
    focal: Annotated[float, typer.Option(help="Exponent of the focal loss; 0: none.")] = 0.0,
    balanced: Annotated[bool, typer.Option(help="Weigh both classes alike.")] = False,
    ema: Annotated[float, typer.Option(help="Decay of the weights' average; 0: none.")] = 0.0,
    modality_dropout: Annotated[
        float, typer.Option(help="How often each of picture, words and layout is hidden.")
    ] = 0.1,
    lora: Annotated[
        int,
        typer.Option(help="Rank of adapters in place of whole blocks in the last stage; 0: none."),
    ] = 0,
    seed: int = 0,
    held_out: Annotated[float, typer.Option(help="Share of groups kept for validation.")] = 0.1,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained SpatialCLIP: its recipe, in place of these options."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where boxes, words and sights are kept; default: beside OUT."),
    ] = None,
    fold: Fold = None,
    resume: Resume = False,
) -> None:
    """Train SpatialCLIP on what the detector and the describer make of the pictures.

    Example: qc-model train spatialclip --out runs/spatialclip --detector runs/detector
    --describer runs/describer --samples runs/phantoms/samples.json
    """
    from training import corpus, pipeline
    from training.spatialclip import SpatialClipRecipe

    if len(detector) not in (1, FOLDS):
        raise console.UsageError(f"--detector: give one, or {FOLDS} for the folds")
    recipe = SpatialClipRecipe(
        epochs=epochs,
        stages=stages,
        learning_rate=learning_rate,
        simulated=simulated,
        focal=focal,
        balanced=balanced,
        ema_decay=ema,
        modality_dropout=modality_dropout,
        lora=lora,
        seed=seed,
    )
    if like is not None:
        recipe = SpatialClipRecipe.of_run(like)
    kept = cache or out.parent
    found = corpus.gather(samples, fetus_framework, split)
    # All at once, so that what is kept serves any division of them.
    seen = pipeline.gather_folds(found, detector, describer, kept / "evidence", seed)
    training, validation = (
        corpus.divide(found, held_out, seed)
        if fold is None
        else corpus.without_fold(found, fold, FOLDS, seed)
    )
    of_sample = dict(zip(map(id, found), seen, strict=True))
    facts = pipeline.train_small_spatialclip(
        [of_sample[id(sample)] for sample in training],
        [of_sample[id(sample)] for sample in validation],
        out,
        recipe,
        start=start,
        cache=kept,
        resume=resume,
        command=_command(),
    )
    typer.echo(json.dumps(facts["validation"], indent=1))


@app.command("cross-validate")
def cross_validate(
    out: Out,
    fetus_framework: Annotated[Path, typer.Option(help="Folder of the Fetus Framework data set.")],
    boxed: Annotated[list[Path], typer.Option(help="Simulated pictures (JSON) for the detectors.")],
    judged: Annotated[
        list[Path],
        typer.Option(help="Simulated pictures and negatives (JSON) for SpatialCLIP; repeat it."),
    ],
    describer: Annotated[Path, typer.Option(help="Folder of a trained describer.")],
    detector_start: Annotated[
        Path, typer.Option(help="Folder of a detector that saw simulated pictures only.")
    ],
    spatialclip_start: Annotated[
        Path, typer.Option(help="Folder of a SpatialCLIP that saw simulated pictures only.")
    ],
    detector_size: int = 480,
    detector_epochs: int = 12,
    stages: tuple[int, int, int] = (2, 12, 4),
    seed: int = 0,
    nested: Annotated[
        bool, typer.Option(help="Also bound the leak that is left, with one nested fold.")
    ] = False,
    looks: Annotated[
        bool,
        typer.Option(
            help="Also leave out each look: pictures clustered by grey levels, grain and size."
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
    from training import corpus, crossval
    from training.detector import DetectorRecipe
    from training.folds import Plan
    from training.spatialclip import SpatialClipRecipe

    figures = crossval.cross_validate(
        Plan(
            out,
            corpus.gather(None, fetus_framework, None),
            corpus.gather(boxed, None, None),
            corpus.gather(judged, None, None),
            describer,
            detector_start,
            spatialclip_start,
            DetectorRecipe(
                size=detector_size,
                epochs=detector_epochs,
                simulated=0.3,
                mirrored=True,
                seed=seed,
            ),
            SpatialClipRecipe(
                stages=stages,
                learning_rate=3e-4,
                simulated=1.0,
                balanced=True,
                ema_decay=0.99,
                modality_dropout=0.2,
                alone=2.0,
                hold_gates=3.0,
                sights=10,
                pooled=True,
                mirrored=True,
                as_seen=0.5,
                steady=1.0,
                seed=seed,
            ),
            folds=FOLDS,
            seed=seed,
            command=_command(),
        ),
        nested=nested,
        looks=looks,
        jobs=jobs,
    )
    long = ("risk and coverage", "sets", "alignment by fold")
    shown = {name: figure for name, figure in figures.items() if name not in long}
    typer.echo(json.dumps(shown, indent=1))


@app.command()
def negatives(
    out: Out,
    dicom: Annotated[
        Path | None, typer.Option(help="Folder of other ultrasound; its tuning half is used.")
    ] = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    count: int = 600,
    seed: int = 0,
) -> None:
    """Write pictures that are none of the views, made of real pixels.

    Example: qc-model negatives --out runs/negatives --dicom us_dicom --fetus-framework ff
    """
    from training import corpus
    from training.negatives import write_negatives
    from training.us_dicom import halves

    made = write_negatives(
        out,
        halves(dicom)[0] if dicom else [],
        corpus.gather(None, fetus_framework, split),
        count,
        seed,
    )
    typer.echo(f"{made} pictures in {out}")


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    detector: Annotated[Path, typer.Option(help="Folder of a trained detector.")],
    describer: Annotated[Path, typer.Option(help="Folder of a trained describer.")],
    spatialclip: Annotated[Path, typer.Option(help="Folder of a trained SpatialCLIP.")],
    samples: Samples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    seed: Annotated[int, typer.Option(help="As in training: it names the groups held out.")] = 0,
    held_out: Annotated[float, typer.Option(help="As in training, for the real pictures.")] = 0.1,
    dicom: Annotated[
        Path | None, typer.Option(help="Folder of other ultrasound; its tuning half is used.")
    ] = None,
    cross_validation: Annotated[
        Path | None,
        typer.Option(help="Folder of a cross-validation: its unseen pictures calibrate too."),
    ] = None,
    note: Annotated[
        list[str] | None, typer.Option(help="A limit for the model card. Repeat it for more.")
    ] = None,
    name: str = "default",
    version: str = "0",
) -> None:
    """Fit calibration, thresholds and the out-of-distribution score, and write the bundle.

    Example: qc-model calibrate --out model/bundles/default --detector runs/detector
    --describer runs/describer --spatialclip runs/spatialclip --samples runs/val/samples.json
    """
    from training import bundling, corpus
    from training.us_dicom import halves

    known = corpus.gather(samples, None, None)
    if fetus_framework:
        # The simulated pictures are a set of their own; of the real ones only those held out.
        known += corpus.divide(corpus.gather(None, fetus_framework, split), held_out, seed)[1]
    manifest = bundling.make_bundle(
        out,
        detector,
        describer,
        spatialclip,
        known,
        halves(dicom)[0] if dicom else [],
        name=name,
        version=version,
        command=_command(),
        cross_validation=cross_validation,
        notes=note or (),
    )
    typer.echo(json.dumps(manifest["metrics"], indent=1))


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name or a folder.")] = "default",
    samples: Samples = None,
    fetus_framework: FetusFramework = None,
    split: Splits = None,
    held_out: Annotated[
        float | None,
        typer.Option(help="As in training: only these groups of the data set. Default: all of it."),
    ] = None,
    seed: Annotated[int, typer.Option(help="As in training: it names the groups held out.")] = 0,
    count: Annotated[int, typer.Option(help="Phantoms of unseen seeds; 0: none.", min=0)] = 400,
    first_phantom: Annotated[int, typer.Option(help="Seed of the first phantom.")] = 9_000_000,
    dicom: Annotated[
        Path | None, typer.Option(help="Folder of other ultrasound; its judging half is used.")
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
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report, and its figures as JSON beside it.")
    ] = None,
) -> None:
    """Print how good a bundle is on unseen phantoms, labelled pictures and other organs' pictures.

    Example: qc-model evaluate --dicom ../shared/data/us_dicom

    Example: qc-model evaluate --count 0 --fetus-framework ff --split set2_train --held-out 0.1
    --ablate --report runs/evaluation.html
    """
    from training import corpus

    if report and report.suffix != ".html":
        raise console.UsageError("--report: give a file that ends in .html")
    labelled = corpus.gather(samples, None, None) if samples else []
    if fetus_framework:
        found = corpus.gather(None, fetus_framework, split)
        labelled += found if held_out is None else corpus.divide(found, held_out, seed)[1]
    if not (labelled or count or dicom):
        raise console.UsageError("no pictures; give --samples, --fetus-framework or --count")
    # After the checks, for these load the networks' libraries.
    from training.evaluate import evaluate_bundle, show
    from training.report import write_report

    figures = evaluate_bundle(
        bundle,
        count,
        first_phantom,
        dicom,
        labelled=labelled,
        ablation=ablate,
        augment=augment,
        worst=worst,
    ) | {"command": _command()}
    show(figures)
    if out:
        out.write_text(json.dumps(figures, indent=1))
    if report:
        write_report(report, "Evaluation", figures)


def _command() -> str:
    """The command, to be typed again; without the folders of this machine."""
    return shlex.join(
        ["qc-model", *(Path(a).name if a.startswith("/") else a for a in sys.argv[1:])]
    )
