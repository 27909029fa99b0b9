"""`qc-model probe`, `classify` and `few-shot`: planes of your own on frozen towers."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.console import UsageError
from training.commands.answers import Format, FormatOption, OutOption, check_target, write_records
from training.commands.embed import TOWER_HELP, Cache, Tower, labelled_or_listed
from training.commands.options import (
    MOST_SEED,
    Device,
    ForceFiles,
    GroupColumn,
    LabelColumn,
    LeaveOut,
    Rename,
    read_names,
)

if TYPE_CHECKING:
    from training.features.embeddings import Embeddings

Towers = Annotated[
    list[str], typer.Option("--tower", help=f"Repeatable, all judged alike: {TOWER_HELP}")
]
LabelsFile = Annotated[
    Path,
    typer.Option(exists=True, dir_okay=False, help="CSV of pictures with class and patient."),
]
Seed = Annotated[
    int, typer.Option(min=0, max=MOST_SEED, help="Of folds and draws: the same again.")
]


class AbstainBy(StrEnum):
    """How unlike the learnt classes a picture is (`training.features.abstention.Score`)."""

    AUTO = "auto"
    SOFTMAX = "softmax"
    ENERGY = "energy"
    MAHALANOBIS = "mahalanobis"
    RELATIVE = "relative"
    NEIGHBOUR = "neighbour"


def probe(
    tower: Towers,
    labels: LabelsFile,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of figures.json, and a probe a tower.")
    ],
    unknown: Annotated[
        list[str] | None,
        typer.Option(help="A class that is not learnt, to check abstention on; repeatable."),
    ] = None,
    leave_out: LeaveOut = None,
    rename: Rename = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    abstain_by: Annotated[
        AbstainBy,
        typer.Option(
            help="The score by which a picture gets no class. auto: the one that best tells learnt"
            " classes left out in turn."
        ),
    ] = AbstainBy.AUTO,
    answered: Annotated[
        float,
        typer.Option(min=0.5, max=1, help="Share of pictures of learnt classes that get a class."),
    ] = 0.95,
    cache: Cache = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace what --out holds.")] = False,
) -> None:
    """Learn classes by a linear layer on each frozen tower; figures are of patients not seen.

    Example: qc-model probe --labels planes/labels.csv --unknown other --out runs/probe
    --tower efficientnet-lite0 --tower sononet16=sononet16.safetensors
    """
    from training.features.abstention import Score
    from training.features.probe import evaluate_probe, save_probe

    score = None if abstain_by is AbstainBy.AUTO else Score(abstain_by.value)
    if out.exists() and any(out.iterdir()) and not force:
        raise UsageError(f"{out} holds files: name another folder, or give --force")
    results = []
    names = set(unknown or ())
    for number, data in enumerate(
        _embedded(tower, labels, label_column, group_column, rename, leave_out, cache, device), 1
    ):
        known, others = _divide(data, names)
        fitted, figures = evaluate_probe(
            known, others, seed=seed, abstention=score, answered=answered
        )
        folder = out / f"{number}-{data.tower.replace('=', '-')}"
        save_probe(folder, fitted)
        results.append(figures | {"probe": folder.name})
        typer.echo(_summary(figures))
    (out / "figures.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def classify(
    probe: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="A tower's folder that probe wrote."),
    ],
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Pictures, DICOM files and folders of them.")
    ],
    tower: Tower,
    cache: Cache = None,
    format: FormatOption = Format.TABLE,
    out: OutOption = None,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Name the class of each picture by a probe, or none where it is like no class.

    Example: qc-model classify runs/probe/1-sononet16 new.png
    --tower sononet16=sononet16.safetensors
    """
    from model.device import choose_device
    from training.features.embeddings import embed
    from training.features.probe import classify as classify_rows
    from training.features.probe import load_probe
    from training.features.towers import load_tower

    check_target(out, force=force)
    fitted = load_probe(probe)
    pictures = labelled_or_listed(paths, None, "plane", "patient")
    data = embed(load_tower(tower, choose_device(device)), pictures, cache)
    records = [
        {"source": file} | record
        for file, record in zip(data.files, classify_rows(fitted, data), strict=True)
    ]
    columns = ("source", "label", "closest", "probability", "distance", "greatest_distance")
    write_records(records, columns, format, out)


