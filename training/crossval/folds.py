"""What cross-validations share: their plan, training what is not there yet, judging the unseen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from model.spatialclip.checkpoint import load_spatialclip
from model.spatialclip.preprocess import Preprocessor
from training.data.prepared import PreparedSample
from training.data.samples import Sample
from training.evaluation import alignment
from training.evaluation.ablation import ablate
from training.recipes import DetectorRecipe, SpatialClipRecipe
from training.train import small_spatialclip
from training.train.batches import make_batch
from training.train.detector import train_detector

BOTH_CLASSES = "set2_train"
"""The set on which quality is told: the other one is standard only."""


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
    command: str = "qc-model cross-validate"


def predictions(out: Path) -> list[dict[str, Any]]:
    """The out-of-fold rows of all folds in a cross-validation's folder, each with its fold."""
    folders = sorted(out.glob("spatialclip-*"), key=lambda f: int(f.name.rpartition("-")[2]))
    return [
        row | {"fold": fold}
        for fold, folder in enumerate(folders)
        for row in json.loads((folder / "predictions.json").read_text())
    ]


def boxed(plan: Plan) -> list[Sample]:
    """The real pictures that a detector may learn from: not annotated is not empty."""
    return [sample for sample in plan.real if sample.annotated]


def evidence(
    plan: Plan, samples: Sequence[Sample], detectors: Sequence[Path]
) -> list[PreparedSample]:
    """What the describer makes of the boxes that each sample's own fold's detector finds."""
    cache = plan.out / "evidence"
    return small_spatialclip.prepare_out_of_fold(
        samples, detectors, plan.describer, cache, plan.seed
    )


def all_evidence(plan: Plan, detectors: Sequence[Path]) -> list[PreparedSample]:
    """Of all pictures, in the parts in which folds and looks ask for it, and is kept."""
    return [*evidence(plan, plan.real, detectors), *evidence(plan, plan.judged, detectors)]


def without(beside: Sequence[PreparedSample], held: Sequence[Sample]) -> list[PreparedSample]:
    """Those that are no held-out picture nor made of one: negatives are cut from real ones."""
    hidden = {sample.group for sample in held}
    return [item for item in beside if item.sample.group not in hidden]


def trained_detector(
    plan: Plan, out: Path, training: Sequence[Sample], held: Sequence[Sample]
) -> Path:
    """The detector in `out`, trained on these and on the plan's simulated pictures unless it is
    there."""
    if not (out / "training.json").is_file():
        Console(stderr=True).rule(str(out.relative_to(plan.out)))
        train_detector(
            [*training, *plan.boxed],
            held,
            out,
            plan.detector,
            start=plan.detector_start,
            resume=True,
            command=plan.command,
        )
    return out


def is_judged(folder: Path) -> bool:
    """Whether a SpatialCLIP has been trained there and has judged what it had not seen."""
    return all((folder / name).is_file() for name in ("training.json", "predictions.json"))


def judge_unseen(
    plan: Plan, out: Path, seen: Sequence[PreparedSample], unseen: Sequence[PreparedSample]
) -> None:
    """Train SpatialCLIP unless it is there, then write what it says of the unseen pictures:
    predictions.json and alignment.json in `out`."""
    if not (out / "training.json").is_file():
        Console(stderr=True).rule(str(out.relative_to(plan.out)))
        small_spatialclip.train_small_spatialclip(
            seen,
            unseen,
            out,
            plan.spatialclip,
            start=plan.spatialclip_start,
            cache=plan.out,
            resume=True,
            command=plan.command,
        )
    network = load_spatialclip(out)
    preprocessor = Preprocessor.load(out, small_spatialclip.PICTURE_SIZE)
    rows: list[dict[str, Any]] = [
        {
            "picture": item.sample.image.name,
            "group": item.sample.group,
            "source": item.sample.source,
            "view": item.sample.view,
            "standard": item.sample.standard,
        }
        for item in unseen
    ]
    features = []
    for start in range(0, len(unseen), 32):
        inputs = make_batch(unseen[start : start + 32], preprocessor).inputs
        with torch.inference_mode():
            output = network(**inputs.arguments())
        branches = torch.stack((output.image, output.text, output.spatial), 1).double().numpy()
        features.append(branches)
        for i, logits in enumerate(ablate(network, branches)):
            rows[start + i] |= {
                "logits": logits,
                "gates": output.gates[i].tolist(),
                "views": output.view_logits[i].softmax(-1).tolist(),
            }
    (out / "predictions.json").write_text(json.dumps(rows))
    health = alignment.alignment_metrics(
        np.concatenate(features), [item.descriptions[0] for item in unseen]
    )
    (out / "alignment.json").write_text(json.dumps(health, indent=1))
