"""SpatialCLIP samples: one picture, its class, its boxes; read strictly from JSON."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.detection import Box, Detection
from detector.vocabulary import BY_CODE, View


class SampleError(Exception):
    """Bad samples; the message names each by its index."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A training picture.

    `annotated` lists the label codes whose absence among `boxes` means "not in the picture"; a
    structure outside it is unknown, not negative. `group` ties near-duplicates and frames of one
    exam, which must not be split. `region` is the tissue part, None: the whole picture.
    """

    image: Path
    standard: bool
    boxes: tuple[Detection, ...] = ()
    annotated: frozenset[str] = frozenset()
    view: View | None = None
    description: str = ""
    criteria: dict[str, bool] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    region: Box | None = None
    spacing_mm: float | None = None
    group: str = ""
    source: str = ""

    @property
    def simulated(self) -> bool:
        return not self.source.startswith("set")


def read_samples(path: Path) -> list[Sample]:
    """Samples of a SpatialCLIP JSON file; image paths resolve from its folder.

    Raises SampleError naming every bad sample's index, never a blank in its place.
    """
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SampleError(f"{path}: {error}") from None
    if not isinstance(items, list):
        raise SampleError(f"{path}: a list of samples is expected")
    samples: list[Sample] = []
    problems: list[str] = []
    for index, item in enumerate(items):
        try:
            samples.append(_sample(item, path))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{index}: {error!s}")
    if problems:
        raise SampleError(f"{path}: {len(problems)} bad samples: " + "; ".join(problems[:20]))
    return samples


def _sample(item: dict[str, Any], path: Path) -> Sample:
    label = item["class_label"]
    if label not in ("standard", "non-standard"):
        raise ValueError(f"class_label {label!r} is neither standard nor non-standard")
    image = path.parent / item["image_path"]
    if not image.is_file():
        raise ValueError(f"no file {item['image_path']}")
    if not isinstance(item["description"], str):
        raise ValueError("description is no text")
    return Sample(
        image=image,
        standard=label == "standard",
        boxes=tuple(_box(box) for box in item["coordinates"]),
        annotated=frozenset(BY_CODE),
        view=View(item["view"]) if "view" in item else None,
        description=item["description"],
        criteria=dict(item.get("criteria", {})),
        defects=tuple(item.get("defects", ())),
        region=_region(item.get("region")),
        spacing_mm=item.get("spacing_mm"),
        group=item.get("group") or f"{path.parent.name}/{item.get('exam', item['image_path'])}",
        source=path.parent.name,
    )


def _box(box: dict[str, Any]) -> Detection:
    x0, y0, x1, y1 = (float(v) for v in box["bbox"])
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"bbox {box['bbox']} has no area")
    confidence = float(box["confidence"])
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence {confidence} is outside 0..1")
    code = box["label"] if box["label"] in BY_CODE else "UNKNOWN"
    return Detection(code, (x0, y0, x1, y1), confidence)


def _region(value: Any) -> Box | None:
    if value is None:
        return None
    x0, y0, x1, y1 = (float(v) for v in value)
    return (x0, y0, x1, y1)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 over the samples' pictures and truths, for the bundle's manifest."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.image.read_bytes())
        digest.update(repr((sample.standard, sample.boxes, sample.view)).encode())
    return digest.hexdigest()
