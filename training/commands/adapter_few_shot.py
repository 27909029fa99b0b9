"""`qc-model nextgen-uia few-shot`: adapters by the number of patients to learn from."""

from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError
from training.adapter_recipes import HeadRecipe
from training.commands.answers import write_json
from training.commands.lesion_sources import AdapterName
from training.commands.options import (
    Copies,
    Device,
    FeatureFolder,
    Force,
    GroupColumn,
    LabelColumn,
    LearningRate,
    LeaveOut,
    Out,
    PicturesAStep,
    Resume,
    Seed,
    SonoNetSide,
    Tower,
    typed_command,
)

_RECIPE = HeadRecipe()
_CURVE = "curve.json"


def few_shot(
    tower: Tower,
    labels: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="CSV of pictures with class and patient."),
    ],
    out: Out,
    adapter: Annotated[
        AdapterName, typer.Option(help="What learns beside the head.")
    ] = AdapterName.HYBRID,
    patients: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Patients of each class; repeatable. Default: 1, 2, 4, … 32."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Draws of the patients in each of five folds.")
    ] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 100,
    batch: PicturesAStep = _RECIPE.batch,
    learning_rate: LearningRate = 1e-3,
    width: Annotated[int, typer.Option(min=1, help="Channels of the head.")] = 128,
    layers: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Block that the head reads, from 0; repeatable."),
    ] = None,
    side: SonoNetSide = 224,
    copies: Copies = _RECIPE.copies,
    cache: FeatureFolder = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    leave_out: LeaveOut = None,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Say how good adapters get from a few patients of each class, on patients not seen.

    The curve goes to curve.json in --out, each trial to trials.jsonl: a killed one goes on with
    --resume.

    Example: qc-model nextgen-uia few-shot --tower clip --labels planes/labels.csv
    --leave-out other --leave-out cervix --out runs/few-shot
    """
    from model.device import choose_device
    from model.nextgen_uia.adapters import AdapterConfig, Kind
    from model.nextgen_uia.checkpoint import load_tower
    from model.nextgen_uia.network import ClipTower, HeadConfig, Task
    from training.data import labelled, lesions
    from training.data.samples import SampleError
    from training.features.few_shot import SHOTS
    from training.train.nextgen_uia.few_shot import FewShotPlan, adapter_few_shot_curve
    from training.train.nextgen_uia.frozen_features import FrozenFeatures

    recipe = HeadRecipe(batch=batch, learning_rate=learning_rate, copies=copies, seed=seed)
    if cache is not None and not copies:
        raise UsageError("--cache keeps copies: give --copies 10, say")
    plan = FewShotPlan(tuple(sorted(set(patients or SHOTS))), repeats, steps, seed)
    target = choose_device(device)
    try:
        listed = labelled.read_labelled(
            labels, label_column=label_column, group_column=group_column
        )
        pictures = lesions.of_labelled(labelled.leave_out(listed, leave_out or ()))
    except SampleError as error:
        raise UsageError(str(error)) from None
    names = tuple(sorted({picture.label for picture in pictures}))
    if len(names) < 2:
        raise UsageError(f"two classes at least are needed; there is {', '.join(names)}")
    network = load_tower(tower, tuple(layers) if layers else None, side)
    adapters = None
    if adapter is not AdapterName.NONE:
        if not isinstance(network, ClipTower):
            raise UsageError("--adapter: SonoNet has no attention blocks; give --adapter none")
        blocks = tuple(range(len(network.vision.encoder.layers)))
        adapters = AdapterConfig(Kind(adapter.value), blocks)
    network = network.to(target)
    features = None if cache is None else FrozenFeatures(network, cache)
    _begin(out, resume=resume, force=force)
    curve = adapter_few_shot_curve(
        network,
        HeadConfig(Task.CLASSIFICATION, names, width),
        pictures,
        out,
        recipe,
        plan,
        adapters,
        features,
    )
    for point in curve:
        typer.echo(
            f"{point['patients']:3} patients: macro-F1 {point['macro F1']:.3f}"
            f" ({point['low']:.3f} to {point['high']:.3f})"
        )
    facts = {"adapter": adapter.value, "classes": list(names), "curve": curve}
    write_json(facts | {"data sha256": lesions.lesions_hash(pictures), "command": typed_command()},
               out / _CURVE)  # fmt: skip


def _begin(out: Path, *, resume: bool, force: bool) -> None:
    """Raises UsageError on a folder with a curve that is neither gone on with nor replaced."""
    from training.train.nextgen_uia.few_shot import TRIALS

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    if resume and force:
        raise UsageError("--resume goes on with the curve in --out, --force removes it: give one")
    if (out / TRIALS).exists() and not resume:
        if not force:
            raise UsageError(
                f"{out} holds a curve: name another folder with --out, go on with it (--resume), or"
                " replace it (--force)"
            )
        for name in (TRIALS, _CURVE):
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
