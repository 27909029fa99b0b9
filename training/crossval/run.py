"""Five-fold cross-validation on real pictures: how well all models do on pictures held out.

All models share one division into folds. Detector k does not learn from fold k; SpatialCLIP k
learns from the other folds' pictures, each with boxes of the detector of its own fold, and judges
fold k from boxes of detector k. A leak remains: the detectors of the other folds have learnt from
fold k, and so influence the boxes that SpatialCLIP k learns from. `nested` measures it, for one
fold, with detectors that learnt neither from it nor from the pictures they box. Styles of scanners
can be left out instead of folds (`training.crossval.leave_style_out`).
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
    VIEWS_FILE,
    Plan,
    annotated_samples,
    ensure_detector,
    exclude_groups_of,
    has_predictions,
    load_predictions,
    prepare_all,
    prepare_samples,
    train_and_predict,
)
from training.crossval.head_prior import head_log_odds, likeliest_views, with_head_log_odds
from training.crossval.parallel import Task, run_parallel
from training.data import splits
from training.data.regions import match_regions, read_region
from training.data.samples import Sample, data_hash
from training.data.styles import style_features
from training.evaluation.ablation import ABLATIONS, ALL_BRANCHES
from training.evaluation.metrics import classification
from training.evaluation.metrics.detection import Matches, detection_metrics
from training.evaluation.predict import assign_styles
from training.evaluation.record import EvaluatedSample
from training.evaluation.report import write_report
from training.evaluation.select_calibration import select_calibration
from training.evaluation.summary import evaluate, to_plain
from training.train import small_spatialclip

NESTED = 0
"""The fold whose leak is measured."""


def cross_validate(
    plan: Plan, *, nested: bool = False, leave_styles_out: bool = False, jobs: int = 1
) -> dict[str, Any]:
    """Train the models that are missing in `out`, `jobs` at a time, and return the figures, which
    are also written there: figures.json, and the report figures.html."""
    write_plan(plan)
    logs = plan.out / "logs"
    folds = range(plan.folds)
    by_style = leave_style_out.samples_by_style(plan) if leave_styles_out else {}
    detectors = [plan.out / f"detector-{fold}" for fold in folds]
    detector_tasks = [Task(f"detector-{fold}", train_fold_detector, (plan, fold)) for fold in folds]
    spatialclip_tasks = {
        plan.out / f"spatialclip-{fold}": Task(
            f"spatialclip-{fold}", train_fold_spatialclip, (plan, fold, detectors)
        )
        for fold in folds
    }
    if nested:
        detector_tasks += [
            Task(f"nested-detector-{fold}", train_fold_detector, (plan, fold, NESTED))
            for fold in folds
            if fold != NESTED
        ]
        spatialclip_tasks[plan.out / "nested" / "spatialclip"] = Task(
            "nested-spatialclip", train_nested_spatialclip, (plan, detectors)
        )
    for style, held_out in by_style.items():
        folder = leave_style_out.style_folder(plan, style)
        detector_tasks.append(
            Task(
                f"{folder.name}-detector",
                leave_style_out.train_style_detector,
                (plan, style, held_out),
            )
        )
        spatialclip_tasks[folder / "spatialclip"] = Task(
            f"{folder.name}-spatialclip",
            leave_style_out.train_style_spatialclip,
            (plan, style, held_out, detectors),
        )

    run_parallel(detector_tasks, jobs, logs)
    missing = [task for folder, task in spatialclip_tasks.items() if not has_predictions(folder)]
    if missing and jobs > 1:
        # All tasks read these caches: they are filled first, or each task would fill them.
        prepare_all(plan, detectors)
        run_parallel(
            [
                Task(f"sights-{part}", cache_features, (plan, detectors, part, jobs))
                for part in range(jobs)
            ],
            jobs,
            logs,
        )
    run_parallel(missing, jobs, logs)

    boxes = detector_figures(plan, detectors)
    quality = spatialclip_figures(plan)
    for name, set_boxes in boxes["by set"].items():
        quality["sets"][name]["detector"] = set_boxes
    if leave_styles_out:
        quality["looks left out"] = leave_style_out.style_figures(
            plan, by_style, load_predictions(plan.out)
        )
    facts = {"command": plan.command, "folds": plan.folds, "seed": plan.seed}
    figures: dict[str, Any] = to_plain({**facts, "detector": boxes, **quality})
    write_report(plan.out / "figures.html", "Cross-validation", figures)
    return figures


def write_plan(plan: Plan) -> None:
    """Write the plan to `out`; raises UsageError where models of another plan lie there: their
    figures would be mixed. A folder of an earlier version has no plan, and gets this one."""
    facts = to_plain(
        {
            "folds": plan.folds,
            "seed": plan.seed,
            "detector": plan.detector.to_json(),
            "spatialclip": plan.spatialclip.to_json(),
            **{
                name: data_hash(samples)
                for name, samples in (
                    ("real pictures", plan.real),
                    ("--boxed", plan.detector_extra),
                    ("--judged", plan.spatialclip_extra),
                    ("unlabelled pictures", plan.unlabelled),
                )
                # A plan of an earlier version names no unlabelled ones.
                if samples or name != "unlabelled pictures"
            },
        }
    )
    path = plan.out / "plan.json"
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in facts if earlier.get(name) != facts[name]]
        if changed:
            raise UsageError(
                f"{plan.out} holds a cross-validation with other {', '.join(changed)}:"
                " name another folder with --out"
            )
        return
    plan.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def train_fold_detector(plan: Plan, fold: int, outer_fold: int | None = None) -> Path:
    """The folder of the detector that learns neither from `fold` nor from `outer_fold`; it is
    trained unless it is there."""
    name = f"detector-{fold}" if outer_fold is None else f"nested/detector-{fold}-{outer_fold}"
    training, held_out = splits.leave_fold_out(annotated_samples(plan), fold, plan.folds, plan.seed)
    if outer_fold is not None:
        training, _ = splits.leave_fold_out(training, outer_fold, plan.folds, plan.seed)
    return ensure_detector(plan, plan.out / name, training, held_out)


def cache_features(plan: Plan, detectors: Sequence[Path], part: int, parts: int) -> None:
    """Cache the backbone's features of every `parts`-th picture, from `part` on."""
    preprocessor, network = small_spatialclip.load_start(plan.spatialclip_start, plan.spatialclip)
    backbone = network.trimodal_clip.stem
    if plan.spatialclip.cached_augmentations and backbone is not None:
        items = prepare_all(plan, detectors)[part::parts]
        small_spatialclip.add_cached_features(
            items, backbone, preprocessor, plan.spatialclip, plan.out
        )


