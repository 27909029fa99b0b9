"""Leave-one-style-out cross-validation: how well all models do on a scanner they never saw.

Real pictures are clustered by style (`training.data.styles`). For each style a detector and a
SpatialCLIP are trained without it and judge it. The boxes that SpatialCLIP learns from are those of
the folds' detectors, which have learnt from every style: that leak remains.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.crossval.folds import (
    BOTH_CLASSES,
    Plan,
    annotated_samples,
    ensure_detector,
    exclude_groups_of,
    prepare_all,
    prepare_samples,
    train_and_predict,
)
from training.data.regions import read_region
from training.data.samples import Sample
from training.data.styles import cluster_styles, style_features
from training.evaluation.ablation import ABLATIONS, ALL_BRANCHES
from training.evaluation.metrics import classification
from training.evaluation.metrics.curves import auroc
from training.evaluation.select_calibration import select_calibration


def samples_by_style(plan: Plan) -> dict[str, list[Sample]]:
    """The real pictures of each style that set 2 has pictures of."""
    styles = style_by_group(plan)
    by_style = {
        style: [s for s in plan.real if styles[s.group] == style]
        for style in sorted(set(styles.values()))
    }
    return {
        style: samples
        for style, samples in by_style.items()
        if any(s.source == BOTH_CLASSES for s in samples)
    }


def style_folder(plan: Plan, style: str) -> Path:
    """The folder of the models that did not learn from the style."""
    return plan.out / style.replace(" ", "-")


def train_style_detector(plan: Plan, style: str, held_out: Sequence[Sample]) -> Path:
    """The folder of the style's detector, trained without these pictures unless it is there."""
    groups = {sample.group for sample in held_out}
    return ensure_detector(
        plan,
        style_folder(plan, style) / "detector",
        [s for s in annotated_samples(plan) if s.group not in groups],
        [s for s in annotated_samples(plan) if s.group in groups],
    )


def train_style_spatialclip(
    plan: Plan, style: str, held_out: Sequence[Sample], detectors: Sequence[Path]
) -> None:
    """Train SpatialCLIP without these pictures, and write its predictions of them, from the boxes
    of a detector that did not learn from them either."""
    training = exclude_groups_of(prepare_all(plan, detectors), held_out)
    validation = prepare_samples(plan, held_out, [style_folder(plan, style) / "detector"])
    train_and_predict(plan, style_folder(plan, style) / "spatialclip", training, validation)


def load_style_predictions(out: Path) -> dict[str, list[dict[str, Any]]]:
    """By style, the predictions of its pictures by networks that did not learn from it, in a
    cross-validation's folder; empty where no style was left out."""
    return {
        path.parent.parent.name.replace("-", " "): json.loads(path.read_text())
        for path in sorted(out.glob("look-*/spatialclip/predictions.json"))
    }


def style_figures(
    plan: Plan,
    by_style: Mapping[str, Sequence[Sample]],
    fold_rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """For each style: figures on its pictures when it was left out of training, and when only their
    fold was; in both cases also the AUROC of each of ABLATIONS.

    `fold_rows` are the folds' predictions, of which those of other styles calibrate. Where the
    style has one class only, there is no AUROC, but sensitivity or specificity at P = 0.5.
    """
    figures: dict[str, Any] = {}
    for style, samples in by_style.items():
        groups = {sample.group for sample in samples}
        path = style_folder(plan, style) / "spatialclip" / "predictions.json"
        style_rows = json.loads(path.read_text())
        others = [
            row for row in fold_rows if row["source"] == BOTH_CLASSES and row["group"] not in groups
        ]
        calibration, _ = select_calibration(
            [row["logits"][ALL_BRANCHES] for row in others],
            [float(row["standard"]) for row in others],
            [row["group"] for row in others],
        )
        figures[style] = {"pictures": len(samples)}
        for key, rows in (("look left out", style_rows), ("fold left out", fold_rows)):
            part = [r for r in rows if r["source"] == BOTH_CLASSES and r["group"] in groups]
            p = calibration.calibrate_many(np.array([row["logits"][ALL_BRANCHES] for row in part]))
            figures[style][key] = style_metrics(p, part) | {"ablation": auroc_by_ablation(part)}
    return figures


def style_by_group(plan: Plan) -> dict[str, str]:
    """The style of each group of real pictures: that of its first picture."""
    first = {sample.group: sample for sample in reversed(plan.real)}
    names, _ = cluster_styles([style_features(read_region(sample)[0]) for sample in first.values()])
    return dict(zip(first, names, strict=True))


def style_metrics(probability: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AUROC, sensitivity and specificity (P >= 0.5 is standard), each with its interval."""
    standard = np.array([bool(row["standard"]) for row in rows])
    groups = [row["group"] for row in rows]
    predictions = np.asarray(probability, float) >= 0.5
    areas = classification.classification_metrics(probability, standard, groups)
    return {"standard": int(standard.sum()), "non-standard": int((~standard).sum())} | {
        "AUROC": areas["AUROC"],
        "sensitivity": _share(predictions, standard, groups),
        "specificity": _share(~predictions, ~standard, groups),
    }


def auroc_by_ablation(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The AUROC of each of ABLATIONS, by its logits; NaN where there is one class only."""
    standard = np.array([bool(row["standard"]) for row in rows])
    groups = [row["group"] for row in rows]

    def figure(name: str) -> dict[str, Any]:
        logits = np.array([row["logits"][name] for row in rows])
        return classification.metric_with_interval(
            lambda at: auroc(logits[at], standard[at]), np.arange(len(rows)), groups
        )

    return {name: figure(name) for name in ABLATIONS}


def _share(is_right: Any, is_counted: Any, groups: Sequence[str]) -> dict[str, Any]:
    """The share of right ones among those that are counted, with its interval."""
    counted = np.asarray(is_right)[is_counted]

    def share(at: Any) -> float:
        return float(np.mean(counted[at])) if len(at) else float("nan")

    return classification.metric_with_interval(
        share,
        np.arange(len(counted)),
        [group for group, each in zip(groups, is_counted, strict=True) if each],
    )
