"""Five-fold cross-validation on real pictures: how well the whole chain does on ones it never saw.

One fold map holds for all stages. Fold k's detector never saw fold k; SpatialCLIP k learns from the
other folds' pictures, each boxed by the detector of its own fold, and judges fold k from boxes of
detector k. What leaks still: the detectors of the other folds have seen fold k, and so shaped the
boxes that SpatialCLIP k learnt from. `nested` measures that, for one fold, with detectors that saw
neither it nor the pictures they box. `looks` leaves out a scanner's look instead of a fold
(`training.unseen_looks`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from detector.console import UsageError
from detector.yolo.yolo import YoloDetector
from model.finding import NON_STANDARD, REVIEW, STANDARD
from model.judge import Thresholds
from model.spatialclip.network import VIEWS
from training.crossval import leave_style_out
from training.crossval.folds import (
    BOTH_CLASSES,
    Plan,
    all_evidence,
    boxed,
    evidence,
    is_judged,
    judge_unseen,
    predictions,
    trained_detector,
    without,
)
from training.crossval.parallel import Task, run_parallel
from training.data import splits
from training.data.regions import match_regions, read_region
from training.data.samples import Sample, data_hash
from training.data.styles import style_features
from training.evaluation import classification
from training.evaluation.ablation import ABLATIONS, ALL_BRANCHES
from training.evaluation.detection import Matches, detection_metrics
from training.evaluation.predict import assign_styles
from training.evaluation.record import EvaluatedSample
from training.evaluation.report import write_report
from training.evaluation.select_calibration import select_calibration
from training.evaluation.summary import evaluate, to_plain
from training.train import small_spatialclip

NESTED = 0
"""The fold whose leak is bounded."""


def cross_validate(
    plan: Plan, *, nested: bool = False, looks: bool = False, jobs: int = 1
) -> dict[str, Any]:
    """Run what is not there yet, `jobs` models at a time, and return the figures; also written to
    `out`: figures.json, and the report figures.html."""
    keep_plan(plan)
    logs = plan.out / "logs"
    folds = range(plan.folds)
    left_out = leave_style_out.held(plan) if looks else {}
    detectors = [plan.out / f"detector-{fold}" for fold in folds]
    models = [Task(f"detector-{fold}", fold_detector, (plan, fold)) for fold in folds]
    judges = {
        plan.out / f"spatialclip-{fold}": Task(
            f"spatialclip-{fold}", judge_fold, (plan, fold, detectors)
        )
        for fold in folds
    }
    if nested:
        models += [
            Task(f"nested-detector-{other}", fold_detector, (plan, other, NESTED))
            for other in folds
            if other != NESTED
        ]
        judges[plan.out / "nested" / "spatialclip"] = Task(
            "nested-spatialclip", judge_nested, (plan, detectors)
        )
    for look, held in left_out.items():
        folder = leave_style_out.folder(plan, look)
        models.append(Task(f"{folder.name}-detector", leave_style_out.detector, (plan, look, held)))
        judges[folder / "spatialclip"] = Task(
            f"{folder.name}-spatialclip", leave_style_out.judge, (plan, look, held, detectors)
        )

    run_parallel(models, jobs, logs)
    waiting = [task for folder, task in judges.items() if not is_judged(folder)]
    if waiting and jobs > 1:
        # What all of them read is made first, or each would make it.
        all_evidence(plan, detectors)
        run_parallel(
            [
                Task(f"sights-{part}", look_at, (plan, detectors, part, jobs))
                for part in range(jobs)
            ],
            jobs,
            logs,
        )
    run_parallel(waiting, jobs, logs)

    found = detector_figures(plan, detectors)
    judged = judgement_figures(plan)
    for name, boxes in found["by set"].items():
        judged["sets"][name]["detector"] = boxes
    if looks:
        judged["looks left out"] = leave_style_out.figures(plan, left_out, predictions(plan.out))
    facts = {"command": plan.command, "folds": plan.folds, "seed": plan.seed}
    figures: dict[str, Any] = to_plain({**facts, "detector": found, **judged})
    write_report(plan.out / "figures.html", "Cross-validation", figures)
    return figures


def keep_plan(plan: Plan) -> None:
    """Write what the models in `out` are made of; raises UsageError where other ones lie there:
    their figures would be mixed. An earlier folder says nothing of it."""
    now = to_plain(
        {
            "folds": plan.folds,
            "seed": plan.seed,
            "detector": plan.detector.to_json(),
            "spatialclip": plan.spatialclip.to_json(),
            **{
                name: data_hash(samples)
                for name, samples in (
                    ("real pictures", plan.real),
                    ("--boxed", plan.boxed),
                    ("--judged", plan.judged),
                )
            },
        }
    )
    path = plan.out / "plan.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in now if before.get(name) != now[name]]
        if other:
            raise UsageError(
                f"{plan.out} holds a cross-validation with other {', '.join(other)}:"
                " name another folder with --out"
            )
        return
    plan.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def fold_detector(plan: Plan, fold: int, beside: int | None = None) -> Path:
    """The detector that saw neither `fold` nor the fold `beside`."""
    name = f"detector-{fold}" if beside is None else f"nested/detector-{fold}-{beside}"
    training, held = splits.leave_fold_out(boxed(plan), fold, plan.folds, plan.seed)
    if beside is not None:
        training, _ = splits.leave_fold_out(training, beside, plan.folds, plan.seed)
    return trained_detector(plan, plan.out / name, training, held)


def look_at(plan: Plan, detectors: Sequence[Path], part: int, parts: int) -> None:
    """What the stem sees of every `parts`-th picture, for SpatialCLIP to learn from."""
    preprocessor, network = small_spatialclip.load_start(plan.spatialclip_start, plan.spatialclip)
    stem = network.trimodal_clip.stem
    if plan.spatialclip.cached_augmentations and stem is not None:
        items = all_evidence(plan, detectors)[part::parts]
        small_spatialclip.add_cached_features(items, stem, preprocessor, plan.spatialclip, plan.out)


def judge_fold(plan: Plan, fold: int, detectors: Sequence[Path]) -> None:
    """What SpatialCLIP says of a fold that neither it nor that fold's detector saw."""
    training, held = splits.leave_fold_out(plan.real, fold, plan.folds, plan.seed)
    seen, unseen = (evidence(plan, part, detectors) for part in (training, held))
    others = without(evidence(plan, plan.judged, detectors), held)
    judge_unseen(plan, plan.out / f"spatialclip-{fold}", [*seen, *others], unseen)