def train_fold_spatialclip(plan: Plan, fold: int, detectors: Sequence[Path]) -> None:
    """Train SpatialCLIP without a fold, and write its predictions of the fold, from boxes of a
    detector that did not learn from it either."""
    samples, held_out = splits.leave_fold_out(plan.real, fold, plan.folds, plan.seed)
    others, unlabelled = splits.leave_fold_out(plan.unlabelled, fold, plan.folds, plan.seed)
    # Each part by itself, as `prepare_all` has cached it.
    training, more, validation, judged = (
        prepare_samples(plan, part, detectors) for part in (samples, others, held_out, unlabelled)
    )
    extra = exclude_groups_of(prepare_samples(plan, plan.spatialclip_extra, detectors), held_out)
    train_and_predict(
        plan,
        plan.out / f"spatialclip-{fold}",
        [*training, *more, *extra],
        validation,
        judged,
    )


def train_nested_spatialclip(plan: Plan, detectors: Sequence[Path]) -> None:
    """The same for the fold NESTED, with training boxes of detectors that did not learn from it."""
    training, held_out = splits.leave_fold_out(plan.real, NESTED, plan.folds, plan.seed)
    others, _ = splits.leave_fold_out(plan.unlabelled, NESTED, plan.folds, plan.seed)
    inner = [
        plan.out / (f"detector-{fold}" if fold == NESTED else f"nested/detector-{fold}-{NESTED}")
        for fold in range(plan.folds)
    ]
    extra = exclude_groups_of(prepare_samples(plan, plan.spatialclip_extra, detectors), held_out)
    train_and_predict(
        plan,
        plan.out / "nested" / "spatialclip",
        [*prepare_samples(plan, [*training, *others], inner), *extra],
        prepare_samples(plan, held_out, detectors),
    )


