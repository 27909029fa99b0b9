"""`qc-model zero-shot`: classes of pictures by prompts alone."""

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
    write_records,
)
from training.commands.options import (
    Device,
    ForceFiles,
    GroupColumn,
    LabelColumn,
    LeaveOut,
    Rename,
)

if TYPE_CHECKING:
    from training.data.labelled import LabelledPicture

ModelFolder = Annotated[
    Path,
    typer.Option(
        exists=True, file_okay=False, help="A folder that qc-model fetalclip convert wrote."
    ),
]
COLUMNS = ("source", "label", "closest", "probability", "cosine", "reason")


def zero_shot(
    model: ModelFolder,
    prompts: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help='JSON of each class\'s prompts: {"class": ["…"], …}.'
        ),
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, help="Pictures, DICOM files and folders of them."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV of pictures with their classes, in place of PATHS: figures are printed too.",
        ),
    ] = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    rename: Rename = None,
    leave_out: LeaveOut = None,
    reject_class: Annotated[
        list[str] | None,
        typer.Option(help="A class of the prompts that means none of the others; repeatable."),
    ] = None,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Below it no class is named.")
    ] = 0.0,
    min_cosine: Annotated[
        float,
        typer.Option(min=-1, max=1, help="No class is named for a picture less similar to all."),
    ] = -1.0,
    adapters: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of adapters for its image tower (qc-model train captions).",
        ),
    ] = None,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    figures: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the figures of --labels as JSON.")
    ] = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Name the class whose prompts each picture is most similar to, or none.

    Example: qc-model zero-shot --model fetalclip --prompts planes.json pictures
    --min-cosine 0.2 --format jsonl

    Example: qc-model zero-shot --model fetalclip --prompts planes.json
    --labels fetal_planes/labels.csv --rename thorax=heart --leave-out other
    """
    from model.fetalclip.prompts import read_prompts, require_classes
    from model.fetalclip.zero_shot import RejectRule
    from training.data.labelled import list_pictures

    if bool(paths) == (labels is not None):
        raise UsageError("give pictures, or --labels with a CSV of them")
    if labels is None and (figures or rename or leave_out):
        raise UsageError("--figures, --rename and --leave-out go with --labels")
    check_target(out, force=force)
    check_target(figures, force=force)
    classes = read_prompts(prompts)
    require_classes(classes, reject_class or (), prompts.name)
    pictures = [] if labels is None else _labelled(labels, label_column, group_column, rename)
    left_out = set(leave_out or ())
    pictures = [picture for picture in pictures if picture.label not in left_out]
    require_classes(classes, [picture.label for picture in pictures], prompts.name)
    files = [picture.path for picture in pictures] if labels else list_pictures(paths or ())
    rule = RejectRule(min_probability, min_cosine, frozenset(reject_class or ()))
    answer = _classifier(model, classes, rule, device, adapters)
    records = answer_each(files, answer)
    if labels is not None:
        _write_figures(pictures, records, figures)
    write_records(records, COLUMNS, format, out)


def _labelled(
    labels: Path, label_column: str, group_column: str, rename: list[str] | None
) -> "list[LabelledPicture]":
    from training.data.labelled import read_labelled

    return read_labelled(
        labels, label_column=label_column, group_column=group_column, rename=read_names(rename)
    )


def read_names(rename: list[str] | None) -> dict[str, str]:
    """Pairs OLD=NEW of --rename. Raises UsageError."""
    names = {}
    for each in rename or ():
        old, equals, new = each.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--rename {each}: give OLD=NEW")
        names[old] = new
    return names


def _classifier(model: Path, prompts: Any, rule: Any, device: str, adapters: Path | None) -> Any:
    from dataclasses import asdict

    from model.device import choose_device
    from model.fetalclip.checkpoint import load_fetalclip
    from model.fetalclip.preprocess import TextEncoder, images
    from model.fetalclip.zero_shot import ZeroShotClassifier
    from training.data.labelled import read_first_frame

    network = load_fetalclip(model)
    if adapters is not None:
        from training.train.caption_tuning import apply_to

        apply_to(network, adapters)
    network.to(choose_device(device))
    encoder = TextEncoder.load(model, network.architecture)
    classifier = ZeroShotClassifier(network, encoder, prompts, rule)

    def answer(path: Path) -> dict[str, Any]:
        pixels = images([read_first_frame(path).pixels], network.architecture.image)
        return asdict(classifier.classify(network.image_features(pixels))[0])

    return answer


def _write_figures(
    pictures: "list[LabelledPicture]", records: list[dict[str, Any]], figures: Path | None
) -> None:
    from training.data.labelled import group_key
    from training.evaluation.multiclass import REJECTED, multiclass_metrics

    answered = [
        (picture, record)
        for picture, record in zip(pictures, records, strict=True)
        if "error" not in record
    ]
    if not answered:
        return
    result = multiclass_metrics(
        [picture.label for picture, _ in answered],
        [record["label"] or REJECTED for _, record in answered],
        [group_key(picture.group) for picture, _ in answered],
    )
    text = json.dumps(result, indent=1)
    if figures is None:
        typer.echo(text, err=True)
    else:
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(text + "\n", encoding="utf-8")
