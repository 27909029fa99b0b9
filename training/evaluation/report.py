"""The figures of an evaluation as one HTML file that needs no other, and their JSON beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import plots
from training.evaluation.summary import plain

RISK_AND_COVERAGE = "risk and coverage"
QUALITY = (
    "AUROC",
    "PR-AUC",
    "accuracy",
    "F1",
    "sensitivity at specificity 0.95",
    "Brier",
    "ECE",
)
"""Figures of `quality.figures`, in the order of the columns."""


def write_report(path: Path, title: str, figures: Mapping[str, Any]) -> None:
    """Write `path` (.html) and, under the same name, .json with every figure.

    `figures` has "sets" of `assessment.assess`, facts as text or numbers, and may have the figures
    of other ultrasound, nested folds, looks left out and alignment by fold.
    """
    known = plain(figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(
        json.dumps(known, indent=1, allow_nan=False), encoding="utf-8"
    )
    path.write_text(html(title, known), encoding="utf-8")


def html(title: str, figures: Mapping[str, Any]) -> str:
    """The page; `figures` are plain values."""
    pages = Environment(
        loader=PackageLoader("training.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= {"number": number, "interval": interval, "share": share}
    return pages.get_template("report.html").render(
        title=title,
        facts={k: v for k, v in figures.items() if isinstance(v, str | int | float)},
        looks=figures.get("looks"),
        sets={name: section(found) for name, found in figures["sets"].items()},
        others=figures.get("other ultrasound, judging half"),
        nested=figures.get("fold 0, nested and not"),
        left_out=figures.get("looks left out"),
        alignment=figures.get("alignment by fold"),
        QUALITY=QUALITY,
    )


def section(found: Mapping[str, Any]) -> dict[str, Any]:
    """A set's figures, its headline figures by name, and its plots."""
    return {
        "found": found,
        "headline": headline(found),
        "plots": [Markup(each) for each in drawn(found)],
    }


def headline(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a set to be read first."""
    shown = {name: found["quality"][name] for name in QUALITY} if "quality" in found else {}
    if "views" in found:
        shown["view accuracy"] = found["views"]["accuracy"]
    shown |= {
        "decided: accuracy": found["labels"]["accuracy of the decided"],
        "left to review: share": found["labels"]["review share"],
    }
    if "detector" in found:
        shown["detector mAP50"] = found["detector"]["map50"]
    return shown


def drawn(found: Mapping[str, Any]) -> list[str]:
    """The plots that the set has figures for, as SVG."""
    made = []
    if "quality" in found:
        quality, curves = found["quality"], found["curves"]
        if curves["ROC"]["true positive rate"]:
            made.append(plots.roc(curves["ROC"], quality["AUROC"]))
            made.append(
                plots.precision_recall(
                    curves["PR"], quality["PR-AUC"], quality["standard"] / quality["pictures"]
                )
            )
        made.append(plots.reliability(curves["reliability"], quality["ECE"]))
        made.append(plots.risk_coverage(curves[RISK_AND_COVERAGE]))
    made.append(plots.gates(found["gates"]))
    if "ablation" in found:
        made += _ranked("AUROC by what is left of the branches", found["ablation"])
    for kind, strata in found.get("strata", {}).items():
        made += _ranked(f"AUROC by {kind}", strata)
    if "detector" in found:
        boxes = found["detector"]["boxes"]
        made.append(
            plots.bars(
                "Detector, by structure",
                "AP50 (boxes)",
                {f"{name} ({boxes[name]})": ap for name, ap in found["detector"]["ap50"].items()},
            )
        )
    return made


def _ranked(title: str, parts: Mapping[str, Any]) -> list[str]:
    """Bars of AUROC from chance; none where no part has both classes."""
    areas = {name: part["AUROC"] for name, part in parts.items()}
    if all(area["value"] is None for area in areas.values()):
        return []
    return [
        plots.bars(
            title,
            "AUROC, 95 % interval",
            {name: area["value"] for name, area in areas.items()},
            {name: area["interval"] for name, area in areas.items()},
            start=0.5,
        )
    ]


def number(value: float | str | None, digits: int = 3) -> str:
    """A figure for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def interval(value: Sequence[float | None]) -> str:
    """ "low to high"; a dash where there is none."""
    low, high = value
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def share(count: int, row: Mapping[str, int]) -> float:
    """What part of a row of counts this one is, in per cent."""
    return 100 * count / max(1, sum(row.values()))
