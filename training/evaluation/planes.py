"""How well planes are told apart: a report by class, the confusion matrix, macro F1 with its
interval by patient. A class that no picture shows counts in no mean, and keeps its row and column.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from model.calibration import expected_calibration_error
from training.evaluation.metrics.curves import auroc, roc
from training.evaluation.metrics.multiclass import multiclass_metrics

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's."""


def plane_metrics(
    probability: npt.ArrayLike,
    truth: npt.ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable],
    resamples: int = 1000,
) -> dict[str, Any]:
    """Figures of N pictures as plain values: `probability` (N, C), `truth` (N,) class indices,
    `groups` (N,) the patients, which are resampled as a whole for intervals of 95 %.

    Those of `multiclass_metrics`, with every class in its place, present or not; precision of each
    class; the expected calibration error of the named class. What is undefined is None.
    """
    p, y = np.asarray(probability, float), np.asarray(truth, np.intp)
    if p.ndim != 2 or p.shape != (len(y), len(classes)):
        raise ValueError(f"{p.shape} probabilities, {len(y)} labels of {len(classes)} classes")
    predicted = p.argmax(1)
    figures = multiclass_metrics(
        [classes[index] for index in y],
        [classes[index] for index in predicted],
        groups,
        labels=classes,
        resamples=resamples,
    )
    matrix = np.array(figures["confusion"]["pictures"])
    figures["by class"] = {name: _class_report(matrix, index) for index, name in enumerate(classes)}
    figures["absent classes"] = [
        name for name, n in zip(classes, matrix.sum(1), strict=True) if n == 0
    ]
    figures["ECE"] = float(expected_calibration_error(p.max(1), predicted == y))
    plain: dict[str, Any] = without_nan(figures)
    return plain


def without_nan(figures: Any) -> Any:
    """The plain values with None for what is no number."""
    if isinstance(figures, dict):
        return {name: without_nan(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [without_nan(value) for value in figures]
    return None if isinstance(figures, float) and math.isnan(figures) else figures


def print_plane_metrics(figures: Mapping[str, Any], console: Console | None = None) -> None:
    """A table of the classes, and one of the confusion matrix in per cent of each row."""
    console = console or Console()
    table = Table(title=f"{figures['pictures']} pictures of {figures['groups']} patients")
    for column in ("class", "precision", "recall", "F1", "pictures"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, report in figures["by class"].items():
        values = [_short(report[key]) for key in ("precision", "recall", "F1")]
        table.add_row(name, *values, str(report["pictures"]))
    console.print(table)
    classes, matrix = figures["confusion"]["labels"], figures["confusion"]["pictures"]
    shares = Table(title="predicted (columns) of true (rows), %")
    shares.add_column("")
    for index in range(len(classes)):
        shares.add_column(str(index), justify="right")
    for index, (name, row) in enumerate(zip(classes, matrix, strict=True)):
        total = sum(row)
        shares.add_row(
            f"{index} {name}", *(f"{100 * n / total:.0f}" if total else "–" for n in row)
        )
    console.print(shares)
    for name in ("macro F1", "macro recall", "accuracy"):
        low, high = figures[name]["interval"]
        console.print(
            f"{name} {_short(figures[name]['value'])} (95 % {_short(low)} to {_short(high)})",
            highlight=False,
        )
    if figures["absent classes"]:
        console.print(f"no picture of: {', '.join(figures['absent classes'])}", highlight=False)


def print_abstention(figures: Mapping[str, Any], console: Console | None = None) -> None:
    """How many pictures get a class, how good these are, and how many unknown ones get none."""
    console = console or Console()
    abstention = figures["with abstention"]
    line = f"of {abstention['coverage']['value']:.0%} that get a class: "
    if abstention["macro F1"] is None:
        line = "no picture gets a class"
    else:
        line += ", ".join(
            f"{name} {_short(abstention[name]['value'])} (95 %"
            f" {_short(abstention[name]['interval'][0])} to"
            f" {_short(abstention[name]['interval'][1])})"
            for name in ("macro F1", "accuracy")
        )
    console.print(line, highlight=False, soft_wrap=True)
    if "unknown" in figures:
        unknown = figures["unknown"]
        console.print(
            f"of {unknown['pictures']} pictures of unknown classes {unknown['rejected']:.0%} get"
            " none",
            highlight=False,
        )


def draw_confusion_matrix(figures: Mapping[str, Any], path: Path) -> None:
    """Write the matrix, in shares of each row, as a picture of the kind that the file's name says
    (.svg, .png or .pdf). Needs no display."""
    classes = figures["confusion"]["labels"]
    matrix = np.array(figures["confusion"]["pictures"], float)
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    side = 2.2 + 0.45 * len(classes)
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": "qc-model"}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        for row, column in np.ndindex(matrix.shape):
            if matrix[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = f"{matrix[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=colour)
        _save(figure, path)


def draw_roc(
    probability: npt.ArrayLike, truth: npt.ArrayLike, classes: Sequence[str], path: Path
) -> None:
    """Write the ROC curve of each class against all others, with its area, as a picture of the kind
    that the file's name says (.svg, .png or .pdf): `probability` (N, C), `truth` (N,) class
    indices. A class that no picture or every picture shows has no curve. Needs no display."""
    p, y = np.asarray(probability, float), np.asarray(truth, np.intp)
    lines = [(colour, style) for style in ("-", "--", ":") for colour in _COLOURS]
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": "qc-model"}):
        figure = Figure(figsize=(4.2, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        for index, name in enumerate(classes):
            is_class = y == index
            curve = roc(p[:, index], is_class)
            if curve["true positive rate"]:
                colour, style = lines[index % len(lines)]
                axes.plot(
                    curve["false positive rate"],
                    curve["true positive rate"],
                    color=colour,
                    linestyle=style,
                    label=f"{name} {auroc(p[:, index], is_class):.3f}",
                )
        axes.set(
            xlabel="1 \u2212 specificity",
            ylabel="sensitivity",
            title="ROC of each class, with its area",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
        )
        if len(axes.lines) > 1:
            axes.legend(loc="lower right")
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # The same figures give the same bytes.
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _class_report(matrix: npt.NDArray[np.int64], index: int) -> dict[str, Any]:
    right, support = int(matrix[index, index]), int(matrix[index].sum())
    predicted = int(matrix[:, index].sum())
    return {
        "precision": right / predicted if predicted else None,
        "recall": right / support if support else None,
        "F1": 2 * right / (support + predicted) if support else None,
        "pictures": support,
        "predicted": predicted,
    }


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
