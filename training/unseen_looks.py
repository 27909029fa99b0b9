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
from rich.console import Console

from training import quality
from training.ablation import WHOLE
from training.appearance import appearance, looks
from training.choice import choose
from training.detector import read_region
from training.evidence import Evidence
from training.folds import (
    BOTH_CLASSES,
    Plan,
    boxed,
    evidence,
    judge_unseen,
    trained_detector,
    without,
)
from training.samples import Sample


def figures(
    plan: Plan,
    detectors: Sequence[Path],
    beside: Sequence[Evidence],
    known: Sequence[Mapping[str, Any]],
    console: Console,
) -> dict[str, Any]:
    """For each look that set 2 has pictures of: figures on them when it was left out of training,
    and when only their fold was.

    `beside` is learnt from beside the real pictures; `known` are the folds' rows, of which those of
    other looks calibrate. Where the look has one class only, there is no AUROC, but sensitivity or
    specificity at P = 0.5.
    """
    look = by_group(plan)
    found: dict[str, Any] = {}
    for name in sorted(set(look.values())):
        folder = plan.out / name.replace(" ", "-")
        unseen = [s for s in plan.real if look[s.group] == name]
        if not any(s.source == BOTH_CLASSES for s in unseen):
            continue
        rows = left_out(plan, folder, unseen, detectors, beside, console)
        others = [r for r in known if r["source"] == BOTH_CLASSES and look[r["group"]] != name]
        calibration, _ = choose(
            [row["logits"][WHOLE] for row in others],
            [float(row["standard"]) for row in others],
            [row["group"] for row in others],
        )
        found[name] = {"pictures": len(unseen)}
        for how, judged in (("look left out", rows), ("fold left out", known)):
            part = [r for r in judged if r["source"] == BOTH_CLASSES and look[r["group"]] == name]
            p = calibration.calibrate_many(np.array([row["logits"][WHOLE] for row in part]))
            found[name][how] = told(p, part)
    return found


def by_group(plan: Plan) -> dict[str, str]:
    """The look of each group of real pictures: its first one's."""
    first = {sample.group: sample for sample in reversed(plan.real)}
    names, _ = looks([appearance(read_region(sample)[0]) for sample in first.values()])
    return dict(zip(first, names, strict=True))


def left_out(
    plan: Plan,
    folder: Path,
    held: Sequence[Sample],
    detectors: Sequence[Path],
    beside: Sequence[Evidence],
    console: Console,
) -> list[dict[str, Any]]:
    """What models that never saw these pictures say of them."""
    hidden = {sample.group for sample in held}
    detector = trained_detector(
        plan,
        folder / "detector",
        [s for s in boxed(plan) if s.group not in hidden],
        [s for s in boxed(plan) if s.group in hidden],
        console,
    )
    out = folder / "spatialclip"
    if not (out / "predictions.json").is_file():
        console.rule(f"SpatialCLIP, {folder.name} left out")
        training = [sample for sample in plan.real if sample.group not in hidden]
        seen = [*evidence(plan, training, detectors), *without(beside, held)]
        judge_unseen(plan, out, seen, evidence(plan, held, [detector]))
    rows: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text())
    return rows


def told(probability: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AUROC, sensitivity and specificity (P >= 0.5 is standard), each with its interval."""
    standard = np.array([bool(row["standard"]) for row in rows])
    groups = [row["group"] for row in rows]
    said = np.asarray(probability, float) >= 0.5
    areas = quality.figures(probability, standard, groups)
    return {"standard": int(standard.sum()), "non-standard": int((~standard).sum())} | {
        "AUROC": areas["AUROC"],
        "sensitivity": _share(said, standard, groups),
        "specificity": _share(~said, ~standard, groups),
    }


def _share(right: Any, of: Any, groups: Sequence[str]) -> dict[str, Any]:
    """The share of right ones among these, with its interval."""
    chosen = np.asarray(right)[of]

    def share(at: Any) -> float:
        return float(np.mean(chosen[at])) if len(at) else float("nan")

    return quality.figure(
        share,
        np.arange(len(chosen)),
        [group for group, is_of in zip(groups, of, strict=True) if is_of],
    )
