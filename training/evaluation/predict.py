"""Labelled pictures, and what a bundle says of them: judged as serving judges."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from rich.console import Console
from rich.progress import track

from detector.anatomy import BY_CODE, View
from detector.boxes import Detection
from detector.frame import Frame, Pixels, Region
from detector.letterbox import Crop, crop
from model.judge import Judge, RegionPrediction
from training.data.regions import read_region
from training.data.samples import Sample
from training.data.styles import cluster_styles, style_features
from training.evaluation.ablation import ablate
from training.evaluation.metrics.detection import match_boxes
from training.evaluation.record import CHANCE, EvaluatedSample
from training.phantom import Phantom, make

_BATCH = 16
# Average precision takes boxes of low confidence too.
_MIN_CONFIDENCE = 0.001


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """The tissue region (H, W, 3) uint8 RGB and what is true of it; boxes in its pixels.

    Otherwise as `training.data.samples.Sample`; real pictures have the style of their scanner.
    """

    name: str
    pixels: Pixels
    boxes: Sequence[Detection]
    annotated: frozenset[str]
    view: View | None
    standard: bool
    group: str
    source: str
    criteria: Mapping[str, bool]
    defects: tuple[str, ...] = ()
    spacing_mm: float | None = None
    is_real: bool = True

    @classmethod
    def of_sample(cls, sample: Sample) -> "LabelledPicture":
        """Raises QCError on a file that no decoder reads."""
        pixels, boxes = read_region(sample)
        return cls(
            sample.image.name,
            pixels,
            boxes,
            sample.annotated,
            sample.view,
            sample.is_standard,
            sample.group,
            sample.source,
            sample.criteria,
            sample.defects,
            sample.spacing_mm,
            is_real=not sample.simulated,
        )

    @classmethod
    def of_phantom(cls, phantom: Phantom) -> "LabelledPicture":
        region = crop(Frame(1, phantom.pixels, ()), Region(0, phantom.region))
        return cls(
            f"phantom {phantom.seed}",
            region.pixels,
            [Detection(code, region.to_crop(box), 1.0) for code, box in phantom.boxes],
            frozenset(BY_CODE),
            phantom.view,
            phantom.standard,
            f"phantom {phantom.seed}",
            "phantoms",
            phantom.criteria,
            tuple(defect.value for defect in phantom.defects),
            phantom.spacing_mm,
            is_real=False,
        )


def load_pictures(samples: Sequence[Sample]) -> Iterator[LabelledPicture]:
    """The samples' pictures, each read when it is asked for."""
    for sample in track(samples, "judging pictures", console=Console(stderr=True)):
        yield LabelledPicture.of_sample(sample)


def make_phantoms(count: int, seed: int) -> Iterator[LabelledPicture]:
    """The phantoms of the seeds from `seed` on, each made when it is asked for."""
    for number in track(range(count), "judging phantoms", console=Console(stderr=True)):
        yield LabelledPicture.of_phantom(make(seed + number))


def judge_pictures(judge: Judge, pictures: Iterable[LabelledPicture]) -> list[EvaluatedSample]:
    """The evaluated samples of the pictures, in order."""
    remaining = iter(pictures)
    evaluated: list[EvaluatedSample] = []
    while chunk := list(islice(remaining, _BATCH)):
        evaluated += _judge_batch(judge, chunk)
    return evaluated


def assign_styles(
    samples: Sequence[EvaluatedSample],
) -> tuple[list[EvaluatedSample], float | None]:
    """The samples with the style of each real one, and the silhouette of all styles."""
    real = [sample.style_features for sample in samples if sample.style_features is not None]
    names, separation = cluster_styles(real)
    name = iter(names)
    return [
        sample if sample.style_features is None else replace(sample, style=next(name))
        for sample in samples
    ], separation


def _judge_batch(judge: Judge, pictures: Sequence[LabelledPicture]) -> list[EvaluatedSample]:
    predictions = judge.predict([picture.pixels for picture in pictures])
    ablations = ablate(judge.spatialclip, np.stack([each.features for each in predictions]))
    boxed = [picture.pixels for picture in pictures if picture.annotated]
    detections = iter(judge.detector.detect(boxed, confidence=_MIN_CONFIDENCE))
    return [
        _evaluate(judge, picture, prediction, logits, next(detections) if picture.annotated else ())
        for picture, prediction, logits in zip(pictures, predictions, ablations, strict=True)
    ]


def _evaluate(
    judge: Judge,
    picture: LabelledPicture,
    prediction: RegionPrediction,
    logits: Mapping[str, float],
    detections: Sequence[Detection],
) -> EvaluatedSample:
    height, width = picture.pixels.shape[:2]
    spacing = None if picture.spacing_mm is None else (picture.spacing_mm, picture.spacing_mm)
    region = Region(0, (0, 0, width, height), spacing)
    frame = Frame(1, picture.pixels, (region,), simulated=not picture.is_real)
    judgement = judge.judgement(frame, region, Crop(picture.pixels, 0, 0), prediction)
    has_view = judgement.view is not View.OTHER
    return EvaluatedSample(
        picture=picture.name,
        group=picture.group,
        source=picture.source,
        view=picture.view,
        standard=picture.standard,
        predicted_view=judgement.view,
        probability=judgement.probability,
        label=judgement.quality,
        gates=judgement.gates,
        criteria=picture.criteria,
        defects=picture.defects,
        criteria_outcomes=judgement.criteria,
        reasons=judgement.reasons,
        flags=tuple(flag.value for flag in judgement.flags),
        description=judgement.description,
        features=prediction.features,
        ablated_probabilities={
            name: judge.calibration.calibrate(logit, judgement.view) if has_view else CHANCE
            for name, logit in logits.items()
        },
        matches=match_boxes(detections, picture.boxes, picture.annotated),
        style_features=style_features(picture.pixels) if picture.is_real else None,
    )
