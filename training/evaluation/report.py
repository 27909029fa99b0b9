"""The figures of an evaluation as one HTML file that needs no other, and their JSON beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import plots
from training.evaluation.summary import FAULT_NAMED, UNMET_ON_STANDARD, to_plain

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
"""Metrics of `classification_metrics`, in the order of the columns."""


def write_report(path: Path, title: str, figures: Mapping[str, Any]) -> None:
    """Write `path` (.html) and, under the same name, .json with every figure.

    `figures` has "sets" of `summary.evaluate`, facts as text or numbers, and may have the figures
    of other ultrasound, nested folds, styles left out and alignment by fold.
    """
    plain_figures = to_plain(figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(
        json.dumps(plain_figures, indent=1, allow_nan=False), encoding="utf-8"
    )
    path.write_text(render_html(title, plain_figures), encoding="utf-8")


def render_html(title: str, figures: Mapping[str, Any]) -> str:
    """The page; `figures` are plain values."""
    pages = Environment(
        loader=PackageLoader("training.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= {"number": format_number, "interval": format_interval, "share": percentage}
    return pages.get_template("report.html").render(
        title=title,
        facts={k: v for k, v in figures.items() if isinstance(v, str | int | float)},
        looks=figures.get("looks"),
        sets={name: section(metrics) for name, metrics in figures["sets"].items()},
        others=figures.get("other ultrasound, judging half"),
        nested=figures.get("fold 0, nested and not"),
        left_out=figures.get("looks left out"),
        alignment=figures.get("alignment by fold"),
        QUALITY=QUALITY,
    )


def section(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A set's figures, its headline figures by name, and its plots."""
    return {
        "found": metrics,
        "headline": headline_metrics(metrics),
        "plots": [Markup(each) for each in draw_plots(metrics)],
    }


def headline_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a set to be read first."""
    headline = {name: metrics["quality"][name] for name in QUALITY} if "quality" in metrics else {}
    if "views" in metrics:
        headline["view accuracy"] = metrics["views"]["accuracy"]
    headline |= {
        "decided: accuracy": metrics["labels"]["accuracy of the decided"],
        "left to review: share": metrics["labels"]["review share"],
    }
    if "reasons" in metrics:
        headline |= {name: metrics["reasons"][name] for name in (UNMET_ON_STANDARD, FAULT_NAMED)}
    if "detector" in metrics:
        headline["detector mAP50"] = metrics["detector"]["map50"]
    return headline


def draw_plots(metrics: Mapping[str, Any]) -> list[str]:
    """The plots that the set has figures for, as SVG."""
    svgs = []
    if "quality" in metrics:
        quality, curves = metrics["quality"], metrics["curves"]
        if curves["ROC"]["true positive rate"]:
            svgs.append(plots.roc(curves["ROC"], quality["AUROC"]))
            svgs.append(
                plots.precision_recall(
                    curves["PR"], quality["PR-AUC"], quality["standard"] / quality["pictures"]
                )
            )
        svgs.append(plots.reliability(curves["reliability"], quality["ECE"]))
        svgs.append(plots.risk_coverage(curves[RISK_AND_COVERAGE]))
    svgs.append(plots.gates(metrics["gates"]))
    if "ablation" in metrics:
        svgs += _auroc_bars("AUROC by what is left of the branches", metrics["ablation"])
    for kind, strata in metrics.get("strata", {}).items():
        svgs += _auroc_bars(f"AUROC by {kind}", strata)
    if "detector" in metrics:
        boxes = metrics["detector"]["boxes"]
        svgs.append(
            plots.bars(
                "Detector, by structure",
                "AP50 (boxes)",
                {f"{name} ({boxes[name]})": ap for name, ap in metrics["detector"]["ap50"].items()},
            )
        )
    return svgs


def _auroc_bars(title: str, parts: Mapping[str, Any]) -> list[str]:
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


def format_number(value: float | str | None, digits: int = 3) -> str:
    """A figure for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def format_interval(value: Sequence[float | None]) -> str:
    """ "low to high"; a dash where there is none."""
    low, high = value
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def percentage(count: int, row: Mapping[str, int]) -> float:
    """What part of a row of counts this one is, in per cent."""
    return 100 * count / max(1, sum(row.values()))
