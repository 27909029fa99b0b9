"""Judges a frame: from each of its regions to view, verdict, probability, criteria and flags.

Of each region: detect, describe, fuse image, text and layout, calibrate, check the criteria, and
turn the verdict to "review" wherever the evidence is too weak for one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from detector.anatomy import BY_CODE, View
from detector.boxes import Detection, clip, filter_by_confidence
from detector.errors import Flag
from detector.frame import Frame, Pixels, Region
from detector.letterbox import Crop, crop
from detector.yolo.yolo import YoloDetector
from model.augment import augment
from model.biometry import is_beyond_first_trimester
from model.bundle.bundle import Bundle
from model.calibration import Calibration
from model.criteria import checks
from model.deletion import delete_each
from model.describer.describer import Describer
from model.device import choose_device
from model.finding import (
    NON_STANDARD,
    REVIEW,
    STANDARD,
    BundleId,
    Criterion,
    Judgement,
    Reason,
)
from model.image_features import ImageFeatures
from model.image_statistics import measure_image
from model.out_of_memory import in_batches
from model.outlier import OutlierModel, detector_evidence, is_coloured_everywhere
from model.parts.opinion import Opinion
from model.parts.part import Part
from model.reasons import judge_criteria, weightiest
from model.runtime.precision import EXACT
from model.runtime.runtime import TORCH, Runtime, cache_folder, choose_runtime
from model.site.use import SiteUse
from model.spatialclip.network import VIEWS, SpatialClip
from model.spatialclip.preprocess import Preprocessor

if TYPE_CHECKING:
    from model.parts.view_models import OpinionModel

LOW_RESOLUTION_PX = 200
"""A region with a shorter side than this many pixels cannot show a nuchal membrane."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of a verdict; chosen on validation data, stored in the bundle.

    `detection`: boxes below it are not shown, described or counted. `layout`: boxes below it do not
    reach SpatialCLIP's layout, which reads confidences and learns from weak boxes too. `view`: a
    view below this probability gets no verdict. `review`: calibrated probabilities inside it give
    none either.
    """

    detection: float = 0.25
    layout: float = 0.05
    view: float = 0.5
    review: tuple[float, float] = (0.4, 0.6)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Thresholds":
        low, high = data["review"]
        return cls(
            detection=float(data["detection"]),
            # Bundles made before there was one showed SpatialCLIP what they showed to people.
            layout=float(data.get("layout", data["detection"])),
            view=float(data["view"]),
            review=(float(low), float(high)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "detection": self.detection,
            "layout": self.layout,
            "view": self.view,
            "review": list(self.review),
        }


@dataclass(frozen=True, slots=True)
class RegionPrediction:
    """What the networks predict for one region, before any threshold on the verdict.

    `detections` are shown, described and counted; `layout` are those that SpatialCLIP reads.
    `features` (3, d) are those of image, text and layout, of unit length.
    """

    pixels: Pixels
    detections: tuple[Detection, ...]
    layout: tuple[Detection, ...]
    description: str
    logit: float
    views: dict[View, float]
    gates: tuple[float, float, float]
    outlier: float
    features: npt.NDArray[np.float64]


class Judge:
    """The loaded models of one bundle. Not thread-safe; one a process.

    The logits of `augment` augmented copies of each region are averaged with its own; n of them
    cost n times as much again. Views that were not learnt from real pictures (all but
    `real_views`) get a verdict in simulated ones only. `inexact_runtime`: the facts of what runs
    networks in another precision than float32; empty where none does.
    """

    def __init__(
        self,
        bundle_id: BundleId,
        detector: YoloDetector,
        describer: Describer,
        spatialclip: SpatialClip,
        preprocessor: Preprocessor,
        calibration: Calibration,
        outlier: OutlierModel,
        thresholds: Thresholds,
        criteria_thresholds: checks.CriteriaThresholds,
        augment: int = 0,
        real_views: Collection[View] = tuple(View),
        opinion_models: "Sequence[OpinionModel]" = (),
        inexact_runtime: str = "",
    ) -> None:
        self.bundle_id = bundle_id
        self.detector = detector
        self.describer = describer
        self.spatialclip = spatialclip.eval()
        self.preprocessor = preprocessor
        self.calibration = calibration
        self.outlier = outlier
        self.thresholds = thresholds
        self.criteria_thresholds = criteria_thresholds
        self.augment = augment
        self.real_views = frozenset(real_views)
        self.opinion_models = tuple(opinion_models)
        self.inexact_runtime = inexact_runtime

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        device: str = "auto",
        augment: int = 0,
        backbone: Part | None = None,
        opinion_parts: Mapping[str, Part] | None = None,
        runtime: str | Runtime = TORCH,
        precision: str = EXACT,
    ) -> "Judge":
        """Load all that a verified bundle has onto a device (see `choose_device`), its detector and
        image tower run by a runtime, or by that of a name and precision (see `choose_runtime`).

        `backbone`: the CLIP of a SpatialCLIP that was stored without it. `opinion_parts`: the part
        to ask, by role.

        Raises QCError on a part, a device, a runtime or a precision that cannot be used, UsageError
        on a name that is none.
        """
        torch_device = choose_device(device)
        detector = bundle.detector(torch_device)
        spatialclip = bundle.spatialclip(torch_device, backbone).eval()
        network_runtime = (
            choose_runtime(runtime, torch_device, cache_folder(), precision, bundle.manifest)
            if isinstance(runtime, str)
            else runtime
        )
        network_runtime.compile_networks(detector, spatialclip)
        return cls(
            bundle.id,
            detector,
            bundle.describer(),
            spatialclip,
            bundle.preprocessor(),
            bundle.calibration,
            bundle.outlier(),
            Thresholds.from_json(bundle.manifest["thresholds"]),
            checks.CriteriaThresholds.from_json(bundle.manifest["criteria"]),
            augment,
            bundle.real_views,
            _load_opinion_models(opinion_parts or {}, torch_device),
            "" if network_runtime.is_exact else network_runtime.facts,
        )

    def judge(self, frame: Frame, site: SiteUse | None = None) -> list[Judgement]:
        """One judgement per tissue region of the frame, its probability that of the site if one is
        given."""
        crops = [crop(frame, region) for region in frame.regions]
        regions = [each.pixels for each in crops]
        predictions = self.predict(regions)
        by_model = [each.opinions(frame.pixels, regions) for each in self.opinion_models]
        opinions: list[tuple[Opinion, ...]] = [
            tuple(of_model[index] for of_model in by_model) for index in range(len(regions))
        ]
        return [
            self.judgement(frame, region, tissue, prediction, site, of_region)
            for region, tissue, prediction, of_region in zip(
                frame.regions, crops, predictions, opinions, strict=True
            )
        ]

    def predict(self, regions: Sequence[Pixels]) -> list[RegionPrediction]:
        """Run the networks over regions' pixels (each (H, W, 3) uint8 RGB), all at once unless
        memory is not enough for that."""
        predictions = in_batches(self._predict, regions)
        if not self.augment:
            return predictions
        augmented = [
            in_batches(self._predict, [augment(pixels, number) for pixels in regions])
            for number in range(self.augment)
        ]
        return [average(each) for each in zip(predictions, *augmented, strict=True)]

    @torch.inference_mode()
    def _predict(self, regions: Sequence[Pixels]) -> list[RegionPrediction]:
        sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in regions]
        boxes = self.detector.detect(regions)
        detections = [filter_by_confidence(self.thresholds.detection, each) for each in boxes]
        layouts = [filter_by_confidence(self.thresholds.layout, each) for each in boxes]
        descriptions = self.describer.describe_batch(detections, sizes)
        inputs = self.preprocessor.batch(
            [self.preprocessor.letterbox(pixels) for pixels in regions],
            descriptions,
            layouts,
            sizes,
        ).to(self.spatialclip.device)
        output = self.spatialclip(**inputs.arguments())
        views = output.view_logits.double().softmax(-1).cpu().numpy()
        gates = output.gates.double().cpu().numpy()
        features = (
            torch.stack((output.image, output.text, output.spatial), 1).double().cpu().numpy()
        )
        predictions = []
        for i, pixels in enumerate(regions):
            evidence = detector_evidence([d.confidence for d in detections[i]])
            predictions.append(
                RegionPrediction(
                    pixels,
                    detections[i],
                    layouts[i],
                    descriptions[i],
                    float(output.logit[i]),
                    dict(zip(VIEWS, map(float, views[i]), strict=True)),
                    (float(gates[i, 0]), float(gates[i, 1]), float(gates[i, 2])),
                    self.outlier.score(features[i, 0], evidence),
                    features[i],
                )
            )
        return predictions

    def judgement(
        self,
        frame: Frame,
        region: Region,
        tissue: Crop,
        prediction: RegionPrediction,
        site: SiteUse | None = None,
        opinions: tuple[Opinion, ...] = (),
    ) -> Judgement:
        """The verdict on a region of the frame from the prediction for its crop, `tissue`.

        `opinions` are what other models say of its view: they turn the verdict to "review" where
        one stands for another view, and change nothing else.
        """
        view = likeliest_view(prediction.views)
        is_outlier = (
            prediction.outlier > self.outlier.threshold
            or Flag.NOT_ULTRASOUND in frame.flags
            or is_coloured_everywhere(prediction.pixels)
        )
        # A simulation teaches how an anatomy lies, not how every scanner shows it.
        lacks_real_evidence = not frame.simulated and view not in (View.OTHER, *self.real_views)
        # Of a profile or a trunk no skull is measured.
        is_beyond = view in (View.HEAD, View.OTHER) and is_beyond_first_trimester(
            prediction.detections, region.spacing_mm
        )
        has_disagreement = any(each.agrees_with(view) is False for each in opinions)
        probability = raw = site_facts = None
        quality = REVIEW
        if view is not View.OTHER:
            raw = float(1 / (1 + np.exp(-prediction.logit)))
            probability = bundle_probability = self.calibration.calibrate(prediction.logit, view)
            band = self.thresholds.review
            if site is not None:
                log_odds = self.calibration.log_odds(prediction.logit, view)
                probability = site.probability(log_odds, bundle_probability, view)
                band = site.review_band(band, view)
                site_facts = site.facts(view, bundle_probability)
            quality = _quality(
                probability,
                band,
                is_outlier
                or lacks_real_evidence
                or is_beyond
                or has_disagreement
                or not self._is_sure(view, prediction),
            )
        elif site is not None:
            site_facts = site.facts(view, None)
        quality, criteria, reasons = self._judge_criteria(
            view, quality, prediction, lacks_real_evidence=lacks_real_evidence
        )
        height, width = frame.pixels.shape[:2]
        flags = []
        if is_outlier:
            flags.append(Flag.OUT_OF_DISTRIBUTION)
        if lacks_real_evidence:
            flags.append(Flag.NO_REAL_EVIDENCE)
        if is_beyond:
            flags.append(Flag.BEYOND_FIRST_TRIMESTER)
        if site is not None and not site.is_commissioned(view):
            flags.append(Flag.NOT_COMMISSIONED)
        if has_disagreement:
            flags.append(Flag.VIEW_DISAGREEMENT)
        if min(prediction.pixels.shape[:2]) < LOW_RESOLUTION_PX:
            flags.append(Flag.LOW_RESOLUTION)
        flags.extend(frame.flags)
        return Judgement(
            region_index=region.index,
            region_bbox=region.bbox,
            view=view,
            view_probability=prediction.views[view],
            quality=quality,
            probability=probability,
            raw_probability=raw,
            gates=prediction.gates,
            detections=tuple(
                Detection(d.label, clip(tissue.to_image(d.bbox), width, height), d.confidence)
                for d in prediction.detections
            ),
            description=prediction.description,
            criteria=criteria,
            flags=tuple(flags),
            reasons=reasons,
            site=site_facts,
            opinions=opinions,
            features=ImageFeatures.of(
                measure_image(prediction.pixels, region.spacing_mm), prediction.features[0]
            ),
        )

    def _judge_criteria(
        self,
        view: View,
        quality: str,
        prediction: RegionPrediction,
        *,
        lacks_real_evidence: bool,
    ) -> tuple[str, tuple[Criterion, ...], tuple[Reason, ...]]:
        """The verdict, criteria and reasons, which do not contradict each other: a standard view
        fails no criterion and has no reason, and a non-standard one has at least one."""
        height, width = prediction.pixels.shape[:2]
        thresholds = self.criteria_thresholds
        measurements = checks.measure(
            view, prediction.detections, width, height, prediction.pixels, thresholds.detectable
        )
        quality, criteria, reasons = judge_criteria(
            view,
            quality,
            measurements,
            prediction.detections,
            prediction.layout,
            thresholds,
            lacks_real_evidence=lacks_real_evidence,
        )
        if quality == NON_STANDARD and not reasons:
            # Costs as much as judging the picture some times more, so only where it is needed.
            reasons = (self._weightiest(prediction),)
        return quality, criteria, reasons

    def _weightiest(self, prediction: RegionPrediction) -> Reason:
        return weightiest(
            delete_each(
                self.spatialclip,
                self.preprocessor,
                self.describer,
                prediction.pixels,
                prediction.detections,
                prediction.layout,
            )
        )

    def _is_sure(self, view: View, prediction: RegionPrediction) -> bool:
        """Whether the view is likely enough and at least one of its structures was detected."""
        has_structure = any(BY_CODE[d.label].view is view for d in prediction.detections)
        return has_structure and prediction.views[view] >= self.thresholds.view


def likeliest_view(probabilities: Mapping[View, float]) -> View:
    """The likeliest view; OTHER when it is likelier than all of them together."""
    if probabilities[View.OTHER] >= 0.5:
        return View.OTHER
    return max(set(probabilities) - {View.OTHER}, key=lambda view: (probabilities[view], view))


def _load_opinion_models(parts: Mapping[str, Part], device: torch.device) -> "list[OpinionModel]":
    if not parts:
        return []
    # The networks of other families, which most services do without.
    from model.parts.view_models import OpinionModel

    return [OpinionModel.load(role, part, device) for role, part in parts.items()]


def _quality(probability: float, band: tuple[float, float], unsure: bool) -> str:
    low, high = band
    if unsure or low < probability < high:
        return REVIEW
    return STANDARD if probability >= high else NON_STANDARD


def average(predictions: Sequence[RegionPrediction]) -> RegionPrediction:
    """The first prediction with the logits of quality and views, and the gates, averaged over all.

    Boxes, description, features and outlier score remain those of the first, which is the picture
    without augmentation.
    """
    names = list(predictions[0].views)
    # Log probabilities are the view logits, but for a constant that the normalisation takes away.
    tiny = np.finfo(float).tiny
    views = np.log(
        np.maximum([[prediction.views[v] for v in names] for prediction in predictions], tiny)
    ).mean(0)
    shares = np.exp(views - views.max())
    image, text, spatial = np.mean(
        [prediction.gates for prediction in predictions], axis=0
    ).tolist()
    return replace(
        predictions[0],
        logit=float(np.mean([prediction.logit for prediction in predictions])),
        views=dict(zip(names, (shares / shares.sum()).tolist(), strict=True)),
        gates=(image, text, spatial),
    )