def few_shot(
    tower: Towers,
    labels: LabelsFile,
    out: Annotated[Path, typer.Option(dir_okay=False, help="The JSON of the curves.")],
    patients: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Patients of each class; repeatable. Default: 1, 2, 4, … 32."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Draws of the patients in each of five folds.")
    ] = 5,
    leave_out: LeaveOut = None,
    rename: Rename = None,
    label_column: LabelColumn = "plane",
    group_column: GroupColumn = "patient",
    cache: Cache = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: ForceFiles = False,
) -> None:
    """Say how good a linear probe gets from a few patients of each class.

    Example: qc-model few-shot --labels planes/labels.csv --leave-out other --leave-out cervix
    --tower sononet16=sononet16.safetensors --out runs/few-shot.json
    """
    from training.features.few_shot import SHOTS, few_shot_curve

    check_target(out, force=force)
    shots = tuple(sorted(set(patients))) if patients else SHOTS
    curves: list[dict[str, Any]] = []
    for data in _embedded(
        tower, labels, label_column, group_column, rename, leave_out, cache, device
    ):
        curve = few_shot_curve(data, shots, repeats=repeats, seed=seed)
        curves.append({"tower": data.tower, "classes": sorted(set(data.labels)), "curve": curve})
        typer.echo(data.tower)
        for point in curve:
            typer.echo(
                f"  {point['patients']:3} patients: macro-F1 {point['macro F1']:.3f}"
                f" ({point['low']:.3f} to {point['high']:.3f})"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")


def _embedded(
    towers: list[str],
    labels: Path,
    label_column: str,
    group_column: str,
    rename: list[str] | None,
    leave_out: list[str] | None,
    cache: Path | None,
    device: str,
) -> "list[Embeddings]":
    """Each tower's features of the same pictures, without those of the classes left out."""
    from model.device import choose_device
    from training.data.labelled import read_labelled
    from training.features.embeddings import embed
    from training.features.towers import load_tower

    pictures = read_labelled(
        labels, label_column=label_column, group_column=group_column, rename=read_names(rename)
    )
    left_out = set(leave_out or ())
    _check_classes(left_out, {picture.label for picture in pictures}, "--leave-out")
    pictures = [picture for picture in pictures if picture.label not in left_out]
    target = choose_device(device)
    return [embed(load_tower(each, target), pictures, cache) for each in towers]


def _check_classes(names: set[str], classes: set[str], option: str) -> None:
    missing = sorted(names - classes)
    if missing:
        raise UsageError(
            f"{option}: there is no class {missing[0]!r}, but {', '.join(sorted(classes))}"
        )


def _divide(data: "Embeddings", unknown: set[str]) -> "tuple[Embeddings, Embeddings | None]":
    """The pictures of learnt classes, and those of the unknown ones."""
    _check_classes(unknown, set(data.labels), "--unknown")
    if not unknown:
        return data, None
    is_unknown = [label in unknown for label in data.labels]
    return (
        data.rows([k for k, each in enumerate(is_unknown) if not each]),
        data.rows([k for k, each in enumerate(is_unknown) if each]),
    )


def _summary(figures: dict[str, Any]) -> str:
    score = figures["all answered"]["macro F1"]
    low, high = score["interval"]
    answered = figures["with abstention"]
    line = (
        f"{figures['tower']}: macro-F1 {score['value']:.3f} ({low:.3f} to {high:.3f}) on patients"
        f" not seen; of the {answered['answered']:.0%} answered {answered['macro F1']['value']:.3f}"
    )
    if "unknown" in figures:
        unknown = figures["unknown"]
        line += (
            f"; of {unknown['pictures']} unknown pictures {unknown['rejected']:.0%} get no class"
            f" by {figures['abstention']['score']} (AUROC {unknown['AUROC of the distance']:.3f})"
        )
    return line
