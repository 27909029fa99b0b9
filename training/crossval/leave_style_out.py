"""Leave one look out: how well the chain does on a scanner whose like it never saw.

Real pictures are put together by their look (`training.appearance`). For each look a detector and
a SpatialCLIP are trained without it and judge it. The boxes that SpatialCLIP learns from are those
of the folds' detectors, which have seen every look: what they taught it of this one is the leak
that is left.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.crossval.folds import (
    BOTH_CLASSES,
    Plan,
    all_evidence,
    boxed,
    evidence,
    judge_unseen,
    trained_detector,
    without,
)
from training.data.regions import read_region
from training.data.samples import Sample
from training.data.styles import cluster_styles, style_features
from training.evaluation import classification
from training.evaluation.ablation import ABLATIONS, ALL_BRANCHES
from training.evaluation.curves import auroc
from training.evaluation.select_calibration import select_calibration


def held(plan: Plan) -> dict[str, list[Sample]]:
    """The real pictures of each look that set 2 has pictures of."""
    look = by_group(plan)
    found = {
        name: [s for s in plan.real if look[s.group] == name] for name in sorted(set(look.values()))
    }
    return {
        name: samples
        for name, samples in found.items()
        if any(s.source == BOTH_CLASSES for s in samples)
    }


def folder(plan: Plan, look: str) -> Path:
    """Where the models are that never saw the look."""
    return plan.out / look.replace(" ", "-")


def detector(plan: Plan, look: str, held: Sequence[Sample]) -> Path:
    """The detector that never saw these pictures."""
    hidden = {sample.group for sample in held}
    return trained_detector(
        plan,
        folder(plan, look) / "detector",
        [s for s in boxed(plan) if s.group not in hidden],
        [s for s in boxed(plan) if s.group in hidden],
    )


def judge(plan: Plan, look: str, held: Sequence[Sample], detectors: Sequence[Path]) -> None:
    """What SpatialCLIP says of these pictures, which neither it nor its detector saw."""
    seen = without(all_evidence(plan, detectors), held)
    unseen = evidence(plan, held, [folder(plan, look) / "detector"])
    judge_unseen(plan, folder(plan, look) / "spatialclip", seen, unseen)


def figures(
    plan: Plan, held: Mapping[str, Sequence[Sample]], known: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """For each look: figures on its pictures when it was left out of training, and when only their
    fold was; in both cases also the AUROC of each of ABLATIONS.

    `known` are the folds' rows, of which those of other looks calibrate. Where the look has one
    class only, there is no AUROC, but sensitivity or specificity at P = 0.5.
    """
    found: dict[str, Any] = {}
    for name, pictures in held.items():
        groups = {sample.group for sample in pictures}
        rows = json.loads((folder(plan, name) / "spatialclip" / "predictions.json").read_text())
        both = [row for row in known if row["source"] == BOTH_CLASSES]
        others = [row for row in both if row["group"] not in groups]
        calibration, _ = select_calibration(
            [row["logits"][ALL_BRANCHES] for row in others],
            [float(row["standard"]) for row in others],
            [row["group"] for row in others],
        )
        found[name] = {"pictures": len(pictures)}
        for how, judged in (("look left out", rows), ("fold left out", known)):
            part = [r for r in judged if r["source"] == BOTH_CLASSES and r["group"] in groups]
            p = calibration.calibrate_many(np.array([row["logits"][ALL_BRANCHES] for row in part]))
            found[name][how] = told(p, part) | {"ablation": by_branch(part)}
    return found


def by_group(plan: Plan) -> dict[str, str]:
    """The look of each group of real pictures: its first one's."""
    first = {sample.group: sample for sample in reversed(plan.real)}
    names, _ = cluster_styles([style_features(read_region(sample)[0]) for sample in first.values()])
    return dict(zip(first, names, strict=True))


def told(probability: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AUROC, sensitivity and specificity (P >= 0.5 is standard), each with its interval."""
    standard = np.array([bool(row["standard"]) for row in rows])
    groups = [row["group"] for row in rows]
    said = np.asarray(probability, float) >= 0.5
    areas = classification.classification_metrics(probability, standard, groups)
    return {"standard": int(standard.sum()), "non-standard": int((~standard).sum())} | {
        "AUROC": areas["AUROC"],
        "sensitivity": _share(said, standard, groups),
        "specificity": _share(~said, ~standard, groups),
    }


def by_branch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The AUROC of each of ABLATIONS, by its logits; NaN where there is one class only."""
    standard = np.array([bool(row["standard"]) for row in rows])
    groups = [row["group"] for row in rows]

    def figure(name: str) -> dict[str, Any]:
        logits = np.array([row["logits"][name] for row in rows])
        return classification.metric_with_interval(
            lambda at: auroc(logits[at], standard[at]), np.arange(len(rows)), groups
        )

    return {name: figure(name) for name in ABLATIONS}


def _share(right: Any, of: Any, groups: Sequence[str]) -> dict[str, Any]:
    """The share of right ones among these, with its interval."""
    chosen = np.asarray(right)[of]

    def share(at: Any) -> float:
        return float(np.mean(chosen[at])) if len(at) else float("nan")

    return classification.metric_with_interval(
        share,
        np.arange(len(chosen)),
        [group for group, is_of in zip(groups, of, strict=True) if is_of],
    )
