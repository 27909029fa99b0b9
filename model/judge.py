"""Judge a frame: boxes, words, view, quality, criteria, and how sure.

The story of one region: detect, describe, look at picture, words and layout together, calibrate,
check the criteria, and say "review" wherever the evidence does not carry a verdict.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detector.anatomy import BY_CODE, View
from detector.boxes import Detection, at_least, clip
from detector.errors import Flag
from detector.frame import Frame, Pixels, Region
from detector.letterbox import Crop, crop
from detector.yolo.yolo import YoloDetector
from model.augment import glance
from model.bundle.bundle import Bundle
from model.calibration import Calibration
from model.criteria import checks
from model.describer.describer import Describer
from model.device import choose_device
from model.finding import NON_STANDARD, REVIEW, STANDARD, BundleId, Judgement
from model.outlier import OutlierModel, evidence, is_coloured_everywhere
from model.spatialclip.network import VIEWS, SpatialClip
from model.spatialclip.preprocess import Preprocessor

LOW_RESOLUTION_PX = 200
"""A region with a shorter side than this many pixels cannot show a nuchal membrane."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where verdicts turn; chosen on validation data, kept in the bundle.

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
class Look:
    """What the networks say of one region, before any threshold on the verdict.

    `features` (3, d) are those of image, text and layout, of unit length.
    """

    pixels: Pixels
    detections: tuple[Detection, ...]
    description: str
    logit: float
    views: dict[View, float]
    gates: tuple[float, float, float]
    outlier: float
    features: npt.NDArray[np.float64]


