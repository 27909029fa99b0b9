"""Labelled pictures, and a bundle's verdicts on them: judged as serving judges."""

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
from training.evaluation.detection import match
from training.evaluation.record import CHANCE, Verdict
from training.phantom import Phantom, make

_BATCH = 16
# Average precision looks at the unsure boxes too.
_LEAST_CONFIDENCE = 0.001


@dataclass(frozen=True, slots=True)
class Picture:
    """The tissue region (H, W, 3) uint8 RGB and what is true of it; boxes in its pixels.

    Otherwise as `training.samples.Sample`; `real` pictures have a scanner's look.
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
    real: bool = True

    @classmethod
    def of_sample(cls, sample: Sample) -> "Picture":
        """Raises QCError on a file that no decoder reads."""
        pixels, boxes = read_region(sample)
        return cls(
            sample.image.name,
            pixels,
            boxes,
            sample.annotated,
            sample.view,
            sample.standard,
            sample.group,
            sample.source,
            sample.criteria,
            sample.defects,
            sample.spacing_mm,
            real=not sample.simulated,
        )

    @classmethod
    def of_phantom(cls, phantom: Phantom) -> "Picture":
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
            real=False,
        )


def samples(found: Sequence[Sample]) -> Iterator[Picture]:
    """The samples' pictures, read as they are needed."""
    for sample in track(found, "judging pictures", console=Console(stderr=True)):
        yield Picture.of_sample(sample)


def phantoms(count: int, seed: int) -> Iterator[Picture]:
    """The phantoms of the seeds from `seed` on, made as they are needed."""
    for number in track(range(count), "judging phantoms", console=Console(stderr=True)):
        yield Picture.of_phantom(make(seed + number))


def judge_pictures(judge: Judge, pictures: Iterable[Picture]) -> list[Verdict]:
    """A verdict for each picture, in order."""
    rest = iter(pictures)
    verdicts: list[Verdict] = []
    while chunk := list(islice(rest, _BATCH)):
        verdicts += _judged(judge, chunk)
    return verdicts


def with_looks(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], float | None]:
    """The verdicts with the scanner's look of each real picture, and how well looks separate."""
    real = [verdict.appearance for verdict in verdicts if verdict.appearance is not None]
    names, separation = cluster_styles(real)
    name = iter(names)
    return [
        verdict if verdict.appearance is None else replace(verdict, look=next(name))
        for verdict in verdicts
    ], separation


def _judged(judge: Judge, pictures: Sequence[Picture]) -> list[Verdict]:
    seen = judge.predict([picture.pixels for picture in pictures])
    ablations = ablate(judge.spatialclip, np.stack([look.features for look in seen]))
    boxed = [picture.pixels for picture in pictures if picture.annotated]
    found = iter(judge.detector.detect(boxed, confidence=_LEAST_CONFIDENCE))
    return [
        _verdict(judge, picture, look, logits, next(found) if picture.annotated else ())
        for picture, look, logits in zip(pictures, seen, ablations, strict=True)
    ]


def _verdict(
    judge: Judge,
    picture: Picture,
    look: RegionPrediction,
    logits: Mapping[str, float],
    found: Sequence[Detection],
) -> Verdict:
    height, width = picture.pixels.shape[:2]
    spacing = None if picture.spacing_mm is None else (picture.spacing_mm, picture.spacing_mm)
    region = Region(0, (0, 0, width, height), spacing)
    frame = Frame(1, picture.pixels, (region,), simulated=not picture.real)
    said = judge.judgement(frame, region, Crop(picture.pixels, 0, 0), look)
    decided = said.view is not View.OTHER
    return Verdict(
        picture=picture.name,
        group=picture.group,
        source=picture.source,
        view=picture.view,
        standard=picture.standard,
        named=said.view,
        probability=said.probability,
        label=said.quality,
        gates=said.gates,
        criteria=picture.criteria,
        defects=picture.defects,
        outcomes=said.criteria,
        flags=tuple(flag.value for flag in said.flags),
        words=said.description,
        features=look.features,
        ablated={
            name: judge.calibration.calibrate(logit, said.view) if decided else CHANCE
            for name, logit in logits.items()
        },
        matches=match(found, picture.boxes, picture.annotated),
        appearance=style_features(picture.pixels) if picture.real else None,
    )
