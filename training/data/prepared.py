"""Samples with the detector's boxes, the describer's sentences and letterboxed pictures, as in
serving; cached on disk, for they cost minutes and a run is begun more than once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from detector.boxes import Detection, filter_by_confidence
from detector.frame import Pixels
from detector.yolo import flip, yolo
from model.describer.describer import Describer
from model.judge import Thresholds
from model.spatialclip.preprocess import Preprocessor
from training.data.regions import REGION_VERSION, read_region
from training.data.samples import Sample, data_hash


class ModelInput(NamedTuple):
    """What SpatialCLIP reads of one picture.

    `picture` is letterboxed (S, S, 3) uint8, or a frozen backbone's features of it
    (C, S / 32, S / 32). Boxes are in pixels of a region of `size` (width, height).
    """

    picture: npt.NDArray[Any]
    description: str
    detections: tuple[Detection, ...]
    size: tuple[int, int]


@dataclass(slots=True)
class PreparedSample:
    """A sample with the detector's boxes and the describer's sentence, as in serving.

    `picture` is the letterboxed region (S, S, 3) uint8; `size` is (width, height) of the region
    that boxes refer to. Detections (all that the layout reads, weak ones among them) and
    descriptions come twice: of the picture, and of its mirror image. `augmented` are backbone
    features from `training.data.feature_cache`: of the picture itself, then of augmented ones;
    `jpeg_features` are those of its JPEG copies.
    """

    picture: Pixels
    detections: tuple[tuple[Detection, ...], tuple[Detection, ...]]
    descriptions: tuple[str, str]
    size: tuple[int, int]
    sample: Sample
    augmented: tuple[ModelInput, ...] = ()
    jpeg_features: tuple[npt.NDArray[Any], ...] = ()

    def unaugmented(self) -> ModelInput:
        """The sample as it is, by its cached features where it has some."""
        if self.augmented:
            return self.augmented[0]
        return ModelInput(self.picture, self.descriptions[0], self.detections[0], self.size)


def prepare(
    samples: Sequence[Sample],
    detector: yolo.YoloDetector,
    describer: Describer,
    preprocessor: Preprocessor,
    *,
    thresholds: Thresholds,
    mirrored: bool = True,
    batch: int = 16,
) -> list[PreparedSample]:
    """Run the detector and the describer over the samples, with the thresholds of serving.

    Without `mirrored`, the mirror image's description is that of the picture.
    """
    prepared: list[PreparedSample] = []
    for start in track(
        range(0, len(samples), batch), "detecting, describing", console=Console(stderr=True)
    ):
        chunk = samples[start : start + batch]
        crops = [read_region(sample)[0] for sample in chunk]
        sizes = [(crop.shape[1], crop.shape[0]) for crop in crops]
        detections = [
            filter_by_confidence(thresholds.layout, boxes) for boxes in detector.detect(crops)
        ]
        flipped = [
            flip.mirror_detections(boxes, size[0])
            for boxes, size in zip(detections, sizes, strict=True)
        ]
        descriptions = _describe(describer, detections, sizes, thresholds)
        mirrored_descriptions = (
            _describe(describer, flipped, sizes, thresholds) if mirrored else descriptions
        )
        for i, sample in enumerate(chunk):
            prepared.append(
                PreparedSample(
                    preprocessor.letterbox(crops[i]),
                    (detections[i], flipped[i]),
                    (descriptions[i], mirrored_descriptions[i]),
                    sizes[i],
                    sample,
                )
            )
    return prepared


def _describe(
    describer: Describer,
    detections: Sequence[Sequence[Detection]],
    sizes: Sequence[tuple[int, int]],
    thresholds: Thresholds,
) -> list[str]:
    """A sentence for each picture, from the boxes that are sure enough to be named."""
    return describer.describe_batch(
        [filter_by_confidence(thresholds.detection, boxes) for boxes in detections], sizes
    )


def prepare_cached(
    samples: Sequence[Sample],
    detector: Path,
    describer: Path,
    preprocessor: Preprocessor,
    cache: Path,
    *,
    thresholds: Thresholds,
    mirrored: bool = True,
) -> list[PreparedSample]:
    """`prepare` with the models of these folders, or what `cache` holds for the same inputs."""
    key = _cache_key(samples, detector, describer, preprocessor, thresholds, mirrored)
    # Files keep the names that earlier caches have.
    pictures, facts = cache / f"evidence-{key}.npy", cache / f"evidence-{key}.json"
    if facts.is_file() and pictures.is_file():
        return _load(samples, np.load(pictures), json.loads(facts.read_text()))
    prepared = prepare(
        samples,
        yolo.YoloDetector.load(detector),
        Describer.load(describer),
        preprocessor,
        thresholds=thresholds,
        mirrored=mirrored,
    )
    cache.mkdir(parents=True, exist_ok=True)
    np.save(pictures, np.stack([item.picture for item in prepared]))
    facts.write_text(
        json.dumps(
            [
                {
                    "detections": [[astuple(d) for d in boxes] for boxes in item.detections],
                    "descriptions": item.descriptions,
                    "size": item.size,
                }
                for item in prepared
            ]
        )
    )
    return prepared


def _cache_key(
    samples: Sequence[Sample],
    detector: Path,
    describer: Path,
    preprocessor: Preprocessor,
    thresholds: Thresholds,
    mirrored: bool,
) -> str:
    facts = (
        data_hash(samples),
        [sample.region for sample in samples],
        [path.read_bytes() for path in _weight_files(detector, describer)],
        f"regions {REGION_VERSION}",
        preprocessor.size,
        (thresholds.detection, thresholds.layout),
        mirrored,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _weight_files(detector: Path, describer: Path) -> tuple[Path, ...]:
    """The files that decide boxes and descriptions."""
    return (*(detector / name for name in yolo.FILES), describer / "model.safetensors")


def _load(samples: Sequence[Sample], pictures: Pixels, facts: list[Any]) -> list[PreparedSample]:
    return [
        PreparedSample(
            picture,
            tuple(  # type: ignore[arg-type]
                tuple(Detection(label, tuple(box), confidence) for label, box, confidence in boxes)
                for boxes in fact["detections"]
            ),
            tuple(fact["descriptions"]),  # type: ignore[arg-type]
            tuple(fact["size"]),  # type: ignore[arg-type]
            sample,
        )
        for sample, picture, fact in zip(samples, pictures, facts, strict=True)
    ]