def judge_nested(plan: Plan, detectors: Sequence[Path]) -> None:
    """The same for one fold, with boxes to learn from of detectors that never saw it either."""
    training, held = splits.leave_fold_out(plan.real, NESTED, plan.folds, plan.seed)
    inner = [
        plan.out / (f"detector-{o}" if o == NESTED else f"nested/detector-{o}-{NESTED}")
        for o in range(plan.folds)
    ]
    others = without(evidence(plan, plan.judged, detectors), held)
    judge_unseen(
        plan,
        plan.out / "nested" / "spatialclip",
        [*evidence(plan, training, inner), *others],
        evidence(plan, held, detectors),
    )


def judgement_figures(plan: Plan) -> dict[str, Any]:
    """The sets' figures as `qc-model evaluate` tells them, in short those of the set that has both
    classes, and the nested fold beside its like.

    Alignment is told for each fold: its network is its own.
    """
    sets, separation = out_of_fold(plan)
    both = sets[BOTH_CLASSES]
    found: dict[str, Any] = {
        "set 2": both["quality"],
        "ablation": {name: each["AUROC"] for name, each in both["ablation"].items()},
        "gates": both["gates"]["all"],
        "risk and coverage": both["curves"]["risk and coverage"],
        "sets": sets,
        "looks": {"silhouette": separation},
        "alignment by fold": {
            f"fold {fold}": json.loads(
                (plan.out / f"spatialclip-{fold}" / "alignment.json").read_text()
            )
            for fold in range(plan.folds)
        },
    }
    inner = plan.out / "nested" / "spatialclip" / "predictions.json"
    if inner.is_file():
        ours = [row for row in predictions(plan.out) if row["fold"] == 0]
        found["fold 0, nested and not"] = {
            name: classification.classification_metrics(
                _sigmoid([row["logits"][ALL_BRANCHES] for row in part]),
                [row["standard"] for row in part],
                [row["group"] for row in part],
            )["AUROC"]
            for name, rows in (("not nested", ours), ("nested", json.loads(inner.read_text())))
            if (part := [row for row in rows if row["source"] == BOTH_CLASSES])
        }
    return found


