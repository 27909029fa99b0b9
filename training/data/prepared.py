"""Samples as serving sees them: the detector's boxes, the describer's words, the letterboxed
picture; kept on disk, for they cost minutes and a run is begun more than once."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from detector.boxes import Detection, at_least
from detector.frame import Pixels
from detector.imaging import regions
from detector.yolo import flip, yolo
from model.describer.describer import Describer
from model.judge import Thresholds
from model.spatialclip.preprocess import Preprocessor
from training.data.regions import read_region
from training.data.samples import Sample, data_hash


class Sight(NamedTuple):
    """What SpatialCLIP is shown: `picture` letterboxed (S, S, 3) uint8, or a frozen stem's features
    (C, S / 32, S / 32) of it; words; boxes in pixels of a region of `size` (width, height)."""

    picture: npt.NDArray[Any]
    words: str
    detections: tuple[Detection, ...]
    size: tuple[int, int]


@dataclass(slots=True)
class Evidence:
    """A sample as serving sees it; `size` is (width, height) of the region that boxes refer to.

    Descriptions and detections come twice: as seen, and of the mirrored picture. Detections are
    those of the layout, weak ones among them. `sights` are made once by `training.sights`: the
    sample as it is, then varied ones; `copies` are the stem's features of it after JPEG.
    """

    picture: Pixels
    detections: tuple[tuple[Detection, ...], tuple[Detection, ...]]
    descriptions: tuple[str, str]
    size: tuple[int, int]
    sample: Sample
    sights: tuple[Sight, ...] = ()
    copies: tuple[npt.NDArray[Any], ...] = ()

    def as_seen(self) -> Sight:
        """The sample unvaried."""
        if self.sights:
            return self.sights[0]
        return Sight(self.picture, self.descriptions[0], self.detections[0], self.size)


def gather(
    samples: Sequence[Sample],
    detector: yolo.YoloDetector,
    describer: Describer,
    preprocessor: Preprocessor,
    *,
    thresholds: Thresholds,
    mirrored: bool = True,
    batch: int = 16,
) -> list[Evidence]:
    """Run the detector and the describer over the samples, with the thresholds of serving."""
    evidence: list[Evidence] = []
    for start in track(
        range(0, len(samples), batch), "detecting, describing", console=Console(stderr=True)
    ):
        chunk = samples[start : start + batch]
        crops = [read_region(sample)[0] for sample in chunk]
        found = [at_least(thresholds.layout, boxes) for boxes in detector.detect(crops)]
        shown = [at_least(thresholds.detection, boxes) for boxes in found]
        sizes = [(crop.shape[1], crop.shape[0]) for crop in crops]
        flipped = [flip.mirrored(boxes, size[0]) for boxes, size in zip(found, sizes, strict=True)]
        words = describer.describe_batch(shown, sizes)
        mirrored_words = (
            describer.describe_batch([at_least(thresholds.detection, f) for f in flipped], sizes)
            if mirrored
            else words
        )
        for i, sample in enumerate(chunk):
            evidence.append(
                Evidence(
                    preprocessor.letterbox(crops[i]),
                    (found[i], flipped[i]),
                    (words[i], mirrored_words[i]),
                    sizes[i],
                    sample,
                )
            )
    return evidence


def gathered(
    samples: Sequence[Sample],
    detector: Path,
    describer: Path,
    preprocessor: Preprocessor,
    cache: Path,
    *,
    thresholds: Thresholds,
    mirrored: bool = True,
) -> list[Evidence]:
    """`gather` with the models of these folders, or what it gave for the same inputs before."""
    key = hashlib.sha256(
        repr(
            (
                data_hash(samples),
                [path.read_bytes() for path in _deciding(detector, describer)],
                inspect.getsource(regions),
                preprocessor.size,
                (thresholds.detection, thresholds.layout),
                mirrored,
            )
        ).encode()
    ).hexdigest()[:16]
    pictures, facts = cache / f"evidence-{key}.npy", cache / f"evidence-{key}.json"
    if facts.is_file() and pictures.is_file():
        return _read(samples, np.load(pictures), json.loads(facts.read_text()))
    evidence = gather(
        samples,
        yolo.YoloDetector.load(detector),
        Describer.load(describer),
        preprocessor,
        thresholds=thresholds,
        mirrored=mirrored,
    )
    cache.mkdir(parents=True, exist_ok=True)
    np.save(pictures, np.stack([item.picture for item in evidence]))
    facts.write_text(
        json.dumps(
            [
                {
                    "detections": [[astuple(d) for d in found] for found in item.detections],
                    "descriptions": item.descriptions,
                    "size": item.size,
                }
                for item in evidence
            ]
        )
    )
    return evidence


def _deciding(detector: Path, describer: Path) -> tuple[Path, ...]:
    return (*(detector / name for name in yolo.FILES), describer / "model.safetensors")


def _read(samples: Sequence[Sample], pictures: Pixels, facts: list[Any]) -> list[Evidence]:
    return [
        Evidence(
            picture,
            tuple(  # type: ignore[arg-type]
                tuple(Detection(label, tuple(box), confidence) for label, box, confidence in found)
                for found in fact["detections"]
            ),
            tuple(fact["descriptions"]),  # type: ignore[arg-type]
            tuple(fact["size"]),  # type: ignore[arg-type]
            sample,
        )
        for sample, picture, fact in zip(samples, pictures, facts, strict=True)
    ]