class Judge:
    """The loaded models of one bundle. Not thread-safe; one a process.

    `augment` further looks are taken at each region and their logits averaged; with n of them a
    region costs 1 + n times as much. Views that were not learnt from real pictures (all but
    `real_views`) get a verdict in simulated ones only.
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

    @classmethod
    def open(cls, bundle: Bundle, device: str = "auto", augment: int = 0) -> "Judge":
        """Load every part of a verified bundle onto a device (see `choose_device`).

        Raises QCError on a part or a device that cannot be used, UsageError on no device's name.
        """
        chosen = choose_device(device)
        spatialclip = bundle.spatialclip(chosen)
        return cls(
            bundle.id,
            bundle.detector(chosen),
            bundle.describer(),
            spatialclip,
            bundle.preprocessor(),
            bundle.calibration,
            bundle.outlier(),
            Thresholds.from_json(bundle.manifest["thresholds"]),
            checks.CriteriaThresholds.from_json(bundle.manifest["criteria"]),
            augment,
            bundle.real_views,
        )

    def judge(self, frame: Frame) -> list[Judgement]:
        """One judgement per tissue region of the frame."""
        crops = [crop(frame, region) for region in frame.regions]
        looks = self.look([each.pixels for each in crops])
        return [
            self.judgement(frame, region, place, look)
            for region, place, look in zip(frame.regions, crops, looks, strict=True)
        ]

    def look(self, regions: Sequence[Pixels]) -> list[Look]:
        """Run the networks over regions' pixels (each (H, W, 3) uint8 RGB)."""
        looks = self._look(regions)
        if not self.augment:
            return looks
        further = [
            self._look([glance(pixels, number) for pixels in regions])
            for number in range(self.augment)
        ]
        return [averaged(each) for each in zip(looks, *further, strict=True)]

    @torch.inference_mode()
    def _look(self, regions: Sequence[Pixels]) -> list[Look]:
        sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in regions]
        boxes = self.detector.detect(regions)
        found = [at_least(self.thresholds.detection, each) for each in boxes]
        layouts = [at_least(self.thresholds.layout, each) for each in boxes]
        descriptions = self.describer.describe_batch(found, sizes)
        inputs = self.preprocessor.batch(
            [self.preprocessor.letterbox(pixels) for pixels in regions],
            descriptions,
            layouts,
            sizes,
        ).to(self.spatialclip.device)
        output = self.spatialclip(
            **{name: getattr(inputs, name) for name in type(inputs).__slots__}
        )
        views = output.view_logits.double().softmax(-1).cpu().numpy()
        gates = output.gates.double().cpu().numpy()
        features = (
            torch.stack((output.image, output.text, output.spatial), 1).double().cpu().numpy()
        )
        looks = []
        for i, pixels in enumerate(regions):
            confidence = evidence([d.confidence for d in found[i]])
            looks.append(
                Look(
                    pixels,
                    found[i],
                    descriptions[i],
                    float(output.logit[i]),
                    dict(zip(VIEWS, map(float, views[i]), strict=True)),
                    (float(gates[i, 0]), float(gates[i, 1]), float(gates[i, 2])),
                    self.outlier.score(features[i, 0], confidence),
                    features[i],
                )
            )
        return looks

    def judgement(self, frame: Frame, region: Region, place: Crop, look: Look) -> Judgement:
        """The verdict on a region of the frame, `place` its crop, from a look at that."""
        view = self._view(look)
        strange = (
            look.outlier > self.outlier.threshold
            or Flag.NOT_ULTRASOUND in frame.flags
            or is_coloured_everywhere(look.pixels)
        )
        # A simulation teaches how an anatomy lies, not how every scanner shows it.
        ungrounded = not frame.simulated and view not in (View.OTHER, *self.real_views)
        probability = raw = None
        quality = REVIEW
        if view is not View.OTHER:
            raw = float(1 / (1 + np.exp(-look.logit)))
            probability = self.calibration.calibrate(look.logit, view)
            quality = self._quality(
                probability, strange or ungrounded or not self._is_sure(view, look)
            )
        height, width = frame.pixels.shape[:2]
        flags = []
        if strange:
            flags.append(Flag.OUT_OF_DISTRIBUTION)
        if ungrounded:
            flags.append(Flag.NO_REAL_EVIDENCE)
        if min(look.pixels.shape[:2]) < LOW_RESOLUTION_PX:
            flags.append(Flag.LOW_RESOLUTION)
        flags.extend(frame.flags)
        return Judgement(
            region_index=region.index,
            region_bbox=region.bbox,
            view=view,
            view_probability=look.views[view],
            quality=quality,
            probability=probability,
            raw_probability=raw,
            gates=look.gates,
            detections=tuple(
                Detection(d.label, clip(place.to_image(d.bbox), width, height), d.confidence)
                for d in look.detections
            ),
            description=look.description,
            criteria=checks.judge(
                view,
                look.detections,
                look.pixels.shape[1],
                look.pixels.shape[0],
                look.pixels,
                region.spacing_mm,
                self.criteria_thresholds,
            ),
            flags=tuple(flags),
        )

    def _view(self, look: Look) -> View:
        """The likeliest view; OTHER when it is likelier than all of them together."""
        if look.views[View.OTHER] >= 0.5:
            return View.OTHER
        return max(set(look.views) - {View.OTHER}, key=lambda v: (look.views[v], v))

    def _is_sure(self, view: View, look: Look) -> bool:
        """Whether the view is likely enough and at least one of its structures was found."""
        supported = any(BY_CODE[d.label].view is view for d in look.detections)
        return supported and look.views[view] >= self.thresholds.view

    def _quality(self, probability: float, unsure: bool) -> str:
        low, high = self.thresholds.review
        if unsure or low < probability < high:
            return REVIEW
        return STANDARD if probability >= high else NON_STANDARD


def averaged(looks: Sequence[Look]) -> Look:
    """The first look, its logits, those of its views, and its gates averaged with the others'.

    Boxes, words, features and the outlier score stay the first one's: they are of the picture as
    it is.
    """
    names = list(looks[0].views)
    # Log probabilities are the view logits, but for a constant that the normalisation takes away.
    tiny = np.finfo(float).tiny
    views = np.log(np.maximum([[look.views[v] for v in names] for look in looks], tiny)).mean(0)
    shares = np.exp(views - views.max())
    image, text, spatial = np.mean([look.gates for look in looks], axis=0).tolist()
    return replace(
        looks[0],
        logit=float(np.mean([look.logit for look in looks])),
        views=dict(zip(names, (shares / shares.sum()).tolist(), strict=True)),
        gates=(image, text, spatial),
    )
