"""From trained parts to a bundle: calibration, thresholds, outlier score, criteria, card."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from detector.anatomy import View
from detector.boxes import Detection, filter_by_confidence
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
from model.calibration import Calibration, expected_calibration_error
from model.criteria.thresholds import CriteriaThresholds
from model.describer.describer import Describer
from model.judge import Thresholds
from model.outlier import OutlierModel, detector_evidence
from model.site import reference
from model.site.reference import Reference
from model.spatialclip.checkpoint import load_spatialclip, save_spatialclip
from model.spatialclip.network import VIEWS, SpatialClip
from model.spatialclip.preprocess import Preprocessor
from training.bundling.fit_criteria import CriteriaSample, fit, rates
from training.bundling.image_reference import image_reference
from training.bundling.model_card import model_card
from training.bundling.real_criteria import criteria_figures, fit_to_real, read_real_pictures
from training.crossval.folds import BOTH_CLASSES, VIEWS_FILE, load_predictions
from training.crossval.head_prior import head_log_odds, view_offset
from training.data.negatives import read_negatives
from training.data.prepared import PreparedSample, prepare
from training.data.regions import match_regions, read_region
from training.data.samples import Sample, count_samples, data_hash, file_hash
from training.evaluation.ablation import ALL_BRANCHES
from training.evaluation.metrics.detection import detection_metrics
from training.evaluation.select_calibration import select_calibration
from training.evaluation.summary import to_plain
from training.train import runs
from training.train.small_spatialclip import PICTURE_SIZE
from training.train.spatialclip import predict

KNOWN_SHARE = 0.99
"""Share of known pictures that the out-of-distribution threshold lets pass."""
REAL_PICTURES = 20
"""A view gives verdicts on real pictures where at least so many real ones calibrated it."""
MIN_VIEW_PICTURES = 8
"""Pictures of the views that the outlier score needs: half of them fit it, half set its threshold.
"""
KNOWN_VIEW_SHARE = 0.99
"""Share of the rightly predicted views that the view threshold lets pass."""


def make_bundle(
    out: Path,
    detector: Path,
    describer: Path,
    spatialclip: Path,
    samples: Sequence[Sample],
    other_organs: Sequence[Path],
    *,
    name: str,
    version: str,
    command: str,
    cross_validation: Path | None = None,
    notes: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Calibrate the trained parts, write them as a bundle to `out` and return its manifest.

    `samples` calibrate the probability and fit the thresholds, of criteria and outliers too: none
    of the parts should have learnt from them. `other_organs` are files that the outlier score is
    tried on. With the folder of a `cross_validation` of the same recipe, the views that it has real
    pictures of are calibrated on its out-of-fold predictions: many more than can be held out of the
    last training. `notes` stand among the limits in the model card. `force` replaces an existing
    bundle, once the new one is whole.

    Raises UsageError on runs that failed, on too few or too uniform pictures, and on parts that
    learnt nothing.
    """
    check_target(out, force=force)
    parts = {DETECTOR: detector, DESCRIBER: describer, SPATIALCLIP: spatialclip}
    runs_of = {part: runs.read_run(folder, part) for part, folder in parts.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    folds: dict[str, Any] = {}
    out_of_fold: list[dict[str, Any]] = []
    if cross_validation is not None:
        folds = read_cross_validation(cross_validation)
        out_of_fold = [r for r in load_predictions(cross_validation) if r["source"] == BOTH_CLASSES]
    _check_views(samples)
    thresholds = Thresholds()
    layout = runs_of[SPATIALCLIP].get("layout", thresholds.detection)
    thresholds = replace(thresholds, layout=layout)
    networks = Networks.load(detector, describer, spatialclip)
    log_odds = 0.0 if cross_validation is None else _head_log_odds(cross_validation)
    networks = networks.with_view_offset(view_offset(log_odds))
    prepared = prepare(
        samples,
        networks.detector,
        networks.describer,
        networks.preprocessor,
        thresholds=thresholds,
        mirrored=False,
    )
    outputs = predict(networks.spatialclip, prepared, networks.preprocessor)

    views = [item.sample.view or View.OTHER for item in prepared]
    has_view = np.array([view is not View.OTHER for view in views])
    known_views = [view for view in views if view is not View.OTHER]
    data = calibration_data(prepared, outputs.logit, out_of_fold)
    calibration, losses = select_calibration(data.logits, data.standard, data.groups, data.views)
    calibrated = calibration.calibrate_many(data.logits, data.views)

    detections = [
        filter_by_confidence(thresholds.detection, item.detections[0]) for item in prepared
    ]
    sums = np.array([detector_evidence([d.confidence for d in boxes]) for boxes in detections])
    thresholds = replace(thresholds, view=fit_view_threshold(outputs.views, views))
    outlier, beyond = fit_outlier(outputs.image[has_view], known_views, sums[has_view])
    with_criteria = _criteria_samples(prepared, detections)
    labels = networks.detector.labels
    criteria = fit(with_criteria, CriteriaThresholds(detectable=frozenset(labels)))
    on_real = None
    if cross_validation is not None:
        on_real = criteria_figures(cross_validation, criteria)
        criteria = fit_to_real(criteria, read_real_pictures(cross_validation))
    learnt_from = _count_learnt(samples, (detector, spatialclip))
    metrics = {
        "calibration pictures": len(data.logits),
        "expected calibration error (fitted on these pictures)": expected_calibration_error(
            calibrated, np.array(data.standard)
        ),
        "calibration": losses,
        "detector on real pictures": detector_on_real(networks.detector, samples),
        "view accuracy": float(
            np.mean([VIEWS[k] is v for k, v in zip(outputs.views.argmax(1), views, strict=True)])
        ),
        "known pictures beyond the outlier threshold": beyond,
        "other ultrasound (tuning half) beyond it": _outlier_share(
            other_organs, networks, outlier, thresholds
        ),
        "criteria": [asdict(rate) for rate in rates(with_criteria, criteria)],
        **({} if on_real is None else {"criteria on real pictures": to_plain(on_real)}),
    }
    facts = {
        "name": name,
        "version": version,
        "vocabulary": list(labels),
        "views": [view.value for view in VIEWS],
        "thresholds": thresholds.to_json(),
        "criteria": criteria.to_json(),
        "calibration": calibration.to_json(),
        **_reference(data, calibration, out_of_fold),
        **image_reference([item.sample for item in prepared], outputs.image, REAL_PICTURES),
        "real_views": real_views(
            [item.sample.view for item in prepared if not item.sample.simulated]
            + [View(row["view"]) for row in out_of_fold]
        ),
        "preprocessing": {
            "detector size": networks.detector.size,
            "picture size": PICTURE_SIZE,
            "fill": 128,
            "region": "ultrasound region, aspect kept",
            "mirror images too": networks.mirrored,
        },
        "view prior": {"log odds of HEAD": log_odds},
        "training": {
            **runs_of,
            "calibration": {
                "command": command,
                "sha256": data_hash([item.sample for item in prepared]),
                "data": count_samples([item.sample for item in prepared]),
                "criteria data": count_samples([i.sample for i in prepared if i.sample.criteria]),
                "other ultrasound files": len(other_organs),
                "learnt from": learnt_from,
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
        corrected = networks.save_spatialclip(spatialclip, Path(scratch) / "spatialclip")
        build(detector, describer, corrected, new, name=name, version=version, facts=facts)
        outlier.save(new / OUTLIER)
        (new / CARD).write_text(model_card(facts), encoding="utf-8")
        write_manifest(new, facts)
        _replace(out, new, Path(scratch) / "old", force=force)
    return facts


@dataclass(frozen=True, slots=True)
class Networks:
    """The trained parts, loaded."""

    detector: YoloDetector
    describer: Describer
    spatialclip: SpatialClip
    preprocessor: Preprocessor

    @classmethod
    def load(cls, detector: Path, describer: Path, spatialclip: Path) -> Self:
        """Those in the folders of their runs."""
        return cls(
            YoloDetector.load(detector),
            Describer.load(describer),
            load_spatialclip(spatialclip),
            Preprocessor.load(spatialclip, PICTURE_SIZE),
        )

    def with_view_offset(self, offset: tuple[float, ...]) -> Self:
        """The same parts, with this offset of SpatialCLIP's view logits."""
        network = SpatialClip(replace(self.spatialclip.config, view_offset=offset))
        network.load_state_dict(self.spatialclip.state_dict())
        return replace(self, spatialclip=network.eval())

    def save_spatialclip(self, run: Path, out: Path) -> Path:
        """The folder `out`, with the run's tokenizer and SpatialCLIP as it is here."""
        shutil.copytree(run, out, ignore=shutil.ignore_patterns(runs.CHECKPOINT, "tensorboard"))
        save_spatialclip(out, self.spatialclip)
        return out

    @property
    def mirrored(self) -> list[str]:
        """The parts that see the mirror image too."""
        flags = {
            DETECTOR: self.detector.mirrored,
            SPATIALCLIP: self.spatialclip.config.mirrored,
        }
        return [part for part, is_mirrored in flags.items() if is_mirrored]


def _head_log_odds(cross_validation: Path) -> float:
    """The prior of HEAD that fits the heads of all folds; 0 where it judged no such pictures."""
    try:
        return head_log_odds(load_predictions(cross_validation, VIEWS_FILE))
    except FileNotFoundError:
        return 0.0


def _check_views(samples: Sequence[Sample]) -> None:
    """Raises UsageError where a sample has no view: it can calibrate none."""
    unnamed = [sample for sample in samples if sample.view is None]
    if unnamed:
        raise UsageError(
            f"{len(unnamed)} samples to calibrate on name no view, the first is"
            f" {unnamed[0].location}: write their view, one of {', '.join(View)}"
        )


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


def _count_learnt(samples: Sequence[Sample], parts: Sequence[Path]) -> int | None:
    """How many of the samples a part learnt from, with a warning on standard error; None where none
    is known and a run does not record its pictures."""
    by_part = [runs.learnt_pictures(folder) for folder in parts]
    learnt = set().union(*(pictures or () for pictures in by_part))
    count = sum(file_hash(sample.image) in learnt for sample in samples)
    if count:
        Console(stderr=True).print(
            f"warning: a part learnt from {count} of the {len(samples)} pictures to calibrate on:"
            " give pictures that were held out",
            soft_wrap=True,
        )
    return None if not count and None in by_part else count


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


def detector_on_real(detector: YoloDetector, samples: Sequence[Sample]) -> dict[str, Any] | None:
    """`detection_metrics` on the boxed real pictures among the samples; None without any."""
    boxed = [s for s in samples if s.annotated and not s.simulated]
    if not boxed:
        return None
    return dict(
        to_plain(detection_metrics(match_regions(detector, boxed), [s.group for s in boxed]))
    )


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """What a calibration is fitted on, all of N pictures: logits, truths, groups and views."""

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

    def with_out_of_fold(self, rows: Sequence[Mapping[str, Any]]) -> "CalibrationData":
        """The data with a cross-validation's out-of-fold rows in place of its own pictures of
        their views."""
        views = {View(row["view"]) for row in rows}
        own = [i for i, view in enumerate(self.views) if view not in views]
        return CalibrationData(
            [self.logits[i] for i in own] + [row["logits"][ALL_BRANCHES] for row in rows],
            [self.standard[i] for i in own] + [float(row["standard"]) for row in rows],
            [self.groups[i] for i in own] + [row["group"] for row in rows],
            [self.views[i] for i in own] + [View(row["view"]) for row in rows],
        )


def calibration_data(
    items: Sequence[PreparedSample],
    logits: npt.NDArray[np.float64],
    out_of_fold: Sequence[Mapping[str, Any]],
) -> CalibrationData:
    """The items that show a view, with their (N,) logits; of views that a cross-validation has rows
    of, these instead. Raises UsageError where no calibration can be fitted."""
    rows = [i for i, item in enumerate(items) if item.sample.view not in (None, View.OTHER)]
    data = CalibrationData(
        [float(logits[i]) for i in rows],
        [float(items[i].sample.is_standard) for i in rows],
        [items[i].sample.group for i in rows],
        [items[i].sample.view or View.OTHER for i in rows],
    )
    if out_of_fold:
        data = data.with_out_of_fold(out_of_fold)
    data.check()
    return data


def _reference(
    data: CalibrationData, calibration: Calibration, out_of_fold: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Where the calibrated log odds of each class lie, of the pictures judged out of fold: what
    site calibration compares another hospital with. Empty without such pictures."""
    views = {row["view"] for row in out_of_fold}
    rows = [i for i, view in enumerate(data.views) if view in views]
    if not rows:
        return {}
    log_odds = [calibration.log_odds(data.logits[i], data.views[i]) for i in rows]
    return {reference.KEY: Reference.measure(log_odds, [data.standard[i] for i in rows])}


def read_cross_validation(folder: Path) -> dict[str, Any]:
    """What the manifest keeps of a cross-validation's figures; raises UsageError where the folder
    has none."""
    try:
        figures = json.loads((folder / "figures.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} holds no finished cross-validation: figures.json: {error}"
        ) from None
    names = (
        *("command", "folds", "seed", "set 2", "ablation", "gates", "fold 0, nested and not"),
        *("looks left out", "views of unlabelled pictures"),
    )
    unlabelled = figures["detector"].get("unlabelled", {})
    return {
        "cross_validation": {
            **{name: figures[name] for name in names if name in figures},
            "detector": {name: figures["detector"][name] for name in ("map50", "ap50")}
            | {
                "unlabelled": {
                    name: {key: each[key] for key in ("map50", "ap50", "boxes")}
                    for name, each in unlabelled.items()
                }
            },
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


def real_views(views: Iterable[View | None]) -> list[str]:
    """Of the views of real pictures, those that are frequent enough for verdicts on real ones."""
    by_view = Counter(views)
    return [
        view.value for view in View if view is not View.OTHER and by_view[view] >= REAL_PICTURES
    ]


def fit_view_threshold(probabilities: Any, views: Sequence[View]) -> float:
    """The probability that all but a few of the rightly predicted views reach.

    Raises UsageError where none is named rightly."""
    confident = [
        row.max()
        for row, view in zip(probabilities, views, strict=True)
        if view is not View.OTHER and VIEWS[row.argmax()] is view
    ]
    if not confident:
        raise UsageError(
            f"SpatialCLIP names the view of none of {len(views)} pictures rightly:"
            " train it longer, or calibrate on pictures of the views it knows"
        )
    return float(np.quantile(confident, 1 - KNOWN_VIEW_SHARE))


def fit_outlier(
    features: Any, views: Sequence[View], confidences: Any
) -> tuple[OutlierModel, float]:
    """The outlier model, fitted on every second of N pictures, its threshold set on the others; and
    the share of these beyond it.

    `features` (N, d) are of the image, `confidences` (N,) sums over the boxes. Raises
    UsageError on fewer than MIN_VIEW_PICTURES pictures.
    """
    if len(features) < MIN_VIEW_PICTURES:
        raise UsageError(
            f"{len(features)} pictures of the views to calibrate on are too few:"
            f" give {MIN_VIEW_PICTURES} at least"
        )
    even = np.arange(len(features)) % 2 == 0
    fitted = OutlierModel.fit(
        features[even], [v for v, e in zip(views, even, strict=True) if e], confidences[even]
    )
    scores = fitted.score_many(features[~even], confidences[~even])
    outlier = fitted.with_threshold(float(np.quantile(scores, KNOWN_SHARE)))
    return outlier, float(np.mean(scores > outlier.threshold))


def _outlier_share(
    files: Sequence[Path],
    networks: Networks,
    outlier: OutlierModel,
    thresholds: Thresholds,
) -> float | None:
    """Share of the files' regions whose score is beyond the threshold; None without files."""
    crops = read_negatives(files)
    if not crops:
        return None
    scores = []
    for crop in crops:
        boxes = networks.detector.detect([crop])[0]
        detections = filter_by_confidence(thresholds.detection, boxes)
        size = (crop.shape[1], crop.shape[0])
        inputs = networks.preprocessor.batch(
            [networks.preprocessor.letterbox(crop)],
            networks.describer.describe_batch([detections], [size]),
            [filter_by_confidence(thresholds.layout, boxes)],
            [size],
        )
        with torch.inference_mode():
            image = networks.spatialclip.trimodal_clip.encode_image(inputs.pixel_values)
        scores.append(
            outlier.score(
                image[0].double().numpy(), detector_evidence([d.confidence for d in detections])
            )
        )
    return float(np.mean(np.array(scores) > outlier.threshold))


def _criteria_samples(
    prepared: Sequence[PreparedSample], detections: Sequence[tuple[Detection, ...]]
) -> list[CriteriaSample]:
    """The samples whose criteria are known, with their boxes; real ones have none."""
    return [
        CriteriaSample(
            item.sample.view or View.OTHER,
            boxes,
            read_region(item.sample)[0],
            item.sample.criteria,
        )
        for item, boxes in zip(prepared, detections, strict=True)
        if item.sample.criteria
    ]
