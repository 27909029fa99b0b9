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

from training import pipeline, quality
from training.ablation import WHOLE
from training.appearance import appearance, looks
from training.choice import choose
from training.detector import read_region
from training.folds import BOTH_CLASSES, Plan, boxed, judge_unseen, trained_detector


def figures(
    plan: Plan, detectors: Sequence[Path], known: Sequence[Mapping[str, Any]], console: Console
) -> dict[str, Any]:
    """For each look that set 2 has pictures of: figures on them when it was left out of training,
    and when only their fold was.

    `known` are the folds' rows; those of other looks calibrate. Where the look has one class only,
    there is no AUROC, but sensitivity or specificity at P = 0.5.
    """
    look = by_group(plan)
    found: dict[str, Any] = {}
    for name in sorted(set(look.values())):
        folder = plan.out / name.replace(" ", "-")
        unseen = [s for s in plan.real if look[s.group] == name]
        if not any(s.source == BOTH_CLASSES for s in unseen):
            continue
        rows = left_out(plan, folder, name, look, detectors, console)
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
    name: str,
    look: Mapping[str, str],
    detectors: Sequence[Path],
    console: Console,
) -> list[dict[str, Any]]:
    """What models that never saw the look say of its pictures."""
    detector = trained_detector(
        plan,
        folder / "detector",
        [s for s in boxed(plan) if look[s.group] != name],
        [s for s in boxed(plan) if look[s.group] == name],
        console,
    )
    out = folder / "spatialclip"
    if not (out / "predictions.json").is_file():
        console.rule(f"SpatialCLIP, {name} left out")
        # Negatives are cut from real pictures too, and share their groups.
        training = [
            s for s in (*plan.real, *plan.judged) if s.simulated or look.get(s.group) != name
        ]
        held = [s for s in plan.real if look[s.group] == name]
        seen = pipeline.gather_folds(
            training, detectors, plan.describer, plan.out / "evidence", plan.seed
        )
        unseen = pipeline.gather_folds(
            held, [detector], plan.describer, folder / "evidence", plan.seed
        )
        judge_unseen(plan, out, seen, unseen)
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
