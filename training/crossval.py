"""Five-fold cross-validation on real pictures: how well the whole chain does on ones it never saw.

One fold map holds for all stages. Fold k's detector never saw fold k; SpatialCLIP k learns from the
other folds' pictures, each boxed by the detector of its own fold, and judges fold k from boxes of
detector k. What leaks still: the detectors of the other folds have seen fold k, and so shaped the
boxes that SpatialCLIP k learnt from. `nested` measures that, for one fold, with detectors that saw
neither it nor the pictures they box.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from detector.detection import Detection
from detector.vocabulary import View
from detector.yolo import YoloDetector
from model.calibration import Temperature, bootstrap_interval
from model.checkpoint import load_spatialclip
from model.inputs import Preprocessor
from training import corpus, pipeline, quality
from training.detector import DetectorRecipe, read_region, train_detector
from training.evidence import Evidence
from training.metrics import score_detector
from training.samples import Sample
from training.spatialclip import SpatialClipRecipe, make_batch

BRANCHES = ("image", "text", "spatial")
ABLATIONS: dict[str, tuple[bool, bool, bool]] = {
    "all": (True, True, True),
    "without image": (False, True, True),
    "without text": (True, False, True),
    "without layout": (True, True, False),
    "image alone": (True, False, False),
    "text alone": (False, True, False),
    "layout alone": (False, False, True),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cross-validation is made of.

    `boxed` and `judged` are simulated pictures for the detectors and for SpatialCLIP; the starts
    are folders of models that have seen simulated pictures only.
    """

    out: Path
    real: Sequence[Sample]
    boxed: Sequence[Sample]
    judged: Sequence[Sample]
    describer: Path
    detector_start: Path
    spatialclip_start: Path
    detector: DetectorRecipe
    spatialclip: SpatialClipRecipe
    folds: int = 5
    seed: int = 0


def cross_validate(plan: Plan, *, nested: bool = False) -> dict[str, Any]:
    """Run what is not there yet and return the figures; also written to `out`/figures.json."""
    console = Console(stderr=True)
    detectors = [fold_detector(plan, fold, console) for fold in range(plan.folds)]
    for fold in range(plan.folds):
        console.rule(f"SpatialCLIP, fold {fold} of {plan.folds}")
        training, held = corpus.without_fold(
            [*plan.real, *plan.judged], fold, plan.folds, plan.seed
        )
        cache = plan.out / "evidence"
        seen, unseen = (
            pipeline.gather_folds(part, detectors, plan.describer, cache, plan.seed)
            for part in (training, held)
        )
        fold_spatialclip(plan, plan.out / f"spatialclip-{fold}", seen, unseen)
        if nested and fold == 0:
            inner = nested_evidence(plan, fold, training, console)
            fold_spatialclip(plan, plan.out / "nested" / "spatialclip", inner, unseen)
    figures = {
        "detector": detector_figures(plan, detectors),
        **judgement_figures(plan),
    }
    (plan.out / "figures.json").write_text(json.dumps(figures, indent=1))
    return figures


def fold_detector(plan: Plan, fold: int, console: Console, beside: int | None = None) -> Path:
    """The detector that saw neither `fold` nor the fold `beside`."""
    name = f"detector-{fold}" if beside is None else f"nested/detector-{fold}-{beside}"
    out = plan.out / name
    if not (out / "training.json").is_file():
        console.rule(name)
        boxed = [s for s in plan.real if s.annotated]
        training, held = corpus.without_fold(boxed, fold, plan.folds, plan.seed)
        if beside is not None:
            training, _ = corpus.without_fold(training, beside, plan.folds, plan.seed)
        train_detector(
            [*training, *plan.boxed],
            held,
            out,
            plan.detector,
            start=plan.detector_start,
            resume=True,
            command="qc-model cross-validate",
        )
    return out


def nested_evidence(
    plan: Plan, fold: int, training: Sequence[Sample], console: Console
) -> list[Evidence]:
    """The training pictures of `fold`, each boxed by a detector that saw neither it nor `fold`."""
    detectors = [
        fold_detector(plan, other, console, beside=fold)
        if other != fold
        else fold_detector(plan, fold, console)
        for other in range(plan.folds)
    ]
    return pipeline.gather_folds(
        training, detectors, plan.describer, plan.out / "nested" / "evidence", plan.seed
    )


