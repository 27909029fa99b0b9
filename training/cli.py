"""`qc-model`: make phantoms, train, calibrate, evaluate. One verb, one function."""

import json
import sys
from dataclasses import replace
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
    train_parts,
)
from training.commands.embed import embed, search
from training.commands.fetalclip import app as fetalclip
from training.commands.fetalclip import iqa, segment
from training.commands.fetalclip.distil import distil
from training.commands.fetalclip.explain import explain
from training.commands.fetalclip.gestational_age import gestational_age
from training.commands.fetalclip.zero_shot import zero_shot
from training.commands.options import (
    FetalPlanes,
    Force,
    Out,
    Seed,
    finite,
    typed_command,
)
from training.commands.probe import classify, few_shot, probe
from training.commands.sample_sources import (
    Describer,
    Detector,
    DetectorSide,
    Dicom,
    Epochs,
    FetusFramework,
    Hc18,
    HeadStructures,
    OriginOfSamples,
    Samples,
    SeedOfDivision,
    Splits,
    Unlabelled,
    check_split,
)
from training.phantom.command import phantom
from training.phantom.history.command import history
from training.recipes import FOLDS

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
train.command("detector")(train_parts.train_detector)
train.command("describer")(train_parts.train_describer)
train.command("spatialclip")(train_parts.train_spatialclip)
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


def main() -> None:
    sys.exit(console.run(_run))


def _run() -> None:
    """Run the command; where memory is short one line says what helps."""
    try:
        app()
    except MemoryError:
        raise QCError(ErrorCode.INTERNAL, "not enough memory: try a smaller --batch") from None


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
    check_split(split, fetus_framework)
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

    check_split(split, fetus_framework)
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
    check_split(split, fetus_framework)
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
