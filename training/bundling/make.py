"""From trained parts to a bundle: calibration, thresholds, outlier score, criteria, card."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from detector.anatomy import View
from detector.boxes import Detection, at_least
from detector.console import UsageError
from detector.yolo.yolo import YoloDetector
from model.bundle.build import build
from model.bundle.bundle import (
    CARD,
    DESCRIBER,
    DETECTOR,
    MANIFEST,
    OUTLIER,
    SPATIALCLIP,
    write_manifest,
)
from model.calibration import expected_calibration_error
from model.criteria.thresholds import CriteriaThresholds
from model.describer.describer import Describer
from model.judge import Thresholds
from model.outlier import OutlierModel, evidence
from model.spatialclip.checkpoint import load_spatialclip
from model.spatialclip.network import VIEWS, SpatialClip
from model.spatialclip.preprocess import Preprocessor
from training.bundling.fit_criteria import CriteriaSample, fit, rates
from training.bundling.model_card import model_card
from training.crossval.folds import BOTH_CLASSES, predictions
from training.data.negatives import read_negatives
from training.data.prepared import PreparedSample, prepare
from training.data.regions import match_regions, read_region
from training.data.samples import Sample, counts, data_hash, file_hash
from training.evaluation.ablation import ALL_BRANCHES
from training.evaluation.detection import detection_metrics
from training.evaluation.select_calibration import select_calibration
from training.evaluation.summary import to_plain
from training.train import runs
from training.train.small_spatialclip import PICTURE_SIZE
from training.train.spatialclip import predict

KNOWN_SHARE = 0.99
"""Share of known pictures that the out-of-distribution threshold lets pass."""
REAL_PICTURES = 20
"""So many real pictures of a view among those that calibrate let it give verdicts on real ones."""
FEWEST_KNOWN = 8
"""Pictures of the views that the outlier score needs: half of them fit it, half set its threshold.
"""
KNOWN_VIEW_SHARE = 0.99
"""Share of rightly named views that are sure enough to keep their name."""


def make_bundle(
    out: Path,
    detector: Path,
    describer: Path,
    spatialclip: Path,
    known: Sequence[Sample],
    strange: Sequence[Path],
    *,
    name: str,
    version: str,
    command: str,
    cross_validation: Path | None = None,
    notes: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Calibrate the parts on `known` pictures that none of them was trained on, set the
    out-of-distribution threshold, report on the `strange` files, and write the bundle to `out`;
    `force` replaces a bundle that is there, once the new one is whole.

    With the folder of a cross-validation of the same recipe, the views that it has real pictures of
    are calibrated on what its networks said of pictures they had not seen: many more than can be
    held out from the last one. `notes` stand among the limits in the model card. Raises UsageError
    on runs that failed, on too few or too uniform pictures, and on parts that learnt nothing.
    """
    check_target(out, force=force)
    parts = {DETECTOR: detector, DESCRIBER: describer, SPATIALCLIP: spatialclip}
    runs_of = {part: runs.read_run(folder, part) for part, folder in parts.items()}
    trained = runs_of[SPATIALCLIP]
    out.parent.mkdir(parents=True, exist_ok=True)
    folds: dict[str, Any] = {}
    unseen: list[dict[str, Any]] = []
    if cross_validation is not None:
        folds = read_cross_validation(cross_validation)
        unseen = [row for row in predictions(cross_validation) if row["source"] == BOTH_CLASSES]
    unnamed = [sample for sample in known if sample.view is None]
    if unnamed:
        raise UsageError(
            f"{len(unnamed)} samples to calibrate on name no view, the first is"
            f" {unnamed[0].place}: write their view, one of {', '.join(View)}"
        )
    thresholds = Thresholds()
    thresholds = replace(thresholds, layout=trained.get("layout", thresholds.detection))
    finder, writer = YoloDetector.load(detector), Describer.load(describer)
    network = load_spatialclip(spatialclip)
    preprocessor = Preprocessor.load(spatialclip, PICTURE_SIZE)

    seen = prepare(known, finder, writer, preprocessor, thresholds=thresholds, mirrored=False)
    outputs = predict(network, seen, preprocessor)
    views = [item.sample.view or View.OTHER for item in seen]
    judged = np.array([view is not View.OTHER for view in views])
    standard = np.array([item.sample.standard for item in seen], float)
    judged_views = [view for view in views if view is not View.OTHER]
    sample = Calibrating(
        outputs.logit[judged].tolist(),
        standard[judged].tolist(),
        [item.sample.group for item, known in zip(seen, judged, strict=True) if known],
        judged_views,
    )
    if unseen:
        sample = sample.with_unseen(unseen)
    sample.check()
    calibration, chosen = select_calibration(
        sample.logits, sample.standard, sample.groups, sample.views
    )
    calibrated = calibration.calibrate_many(sample.logits, sample.views)

    shown = [at_least(thresholds.detection, item.detections[0]) for item in seen]
    found = np.array([evidence([d.confidence for d in boxes]) for boxes in shown])
    thresholds = replace(thresholds, view=fit_view_threshold(outputs.views, views))
    outlier, beyond = fit_outlier(outputs.image[judged], judged_views, found[judged])
    with_truth = _criteria_samples(seen, shown)
    criteria = fit(with_truth, CriteriaThresholds(known=frozenset(finder.labels)))
    learnt = _learnt(known, (detector, spatialclip))
    metrics = {
        "calibration pictures": len(sample.logits),
        "expected calibration error (fitted on these pictures)": expected_calibration_error(
            calibrated, np.array(sample.standard)
        ),
        "calibration": chosen,
        "detector on real pictures": detector_on_real(finder, known),
        "view accuracy": float(
            np.mean([VIEWS[k] is v for k, v in zip(outputs.views.argmax(1), views, strict=True)])
        ),
        "known pictures beyond the outlier threshold": beyond,
        "other ultrasound (tuning half) beyond it": _strange_share(
            strange, finder, writer, network, preprocessor, outlier, thresholds
        ),
        "criteria": [asdict(rate) for rate in rates(with_truth, criteria)],
    }
    facts = {
        "name": name,
        "version": version,
        "vocabulary": list(finder.labels),
        "views": [view.value for view in VIEWS],
        "thresholds": thresholds.to_json(),
        "criteria": criteria.to_json(),
        "calibration": calibration.to_json(),
        "real_views": real_views(
            [item.sample.view for item in seen if not item.sample.simulated]
            + [View(row["view"]) for row in unseen]
        ),
        "preprocessing": {
            "detector size": finder.size,
            "picture size": PICTURE_SIZE,
            "fill": 128,
            "region": "ultrasound region, aspect kept",
            "mirror images too": [
                part
                for part, mirrored in (
                    (DETECTOR, finder.mirrored),
                    (SPATIALCLIP, network.config.mirrored),
                )
                if mirrored
            ],
        },
        "training": {
            **runs_of,
            "calibration": {
                "command": command,
                "sha256": data_hash([e.sample for e in seen]),
                "data": counts([e.sample for e in seen]),
                "criteria data": counts([e.sample for e in seen if e.sample.criteria]),
                "other ultrasound files": len(strange),
                "learnt from": learnt,
            },
        },
        "metrics": metrics,
        "notes": list(notes),
    } | folds
    bad = runs.not_finite(facts)
    if bad:
        raise UsageError(f"{bad} is no finite number: the parts or the pictures are unfit")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        new = Path(scratch) / "bundle"
        build(detector, describer, spatialclip, new, name=name, version=version, facts=facts)
        outlier.save(new / OUTLIER)
        (new / CARD).write_text(model_card(facts), encoding="utf-8")
        write_manifest(new, facts)
        _replace(out, new, Path(scratch) / "old", force=force)
    return facts