def fold_spatialclip(
    plan: Plan, out: Path, seen: Sequence[Evidence], unseen: Sequence[Evidence]
) -> None:
    """Train unless it is there, then write what it says of the unseen pictures."""
    if not (out / "training.json").is_file():
        pipeline.train_small_spatialclip(
            seen,
            unseen,
            out,
            plan.spatialclip,
            start=plan.spatialclip_start,
            resume=True,
            command="qc-model cross-validate",
        )
    network = load_spatialclip(out)
    preprocessor = Preprocessor.load(out, pipeline.PICTURE_SIZE)
    rows: list[dict[str, Any]] = [
        {
            "picture": item.sample.image.name,
            "group": item.sample.group,
            "source": item.sample.source,
            "standard": item.sample.standard,
            "logits": {},
        }
        for item in unseen
    ]
    for start in range(0, len(unseen), 32):
        inputs = make_batch(unseen[start : start + 32], preprocessor).inputs
        for name, branches in ABLATIONS.items():
            present = torch.tensor([branches]).expand(len(inputs.pixel_values), 3)
            with torch.inference_mode():
                output = network(
                    **{key: getattr(inputs, key) for key in inputs.__slots__}, present=present
                )
            for i, logit in enumerate(output.logit.tolist()):
                rows[start + i]["logits"][name] = logit
                if name == "all":
                    rows[start + i]["gates"] = output.gates[i].tolist()
                    rows[start + i]["views"] = output.view_logits[i].softmax(-1).tolist()
    (out / "predictions.json").write_text(json.dumps(rows))


def predictions(plan: Plan) -> list[dict[str, Any]]:
    """The out-of-fold rows of all folds, each with its fold."""
    return [
        row | {"fold": fold}
        for fold in range(plan.folds)
        for row in json.loads((plan.out / f"spatialclip-{fold}" / "predictions.json").read_text())
    ]


def judgement_figures(plan: Plan) -> dict[str, Any]:
    """Quality on the set that has both classes, by ablation; gates; the nested fold beside it."""
    rows = [row for row in predictions(plan) if row["source"] == "set2_train"]
    groups = [row["group"] for row in rows]
    standard = np.array([row["standard"] for row in rows])
    gates = np.array([row["gates"] for row in rows])
    ablation = {
        name: quality.figures(calibrated(rows, name), standard, groups) for name in ABLATIONS
    }
    found: dict[str, Any] = {
        "set 2": ablation["all"],
        "ablation": {name: each["AUROC"] for name, each in ablation.items()},
        "gates": {
            branch: {"mean": float(gates[:, k].mean()), "SD": float(gates[:, k].std())}
            for k, branch in enumerate(BRANCHES)
        },
        "risk and coverage": quality.risk_coverage(calibrated(rows, "all"), standard),
    }
    inner = plan.out / "nested" / "spatialclip" / "predictions.json"
    if inner.is_file():
        ours = [row for row in rows if row["fold"] == 0]
        theirs = [r for r in json.loads(inner.read_text()) if r["source"] == "set2_train"]
        found["fold 0, nested and not"] = {
            name: quality.figures(
                _sigmoid([row["logits"]["all"] for row in part]),
                [row["standard"] for row in part],
                [row["group"] for row in part],
            )["AUROC"]
            for name, part in (("not nested", ours), ("nested", theirs))
        }
    return found


def calibrated(rows: Sequence[dict[str, Any]], name: str) -> npt.NDArray[np.float64]:
    """Probabilities, each by a calibration fitted on the other folds' rows."""
    logits = np.array([row["logits"][name] for row in rows])
    standard = np.array([row["standard"] for row in rows], float)
    folds = np.array([row["fold"] for row in rows])
    found = np.zeros(len(rows))
    for fold in sorted(set(folds)):
        own = folds == fold
        scaling = Temperature.fit(logits[~own], standard[~own])
        found[own] = scaling.calibrate_many(logits[own])
    return found


def detector_figures(plan: Plan, detectors: Sequence[Path]) -> dict[str, Any]:
    """AP50 out of fold, over all boxed real pictures, and of each set."""
    found: list[tuple[Detection, ...]] = []
    truths: list[list[Detection]] = []
    samples: list[Sample] = []
    boxed = [s for s in plan.real if s.annotated and s.view is View.NT]
    for fold, folder in enumerate(detectors):
        own = [s for s in boxed if corpus.fold_of(s, plan.folds, plan.seed) == fold]
        finder = YoloDetector.load(folder)
        for start in range(0, len(own), 16):
            regions = [read_region(sample) for sample in own[start : start + 16]]
            found += finder.detect([pixels for pixels, _ in regions], confidence=0.001)
            truths += [boxes for _, boxes in regions]
        samples += own

    def score(rows: npt.NDArray[np.intp]) -> float:
        return score_detector(
            [found[i] for i in rows],
            [truths[i] for i in rows],
            [samples[i].annotated for i in rows],
        ).map50

    everyone = np.arange(len(samples))
    total = score_detector(found, truths, [s.annotated for s in samples])
    groups = [s.group for s in samples]
    return {
        "pictures": len(samples),
        "map50": {
            "value": total.map50,
            "interval": list(bootstrap_interval(score, groups, resamples=100)),
        },
        "ap50": total.ap50,
        "by set": {
            source: score(everyone[[s.source == source for s in samples]])
            for source in sorted({s.source for s in samples})
        },
    }


def _sigmoid(logits: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits, float))))
