"""`qc-model distil`: a small CLIP that learns what a FetalCLIP knows."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.console import UsageError
from training.commands.captions import BatchOfPairs, CaptionColumn, FileColumn, Validation
from training.commands.options import (
    Device,
    Epochs,
    Force,
    LabelColumn,
    LearningRate,
    LeaveOut,
    Out,
    Patience,
    Resume,
    Seed,
    finite,
    typed_command,
)
from training.fetalclip_recipes import DistillationRecipe

if TYPE_CHECKING:
    from training.data.captions import Captioned

_RECIPE = DistillationRecipe()


class Size(StrEnum):
    """Of the student; `model.fetalclip.student.StudentSize` without torch."""

    TINY = "tiny"
    SMALL = "small"


def distil(
    teacher: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A folder that qc-model fetalclip convert wrote, with its tokenizer.",
        ),
    ],
    out: Out,
    captions: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV of pictures and captions, the pictures in images beside it; repeatable.",
        ),
    ] = None,
    file_column: FileColumn = "filename",
    caption_column: CaptionColumn = "Caption",
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV of pictures with classes, in place of --captions; with --prompts. Of one with"
            " splits, train is learnt from, val validates, and test is left out.",
        ),
    ] = None,
    label_column: LabelColumn = "plane",
    leave_out: LeaveOut = None,
    prompts: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON of each class's prompts."),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            help="Column of patients or cases, of --captions (default: each picture is its own) or"
            " of --labels (default: patient)."
        ),
    ] = None,
    size: Annotated[Size, typer.Option(help="Of the student's image tower.")] = Size.TINY,
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A student to begin with, of any size: a folder as distil writes it.",
        ),
    ] = None,
    validation: Validation = 0.1,
    epochs: Epochs = _RECIPE.epochs,
    batch: BatchOfPairs = _RECIPE.batch,
    learning_rate: LearningRate = _RECIPE.learning_rate,
    temperature: Annotated[
        float,
        typer.Option(min=0.1, max=1000, callback=finite, help="Divides the teacher's logits."),
    ] = _RECIPE.temperature,
    beta: Annotated[
        tuple[float, float],
        typer.Option(
            help="Weight of pairs that do not match, in the first and in the last epoch: above 0"
            " the student is coupled to the teacher's confusions, below 0 repelled from them.",
        ),
    ] = (_RECIPE.beta_start, _RECIPE.beta_end),
    weight: Annotated[
        float,
        typer.Option(
            min=0, max=1000, callback=finite, help="Weight of the teacher; 0: CLIP's loss alone."
        ),
    ] = _RECIPE.distillation_weight,
    augment: Annotated[
        bool,
        typer.Option(
            help="Turn, move and re-tone the pictures; without, the teacher sees each one once."
        ),
    ] = _RECIPE.augment,
    patience: Patience = _RECIPE.patience,
    seed: Seed = _RECIPE.seed,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Teach a small CLIP (ViT-Ti or ViT-S) by a FetalCLIP, coupled first, repelled at last.

    What --out holds is a FetalCLIP folder: zero-shot, embed, probe, explain and the others take it.

    Example: qc-model distil --teacher fetalclip --captions pairs.csv --group-column patient
    --out runs/student

    Example: qc-model distil --teacher fetalclip --labels fetal_planes/labels.csv
    --prompts planes.json --leave-out other --no-augment --epochs 5 --batch 16 --out runs/student
    """
    import torch

    from model.device import choose_device
    from model.fetalclip.checkpoint import WEIGHTS, file_sha256, load_fetalclip
    from model.fetalclip.network import FetalClip
    from model.fetalclip.preprocess import TextEncoder
    from model.fetalclip.student import StudentSize, student_architecture
    from training.train import runs
    from training.train.fetalclip import distillation
    from training.train.fetalclip.caption_tuning import check_pairs

    if not all(map(math.isfinite, beta)):
        raise UsageError(f"--beta {beta[0]} {beta[1]}: give finite numbers")
    recipe = DistillationRecipe(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        temperature=temperature,
        distillation_weight=weight,
        beta_start=beta[0],
        beta_end=beta[1],
        augment=augment,
        patience=patience,
        seed=seed,
    )
    if bool(captions) == (labels is not None) or (labels is None) != (prompts is None):
        raise UsageError("give --captions, or --labels with --prompts")
    if captions:
        if leave_out:
            raise UsageError("--leave-out goes with --labels")
        training_part, validation_part = _read_captions(
            captions, file_column, caption_column, group_column, validation, seed
        )
    else:
        assert labels is not None
        assert prompts is not None
        training_part, validation_part = _read_classes(
            labels, prompts, label_column, group_column or "patient", leave_out, validation, seed
        )
    check_pairs(training_part, validation_part, recipe)
    target = choose_device(device)
    network = load_fetalclip(teacher, target)
    encoder = TextEncoder.load(teacher, network.architecture)
    if start is None:
        torch.manual_seed(seed)
        architecture = student_architecture(StudentSize(size.value), network.architecture)
        student = FetalClip(architecture).to(target)
    else:
        student = load_fetalclip(start, target)
        for name in ("vocabulary", "context"):
            theirs, own = (getattr(each.architecture, name) for each in (student, network))
            if theirs != own:
                raise UsageError(f"--start {start}: its {name} is {theirs}, the teacher's {own}")
    runs.begin_run(out, resume=resume, force=force)
    facts = distillation.distil(
        network,
        student,
        encoder,
        training_part,
        validation_part,
        out,
        recipe,
        teacher_sha256=file_sha256(teacher / WEIGHTS),
        learnt_before=set() if start is None else runs.learnt_pictures(start),
        resume=resume,
        command=typed_command(),
    )
    answer = {
        "best epoch": facts["best epoch"],
        "teacher parameters": facts["teacher"]["parameters"],
        "student parameters": facts["student"]["parameters"],
        "validation": facts["validation"]["loss"],
    }
    typer.echo(json.dumps(answer, indent=1))


def _read_captions(
    captions: list[Path],
    file_column: str,
    caption_column: str,
    group_column: str | None,
    validation: float,
    seed: int,
) -> "tuple[list[Captioned], list[Captioned]]":
    """The pairs to learn from and to validate with. Raises UsageError."""
    from training.data.captions import divide_captions, read_captions
    from training.data.samples import SampleError

    try:
        pairs = read_captions(
            captions,
            file_column=file_column,
            caption_column=caption_column,
            group_column=group_column,
        )
    except SampleError as error:
        raise UsageError(str(error)) from None
    return divide_captions(pairs, validation, seed)


def _read_classes(
    labels: Path,
    prompts: Path,
    label_column: str,
    group_column: str,
    leave_out: list[str] | None,
    validation: float,
    seed: int,
) -> "tuple[list[Captioned], list[Captioned]]":
    """As `_read_captions`, of pictures whose captions are their classes' prompts."""
    from model.fetalclip.prompts import read_prompts, require_classes
    from training.data import labelled
    from training.data.captions import caption_by_class
    from training.data.samples import SampleError

    texts = read_prompts(prompts)
    pictures = labelled.read_labelled(labels, label_column=label_column, group_column=group_column)
    try:
        pictures = labelled.leave_out(pictures, leave_out or ())
        require_classes(texts, [picture.label for picture in pictures], prompts.name)
        parts = labelled.divide(pictures, 0, validation, seed)
        labelled.check_present(parts["train"], sorted({each.label for each in pictures}), "train")
    except SampleError as error:
        raise UsageError(str(error)) from None
    return caption_by_class(parts["train"], texts), caption_by_class(parts["val"], texts)