def _replace(out: Path, new: Path, old: Path, *, force: bool) -> None:
    """Put the new bundle in the place of `out`, which goes to `old`; back where that fails."""
    check_target(out, force=force)
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        raise


def _learnt(known: Sequence[Sample], parts: Sequence[Path]) -> int | None:
    """How many of the pictures one of the parts learnt from, said on standard error too; None where
    none is known and a run does not tell."""
    seen = [runs.learnt_pictures(folder) for folder in parts]
    every = set().union(*(pictures or () for pictures in seen))
    count = sum(file_hash(sample.image) in every for sample in known)
    if count:
        Console(stderr=True).print(
            f"warning: a part learnt from {count} of the {len(known)} pictures to calibrate on:"
            " give pictures that were held out",
            soft_wrap=True,
        )
    return None if not count and None in seen else count


def check_target(out: Path, *, force: bool) -> None:
    """Raises UsageError where the bundle cannot be written: only a bundle is ever replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise UsageError(f"--out {out} exists and is no bundle: name a new folder")
    if not force:
        raise UsageError(
            f"--out {out} holds a bundle: name a new folder, or replace the bundle (--force)"
        )


def detector_on_real(detector: YoloDetector, known: Sequence[Sample]) -> dict[str, Any] | None:
    """`box_figures` of the boxed real pictures among those held out; None where there are none."""
    boxed = [s for s in known if s.annotated and not s.simulated]
    if not boxed:
        return None
    return dict(
        to_plain(detection_metrics(match_regions(detector, boxed), [s.group for s in boxed]))
    )


@dataclass(frozen=True, slots=True)
class Calibrating:
    """What a calibration is fitted on, a picture a place: logits, truths, groups and views."""

    logits: Sequence[float]
    standard: Sequence[float]
    groups: Sequence[str]
    views: Sequence[View]

    def check(self) -> None:
        """Raises UsageError where no calibration can be fitted: it needs both classes, and logits
        that are finite."""
        if not np.isfinite(np.asarray(self.logits, float)).all():
            raise UsageError("SpatialCLIP gives no finite logits: its training failed")
        standard = sum(self.standard)
        if not 0 < standard < len(self.standard):
            raise UsageError(
                f"of {len(self.standard)} pictures of the views to calibrate on"
                f" {round(standard)} are standard: both classes are needed"
            )

    def with_unseen(self, rows: Sequence[Mapping[str, Any]]) -> "Calibrating":
        """The same with a cross-validation's out-of-fold rows in place of its own pictures of
        their views."""
        views = {View(row["view"]) for row in rows}
        own = [i for i, view in enumerate(self.views) if view not in views]
        return Calibrating(
            [self.logits[i] for i in own] + [row["logits"][ALL_BRANCHES] for row in rows],
            [self.standard[i] for i in own] + [float(row["standard"]) for row in rows],
            [self.groups[i] for i in own] + [row["group"] for row in rows],
            [self.views[i] for i in own] + [View(row["view"]) for row in rows],
        )


def read_cross_validation(folder: Path) -> dict[str, Any]:
    """What the manifest keeps of a cross-validation's figures; raises UsageError where the folder
    has none."""
    try:
        figures = json.loads((folder / "figures.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} holds no finished cross-validation: figures.json: {error}"
        ) from None
    kept = ("command", "folds", "seed", "set 2", "ablation", "gates", "fold 0, nested and not")
    return {
        "cross_validation": {
            **{name: figures[name] for name in (*kept, "looks left out") if name in figures},
            "detector": {name: figures["detector"][name] for name in ("map50", "ap50")},
            "sets": {
                name: {
                    "labels": each["labels"],
                    "view accuracy": each["views"]["accuracy"],
                    "detector mAP50": each["detector"]["map50"],
                    "mistakes": each["mistakes"],
                }
                for name, each in figures["sets"].items()
            },
        }
    }


def real_views(real: Iterable[View | None]) -> list[str]:
    """The views that occur often enough among those of real pictures to say that verdicts on real
    ones rest on evidence."""
    counts = Counter(real)
    return [view.value for view in View if view is not View.OTHER and counts[view] >= REAL_PICTURES]


def fit_view_threshold(probabilities: Any, views: Sequence[View]) -> float:
    """The probability that all but a few of the rightly named known views reach.

    Raises UsageError where none is named rightly."""
    right = [
        row.max()
        for row, view in zip(probabilities, views, strict=True)
        if view is not View.OTHER and VIEWS[row.argmax()] is view
    ]
    if not right:
        raise UsageError(
            f"SpatialCLIP names the view of none of {len(views)} pictures rightly:"
            " train it longer, or calibrate on pictures of the views it knows"
        )
    return float(np.quantile(right, 1 - KNOWN_VIEW_SHARE))


def fit_outlier(features: Any, views: Sequence[View], found: Any) -> tuple[OutlierModel, float]:
    """Fit on every second picture, set the threshold on the others; returns the share of the
    latter beyond it. Raises UsageError on fewer than FEWEST_KNOWN pictures."""
    if len(features) < FEWEST_KNOWN:
        raise UsageError(
            f"{len(features)} pictures of the views to calibrate on are too few:"
            f" give {FEWEST_KNOWN} at least"
        )
    even = np.arange(len(features)) % 2 == 0
    fitted = OutlierModel.fit(
        features[even], [v for v, e in zip(views, even, strict=True) if e], found[even]
    )
    scores = fitted.score_many(features[~even], found[~even])
    outlier = fitted.with_threshold(float(np.quantile(scores, KNOWN_SHARE)))
    return outlier, float(np.mean(scores > outlier.threshold))


def _strange_share(
    files: Sequence[Path],
    detector: YoloDetector,
    describer: Describer,
    network: SpatialClip,
    preprocessor: Preprocessor,
    outlier: OutlierModel,
    thresholds: Thresholds,
) -> float | None:
    """Share of the files' regions whose score is beyond the threshold; None without files."""
    crops = read_negatives(files)
    if not crops:
        return None
    scores = []
    for crop in crops:
        boxes = detector.detect([crop])[0]
        found = at_least(thresholds.detection, boxes)
        size = (crop.shape[1], crop.shape[0])
        inputs = preprocessor.batch(
            [preprocessor.letterbox(crop)],
            describer.describe_batch([found], [size]),
            [at_least(thresholds.layout, boxes)],
            [size],
        )
        with torch.inference_mode():
            image = network.trimodal_clip.encode_image(inputs.pixel_values)
        scores.append(
            outlier.score(image[0].double().numpy(), evidence([d.confidence for d in found]))
        )
    return float(np.mean(np.array(scores) > outlier.threshold))


def _criteria_samples(
    seen: Sequence[PreparedSample], shown: Sequence[tuple[Detection, ...]]
) -> list[CriteriaSample]:
    """The pictures whose criteria are known; real ones carry none."""
    return [
        CriteriaSample(
            item.sample.view or View.OTHER,
            boxes,
            read_region(item.sample)[0],
            item.sample.criteria,
        )
        for item, boxes in zip(seen, shown, strict=True)
        if item.sample.criteria
    ]