def spatialclip_figures(plan: Plan) -> dict[str, Any]:
    """The sets' figures as `qc-model evaluate` gives them, a summary of the set that has both
    classes, and the nested fold beside the same fold without nesting.

    Alignment is given for each fold: its network is its own.
    """
    sets, separation = out_of_fold_figures(plan)
    both = sets[BOTH_CLASSES]
    figures: dict[str, Any] = {
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
    if plan.unlabelled:
        figures["views of unlabelled pictures"] = view_figures(plan)
    path = plan.out / "nested" / "spatialclip" / "predictions.json"
    if path.is_file():
        nested_rows = json.loads(path.read_text())
        fold_rows = [row for row in load_predictions(plan.out) if row["fold"] == 0]
        figures["fold 0, nested and not"] = {
            name: classification.classification_metrics(
                _sigmoid([row["logits"][ALL_BRANCHES] for row in part]),
                [row["standard"] for row in part],
                [row["group"] for row in part],
            )["AUROC"]
            for name, rows in (("not nested", fold_rows), ("nested", nested_rows))
            if (part := [row for row in rows if row["source"] == BOTH_CLASSES])
        }
    return figures


def view_figures(plan: Plan) -> dict[str, Any]:
    """Of each set of pictures without a quality label: the share that is called each view, and the
    share that is called a standard NT view, out of fold and with intervals by group.

    As in `out_of_fold_figures` verdicts are without the out-of-distribution score. The prior of
    HEAD is that of the other folds' heads.
    """
    _, high = Thresholds().review
    both_classes = [r for r in load_predictions(plan.out) if r["source"] == BOTH_CLASSES]
    rows = load_predictions(plan.out, VIEWS_FILE)
    probabilities = calibrate_out_of_fold(rows, both_classes, ALL_BRANCHES)
    called = np.array(likeliest_views(_views_out_of_fold(rows)))
    is_standard = (called == View.NT) & (probabilities >= high)
    names = np.array([f"{row['source']}, {row['view']}" for row in rows])
    figures: dict[str, Any] = {}
    for name in sorted(set(names.tolist())):
        part = np.flatnonzero(names == name)
        groups = [rows[i]["group"] for i in part]
        figures[name] = {
            "pictures": len(part),
            "called": {str(view): _share(called[part] == view, groups) for view in VIEWS},
            "called standard": _share(is_standard[part], groups),
        }
    return figures


def _views_out_of_fold(rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """(N, 5) probabilities of the views, with the prior of HEAD that fits other folds' heads."""
    views = np.array([row["views"] for row in rows], float)
    folds = np.array([row["fold"] for row in rows])
    for fold in sorted(set(folds.tolist())):
        log_odds = head_log_odds([row for row in rows if row["fold"] != fold])
        views[folds == fold] = with_head_log_odds(views[folds == fold], log_odds)
    return views


def _share(values: npt.NDArray[np.bool_], groups: Sequence[str]) -> dict[str, Any]:
    return classification.metric_with_interval(
        lambda at: float(np.mean(values[at])), np.arange(len(values)), groups
    )


def out_of_fold_figures(plan: Plan) -> tuple[dict[str, Any], float | None]:
    """The figures of each set's out-of-fold verdicts, and how well scanners' styles separate.

    Verdicts follow the default thresholds, without criteria and without the out-of-distribution
    score, which belong to a bundle.
    """
    rows = load_predictions(plan.out)
    both_classes = [row for row in rows if row["source"] == BOTH_CLASSES]
    ablated = {name: calibrate_out_of_fold(rows, both_classes, name) for name in ABLATIONS}
    features = {s.image.name: style_features(read_region(s)[0]) for s in plan.real}
    evaluated, separation = assign_styles(
        [
            evaluated_sample(row, {name: float(p[i]) for name, p in ablated.items()}, features)
            for i, row in enumerate(rows)
        ]
    )
    return {
        source: evaluate([each for each in evaluated if each.source == source], ablation=True)
        for source in sorted({each.source for each in evaluated})
    }, separation


def calibrate_out_of_fold(
    rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], name: str
) -> npt.NDArray[np.float64]:
    """(N,) probabilities of the rows by the ablation's logits, each by a calibration chosen and
    fitted on the reference rows of the other folds."""
    logits = np.array([row["logits"][name] for row in rows])
    folds = np.array([row["fold"] for row in rows])
    probabilities = np.zeros(len(rows))
    for fold in sorted(set(folds.tolist())):
        others = [row for row in reference if row["fold"] != fold]
        calibration, _ = select_calibration(
            [row["logits"][name] for row in others],
            [float(row["standard"]) for row in others],
            [row["group"] for row in others],
        )
        probabilities[folds == fold] = calibration.calibrate_many(logits[folds == fold])
    return probabilities


def evaluated_sample(
    row: dict[str, Any],
    probabilities: dict[str, float],
    features: dict[str, npt.NDArray[np.float64]],
) -> EvaluatedSample:
    """A row of predictions.json as an evaluated sample, with its calibrated probabilities by
    ablation and style features by picture; criteria and reasons are not judged."""
    low, high = Thresholds().review
    p = probabilities[ALL_BRANCHES]
    image, text, spatial = row["gates"]
    return EvaluatedSample(
        picture=row["picture"],
        group=row["group"],
        source=row["source"],
        view=View(row["view"]) if row["view"] else None,
        standard=row["standard"],
        predicted_view=likeliest_views([row["views"]])[0],
        probability=p,
        label=REVIEW if low < p < high else STANDARD if p >= high else NON_STANDARD,
        gates=(image, text, spatial),
        ablated_probabilities=probabilities,
        style_features=features.get(row["picture"]),
    )


def detector_figures(plan: Plan, detectors: Sequence[Path]) -> dict[str, Any]:
    """AP50 out of fold, over all annotated real pictures of NT views, of each set of them, and of
    each set of heads and planes without a quality label."""
    nt_views = [s for s in plan.real if s.annotated and s.view is View.NT]
    samples, matches = _match_out_of_fold(plan, detectors, nt_views)
    figures = detection_metrics(matches, [s.group for s in samples])
    figures["by set"] = _metrics_by_set(samples, matches)
    # A set without boxes has no AP.
    boxed = {s.source for s in plan.unlabelled if s.boxes}
    if boxed:
        others = [s for s in plan.unlabelled if s.source in boxed]
        figures["unlabelled"] = _metrics_by_set(*_match_out_of_fold(plan, detectors, others))
    return figures


def _match_out_of_fold(
    plan: Plan, detectors: Sequence[Path], pictures: Sequence[Sample]
) -> tuple[list[Sample], list[dict[str, Matches]]]:
    """The pictures fold by fold, each with the boxes of the detector that did not learn from it
    matched to its true ones."""
    samples: list[Sample] = []
    matches: list[dict[str, Matches]] = []
    for fold, folder in enumerate(detectors):
        own = [s for s in pictures if splits.fold_of(s, plan.folds, plan.seed) == fold]
        matches += match_regions(YoloDetector.load(folder), own)
        samples += own
    return samples, matches


def _metrics_by_set(
    samples: Sequence[Sample], matches: Sequence[dict[str, Matches]]
) -> dict[str, Any]:
    by_set = {}
    for source in sorted({sample.source for sample in samples}):
        rows = [row for row, sample in enumerate(samples) if sample.source == source]
        by_set[source] = detection_metrics(
            [matches[i] for i in rows], [samples[i].group for i in rows]
        )
    return by_set


def _sigmoid(logits: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits, float))))