def out_of_fold(plan: Plan) -> tuple[dict[str, Any], float | None]:
    """The figures of each set's out-of-fold verdicts, and how well scanners' looks separate.

    Verdicts follow the default thresholds, without criteria and without the out-of-distribution
    score, which belong to a bundle.
    """
    rows = predictions(plan.out)
    known = [row for row in rows if row["source"] == BOTH_CLASSES]
    ablated = {name: calibrated(rows, known, name) for name in ABLATIONS}
    seen = {s.image.name: style_features(read_region(s)[0]) for s in plan.real}
    verdicts, separation = assign_styles(
        [
            _verdict(row, {name: float(p[i]) for name, p in ablated.items()}, seen)
            for i, row in enumerate(rows)
        ]
    )
    return {
        source: evaluate([v for v in verdicts if v.source == source], ablation=True)
        for source in sorted({v.source for v in verdicts})
    }, separation


def calibrated(
    rows: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]], name: str
) -> npt.NDArray[np.float64]:
    """Probabilities of the rows by the ablation's logits, each by a calibration chosen and fitted
    on the known rows of the other folds."""
    logits = np.array([row["logits"][name] for row in rows])
    folds = np.array([row["fold"] for row in rows])
    found = np.zeros(len(rows))
    for fold in sorted(set(folds.tolist())):
        others = [row for row in known if row["fold"] != fold]
        calibration, _ = select_calibration(
            [row["logits"][name] for row in others],
            [float(row["standard"]) for row in others],
            [row["group"] for row in others],
        )
        found[folds == fold] = calibration.calibrate_many(logits[folds == fold])
    return found


def _verdict(
    row: dict[str, Any], ablated: dict[str, float], looks: dict[str, npt.NDArray[np.float64]]
) -> EvaluatedSample:
    low, high = Thresholds().review
    p = ablated[ALL_BRANCHES]
    image, text, spatial = row["gates"]
    return EvaluatedSample(
        picture=row["picture"],
        group=row["group"],
        source=row["source"],
        view=View(row["view"]) if row["view"] else None,
        standard=row["standard"],
        predicted_view=VIEWS[int(np.argmax(row["views"]))],
        probability=p,
        label=REVIEW if low < p < high else STANDARD if p >= high else NON_STANDARD,
        gates=(image, text, spatial),
        ablated_probabilities=ablated,
        style_features=looks.get(row["picture"]),
    )


def detector_figures(plan: Plan, detectors: Sequence[Path]) -> dict[str, Any]:
    """AP50 out of fold, over all boxed real pictures, and of each set."""
    samples: list[Sample] = []
    matches: list[dict[str, Matches]] = []
    judged = [s for s in boxed(plan) if s.view is View.NT]
    for fold, folder in enumerate(detectors):
        own = [s for s in judged if splits.fold_of(s, plan.folds, plan.seed) == fold]
        matches += match_regions(YoloDetector.load(folder), own)
        samples += own
    by_set = {}
    for source in sorted({s.source for s in samples}):
        rows = [row for row, sample in enumerate(samples) if sample.source == source]
        by_set[source] = detection_metrics(
            [matches[i] for i in rows], [samples[i].group for i in rows]
        )
    return detection_metrics(matches, [s.group for s in samples]) | {"by set": by_set}


def _sigmoid(logits: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits, float))))
