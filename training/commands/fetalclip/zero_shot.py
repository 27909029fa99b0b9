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
    WithLearnt,
    read_names,
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
    unknown: Annotated[
        list[str] | None,
        typer.Option(
            help="A class of --labels that is none of the prompts', to judge abstention by;"
            " repeatable."
        ),
    ] = None,
    with_learnt: WithLearnt = False,
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

    Figures of --labels also say what --min-cosine and --min-probability would have to be for 99,
    95, 90 and 80 % of the pictures to get a class, how many of these are wrong on patients whom
    the threshold did not see, and how many of --unknown are still named.

    Example: qc-model zero-shot --model fetalclip --prompts planes.json
    --labels fetal_planes/labels.csv --rename thorax=heart --unknown other
    """
    from model.fetalclip.prompts import read_prompts, require_classes
    from model.fetalclip.zero_shot import RejectRule
    from training.data.labelled import list_pictures
    from training.train.runs import refuse_learnt

    if bool(paths) == (labels is not None):
        raise UsageError("give pictures, or --labels with a CSV of them")
    if labels is None and (figures or rename or leave_out or unknown):
        raise UsageError("--figures, --rename, --leave-out and --unknown go with --labels")
    check_target(out, force=force)
    check_target(figures, force=force)
    classes = read_prompts(prompts)
    require_classes(classes, reject_class or (), prompts.name)
    pictures: list[LabelledPicture] = []
    unknown_classes = set(unknown or ())
    if labels is None:
        files = list_pictures(paths or ())
    else:
        pictures = _labelled(labels, label_column, group_column, rename, leave_out)
        labels_present = {picture.label for picture in pictures}
        _check_unknown(unknown_classes, labels_present, set(classes))
        require_classes(classes, sorted(labels_present - unknown_classes), prompts.name)
        files = [picture.path for picture in pictures]
        if not with_learnt:
            # A student of qc-model distil and tuned adapters say what they learnt from.
            for folder in (model, *([adapters] if adapters else [])):
                refuse_learnt(folder, files, "give others, or --with-learnt")
    rule = RejectRule(min_probability, min_cosine, frozenset(reject_class or ()))
    answer = _classifier(model, classes, rule, device, adapters)
    records = answer_each(files, answer)
    if labels is not None:
        _write_figures(pictures, records, unknown_classes, figures)
    write_records(records, COLUMNS, format, out)


def _labelled(
    labels: Path,
    label_column: str,
    group_column: str,
    rename: list[str] | None,
    leave_out: list[str] | None,
) -> "list[LabelledPicture]":
    """Raises UsageError."""
    from training.data import labelled
    from training.data.samples import SampleError

    pictures = labelled.read_labelled(
        labels, label_column=label_column, group_column=group_column, rename=read_names(rename)
    )
    try:
        return labelled.leave_out(pictures, leave_out or ())
    except SampleError as error:
        raise UsageError(str(error)) from None


def _check_unknown(unknown: set[str], present: set[str], classes: set[str]) -> None:
    for name in sorted(unknown):
        if name not in present:
            raise UsageError(
                f"--unknown {name}: no picture has it, but {', '.join(sorted(present))}"
            )
        if name in classes:
            raise UsageError(f"--unknown {name}: it has prompts")


def _classifier(model: Path, prompts: Any, rule: Any, device: str, adapters: Path | None) -> Any:
    from dataclasses import asdict

    from model.device import choose_device
    from model.fetalclip.checkpoint import load_fetalclip
    from model.fetalclip.preprocess import TextEncoder, images
    from model.fetalclip.zero_shot import ZeroShotClassifier
    from training.data.labelled import read_first_frame

    network = load_fetalclip(model)
    if adapters is not None:
        from training.train.fetalclip.caption_tuning import apply_to

        apply_to(network, adapters)
    network.to(choose_device(device))
    encoder = TextEncoder.load(model, network.architecture)
    classifier = ZeroShotClassifier(network, encoder, prompts, rule)

    def answer(path: Path) -> dict[str, Any]:
        pixels = images([read_first_frame(path).pixels], network.architecture.image)
        return asdict(classifier.classify(network.image_features(pixels))[0])

    return answer


def _write_figures(
    pictures: "list[LabelledPicture]",
    records: list[dict[str, Any]],
    unknown: set[str],
    figures: Path | None,
) -> None:
    from training.data.labelled import group_key
    from training.evaluation.metrics.multiclass import REJECTED, multiclass_metrics

    pairs = [
        (picture, record)
        for picture, record in zip(pictures, records, strict=True)
        if "error" not in record
    ]
    test_pairs = [pair for pair in pairs if pair[0].label not in unknown]
    if not test_pairs:
        return
    result = multiclass_metrics(
        [picture.label for picture, _ in test_pairs],
        [record["label"] or REJECTED for _, record in test_pairs],
        [group_key(picture.group) for picture, _ in test_pairs],
    )
    unknown_pairs = [pair for pair in pairs if pair[0].label in unknown]
    result["abstention"] = _abstention(test_pairs, unknown_pairs)
    text = json.dumps(result, indent=1)
    if figures is None:
        typer.echo(text, err=True)
    else:
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(text + "\n", encoding="utf-8")


def _abstention(
    test_pairs: "list[tuple[LabelledPicture, dict[str, Any]]]",
    unknown_pairs: "list[tuple[LabelledPicture, dict[str, Any]]]",
) -> dict[str, Any]:
    """What thresholds of cosine and probability are worth, each with the option that sets it."""
    import numpy as np

    from training.data.labelled import group_key
    from training.evaluation.planes import without_nan
    from training.features.abstention import abstention_figures
    from training.features.probe import FOLDS, folds_of

    groups, unknown_groups = (
        [group_key(picture.group) for picture, _ in pairs] for pairs in (test_pairs, unknown_pairs)
    )
    right = np.array([record["closest"] == picture.label for picture, record in test_pairs])
    figures: dict[str, Any] = {}
    for name in ("cosine", "probability"):
        scores, unknown_scores = (
            np.array([-record[name] for _, record in pairs])
            for pairs in (test_pairs, unknown_pairs)
        )
        of_name = abstention_figures(
            scores, right, groups, folds_of(groups, FOLDS, 0), unknown_scores, unknown_groups
        )
        for entry in of_name["at"]:
            entry[f"--min-{name}"] = -entry.pop("greatest score")
        figures[name] = of_name
    return without_nan(figures)  # type: ignore[no-any-return]
