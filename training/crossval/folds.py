"""What cross-validations share: their plan, training of missing models, held-out predictions."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from detector.anatomy import LABELS, View
from detector.boxes import filter_by_confidence
from model.criteria.checks import measure
from model.judge import Thresholds
from model.spatialclip.checkpoint import load_spatialclip
from model.spatialclip.network import SpatialClip
from model.spatialclip.preprocess import Preprocessor
from training.data.prepared import PreparedSample
from training.data.regions import read_region
from training.data.samples import Sample
from training.evaluation.ablation import ablate
from training.evaluation.metrics import alignment
from training.recipes import DetectorRecipe, SpatialClipRecipe
from training.train import small_spatialclip
from training.train.batches import make_batch
from training.train.detector import train_detector
from training.train.start import Start

BOTH_CLASSES = "set2_train"
"""The set with both classes, which quality is measured on: the other one is standard only."""


VIEWS_FILE = "views.json"
"""The predictions of pictures that have no quality label: of which view they are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cross-validation is made of."""

    out: Path  # the folder of its models and figures
    real: Sequence[Sample]  # the pictures that are held out in turn
    detector_extra: Sequence[Sample]  # never held out: simulated pictures for all detectors
    spatialclip_extra: Sequence[Sample]  # never held out: simulated ones and negatives
    describer: Path  # a folder; the describer is not trained here
    detector_start: Path  # a detector that learnt from simulated pictures only
    spatialclip_start: Path  # a SpatialCLIP that learnt from simulated pictures only
    detector: DetectorRecipe
    spatialclip: SpatialClipRecipe
    folds: int = 5
    seed: int = 0  # of the division into folds
    command: str = "qc-model cross-validate"  # written beside the models and figures
    unlabelled: Sequence[Sample] = ()  # real ones without a quality label, held out like `real`


def load_predictions(out: Path, name: str = "predictions.json") -> list[dict[str, Any]]:
    """The out-of-fold rows of all folds in a cross-validation's folder, each with its fold; with
    VIEWS_FILE, of the pictures without a quality label."""
    folders = sorted(out.glob("spatialclip-*"), key=lambda f: int(f.name.rpartition("-")[2]))
    return [
        row | {"fold": fold}
        for fold, folder in enumerate(folders)
        for row in json.loads((folder / name).read_text())
    ]


def annotated_samples(plan: Plan) -> list[Sample]:
    """The real pictures that a detector may learn from: those annotated with boxes, or for what
    they do not show."""
    return [sample for sample in (*plan.real, *plan.unlabelled) if sample.annotated]


def prepare_samples(
    plan: Plan, samples: Sequence[Sample], detectors: Sequence[Path]
) -> list[PreparedSample]:
    """The samples with the boxes of the detector that did not learn from their fold, and with the
    describer's sentences; cached in the plan's folder."""
    cache = plan.out / "evidence"
    return small_spatialclip.prepare_out_of_fold(
        samples, detectors, plan.describer, cache, plan.seed
    )


def prepare_all(plan: Plan, detectors: Sequence[Path]) -> list[PreparedSample]:
    """Prepare all pictures, real ones first; each of the three parts is cached as the folds and the
    left-out styles read it."""
    return [
        *prepare_samples(plan, plan.real, detectors),
        *prepare_samples(plan, plan.unlabelled, detectors),
        *prepare_samples(plan, plan.spatialclip_extra, detectors),
    ]


def exclude_groups_of(
    items: Sequence[PreparedSample], held_out: Sequence[Sample]
) -> list[PreparedSample]:
    """The items of no held-out picture's group: no such picture, and no negative made of one."""
    groups = {sample.group for sample in held_out}
    return [item for item in items if item.sample.group not in groups]


def ensure_detector(
    plan: Plan, out: Path, training: Sequence[Sample], held_out: Sequence[Sample]
) -> Path:
    """The folder `out`, with a detector that learnt from `training` and the plan's simulated
    pictures; it is trained unless it is there."""
    if not (out / "training.json").is_file():
        Console(stderr=True).rule(str(out.relative_to(plan.out)))
        train_detector(
            [*training, *plan.detector_extra],
            held_out,
            out,
            plan.detector,
            start=Start(plan.detector_start),
            resume=True,
            command=plan.command,
        )
    return out


def has_predictions(folder: Path) -> bool:
    """Whether a SpatialCLIP has been trained there and has judged its held-out pictures."""
    return all((folder / name).is_file() for name in ("training.json", "predictions.json"))


def train_and_predict(
    plan: Plan,
    out: Path,
    training: Sequence[PreparedSample],
    held_out: Sequence[PreparedSample],
    unlabelled: Sequence[PreparedSample] = (),
) -> None:
    """Train SpatialCLIP unless it is there, then write its predictions of the held-out pictures:
    predictions.json, a row each, and alignment.json in `out`; views.json of the `unlabelled`, which
    are held out too."""
    if not (out / "training.json").is_file():
        Console(stderr=True).rule(str(out.relative_to(plan.out)))
        small_spatialclip.train_small_spatialclip(
            training,
            held_out,
            out,
            plan.spatialclip,
            start=plan.spatialclip_start,
            cache=plan.out,
            resume=True,
            command=plan.command,
        )
    network = load_spatialclip(out)
    preprocessor = Preprocessor.load(out, small_spatialclip.PICTURE_SIZE)
    if unlabelled:
        rows, _ = _predict_rows(network, preprocessor, unlabelled)
        (out / VIEWS_FILE).write_text(json.dumps(rows))
    rows, features = _predict_rows(network, preprocessor, held_out)
    (out / "predictions.json").write_text(json.dumps(rows))
    health = alignment.alignment_metrics(features, [item.descriptions[0] for item in held_out])
    (out / "alignment.json").write_text(json.dumps(health, indent=1))


def _predict_rows(
    network: SpatialClip, preprocessor: Preprocessor, items: Sequence[PreparedSample]
) -> tuple[list[dict[str, Any]], npt.NDArray[np.float64]]:
    """What the network says of the items, a row each, and their features (N, 3, d)."""
    rows: list[dict[str, Any]] = [
        {
            "picture": item.sample.image.name,
            "group": item.sample.group,
            "source": item.sample.source,
            "view": item.sample.view,
            "standard": item.sample.standard,
            **_criteria_facts(item),
        }
        for item in items
    ]
    features = []
    for start in range(0, len(items), 32):
        inputs = make_batch(items[start : start + 32], preprocessor).inputs
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
    return rows, np.concatenate(features)


def _criteria_facts(item: PreparedSample) -> dict[str, Any]:
    """What criteria and reasons are judged by, in the sample's own view: all detections, the
    measurements by criterion code, and the annotated structures with those that have a box."""
    sample = item.sample
    view = sample.view or View.OTHER
    pixels, _ = read_region(sample)
    detections = item.detections[0]
    measurements = measure(
        view,
        filter_by_confidence(Thresholds().detection, detections),
        *item.size,
        pixels,
        frozenset(label.code for label in LABELS),
    )
    return {
        "detections": [astuple(detection) for detection in detections],
        "measurements": {code: astuple(m) for code, m in measurements.items()},
        "annotated": sorted(sample.annotated),
        "boxed": sorted({box.label for box in sample.boxes}),
    }
