"""SpatialCLIP samples: one picture, its class, its boxes; read strictly from JSON."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import Image

from detector.anatomy import BY_CODE, View
from detector.boxes import Box, Detection

UNKNOWN = "UNKNOWN"
"""The label of a box whose structure is none of the vocabulary's."""
LEAST_SIDE = 32
"""Pixels of the shorter side of a picture that can be learnt from: a network's coarsest stride."""
BORDER_TOLERANCE = 1.0
"""A box may reach this many pixels beyond the picture, from rounding; it is clipped there."""
_MOST_NAMED = 20
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF 2.32, 4.6.4


class Origin(StrEnum):
    """Where a picture's pixels come from: a scanner, or a program.

    What a program makes out of a scanner's pixels, as shuffled tiles, is simulated.
    """

    REAL = "real"
    SIMULATED = "simulated"


class SampleError(Exception):
    """Bad samples; the message names each by its file and index."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A training picture.

    `annotated` lists the label codes whose absence among `boxes` means "not in the picture"; a
    structure outside it is unknown, not negative. `group` ties near-duplicates and frames of one
    exam, which must not be split. `region` is the tissue part, None: the whole picture. `source` is
    the set that figures are told for; `dataset` and `hospital`, where the file names them, say
    where the set comes from. `place` names the sample in messages.
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
    origin: Origin = field(kw_only=True)
    dataset: str = ""
    hospital: str = ""
    place: str = ""

    @property
    def simulated(self) -> bool:
        return self.origin is Origin.SIMULATED


def read_samples(path: Path, origin: Origin | None = None) -> list[Sample]:
    """Samples of a SpatialCLIP JSON file; image paths resolve from its folder.

    `origin` is of the samples that name none: whether a picture is real decides what a bundle may
    say of real ones, so that nothing is guessed. Raises SampleError naming every bad sample's
    index, never a blank in its place.
    """
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SampleError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path} is no JSON: {_line(error)}") from None
    if not isinstance(items, list):
        raise SampleError(f"{path}: a list of samples is expected")
    if not items:
        raise SampleError(f"{path}: the list of samples is empty")
    samples: list[Sample] = []
    problems: list[tuple[int, str]] = []
    for index, item in enumerate(items):
        try:
            samples.append(_sample(item, index, path, origin))
        except (TypeError, ValueError, OverflowError) as error:
            problems.append((index, _line(error)))
    if not problems:
        problems = _twice(samples)
    if problems:
        raise SampleError(f"{path}: {len(problems)} bad samples: {_listed(problems)}")
    return samples


def _listed(problems: Sequence[tuple[int, str]]) -> str:
    """The problems, each once with the indices of the samples that have it."""
    indices: dict[str, list[int]] = {}
    for index, problem in problems:
        indices.setdefault(problem, []).append(index)
    parts = []
    for problem, of in list(indices.items())[:_MOST_NAMED]:
        more = f" and {len(of) - _MOST_NAMED} more" if len(of) > _MOST_NAMED else ""
        parts.append(f"{', '.join(map(str, of[:_MOST_NAMED]))}{more}: {problem}")
    return "; ".join(parts)


def _twice(samples: Sequence[Sample]) -> list[tuple[int, str]]:
    """Index and problem of each picture that an earlier sample has already."""
    first: dict[Path, int] = {}
    problems = []
    for index, sample in enumerate(samples):
        before = first.setdefault(sample.image.resolve(), index)
        if before != index:
            problems.append((index, f"image_path is the picture of sample {before} too"))
    return problems


def _sample(item: Any, index: int, path: Path, origin: Origin | None) -> Sample:
    if not isinstance(item, dict):
        raise ValueError("a sample is an object with image_path, class_label, …")
    label = _needed(item, "class_label")
    if label not in ("standard", "non-standard"):
        raise ValueError(f"class_label {label!r} is neither standard nor non-standard")
    name = _text(item, "image_path")
    image = path.parent / name
    width, height = _size(image, name)
    coordinates = _needed(item, "coordinates")
    if not isinstance(coordinates, list):
        raise ValueError("coordinates is no list")
    source = path.resolve().parent.name
    exam = item.get("exam", name)
    return Sample(
        image=image,
        standard=label == "standard",
        boxes=tuple(_box(box, at, width, height) for at, box in enumerate(coordinates)),
        annotated=frozenset(BY_CODE) - {UNKNOWN},
        view=_view(item),
        description=_text(item, "description", may_be_empty=True),
        criteria=_criteria(item.get("criteria")),
        defects=_defects(item.get("defects")),
        region=_region(item.get("region"), width, height),
        spacing_mm=_spacing(item.get("spacing_mm")),
        group=_text(item, "group", "") or f"{source}/{_exam(exam)}",
        source=source,
        origin=_origin(item, origin),
        dataset=_text(item, "dataset", ""),
        hospital=_text(item, "hospital", ""),
        place=f"{path.name}: sample {index}",
    )


def _needed(item: dict[str, Any], key: str) -> Any:
    if key not in item:
        raise ValueError(f"{key} is missing")
    return item[key]


def _text(
    item: dict[str, Any], key: str, default: str | None = None, may_be_empty: bool = False
) -> str:
    """The text under the key; without a default it must be there, and be more than nothing."""
    if default is not None and item.get(key) is None:
        return default
    value = _needed(item, key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    if default is None and not value and not may_be_empty:
        raise ValueError(f"{key} is empty")
    if (not value.isprintable() and key != "description") or _has_surrogate(value):
        raise ValueError(f"{key} {_printable(value)} has characters that are none of a name")
    return value


def _has_surrogate(text: str) -> bool:
    """Half a character, which JSON can spell and no file can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _origin(item: dict[str, Any], default: Origin | None) -> Origin:
    value = item.get("origin")
    if value is None:
        if default is None:
            raise ValueError('origin is missing: write "real" or "simulated", or give --origin')
        return default
    if value not in list(Origin):
        raise ValueError(f"origin {value!r} is neither real nor simulated")
    return Origin(value)


def _view(item: dict[str, Any]) -> View | None:
    value = item.get("view")
    if value is None:
        return None
    if value not in list(View):
        raise ValueError(f"view {value!r} is none of {', '.join(View)}")
    return View(value)


def _exam(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("exam is neither a text nor a whole number")
    return str(value)


def _size(image: Path, name: str) -> tuple[int, int]:
    """(width, height) of the picture, whose file must be whole."""
    try:
        is_file = image.is_file()
    except OSError:
        is_file = False
    if not is_file:
        raise ValueError(f"no file {_printable(name)}")
    try:
        with Image.open(image) as opened:
            size = opened.size
            # Decoding turns a picture that says it lies on its side.
            if "exif" in opened.info and opened.getexif().get(_ORIENTATION) in _LYING:
                size = size[::-1]
            # A PNG has checksums; of other files only decoding tells whether they are whole.
            opened.verify() if opened.format == "PNG" else opened.load()
    except Exception:
        # A broken file can fail in any way: OSError, SyntaxError, a decompression bomb.
        raise ValueError(f"{name!r} is no readable picture") from None
    if min(size) < LEAST_SIDE:
        raise ValueError(f"{name!r} has {size[0]} x {size[1]} pixels, needed: {LEAST_SIDE} a side")
    return size


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} {_printable(value)} is no finite number")
    return float(value)


def _corners(value: Any, what: str) -> Box:
    """Four finite numbers: a box in pixels, with an area."""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{what} {_printable(value)} is no list of x_min, y_min, x_max, y_max")
    x0, y0, x1, y1 = (_number(v, what) for v in value)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{what} {_printable(value)} has no area")
    return (x0, y0, x1, y1)


def _inside(box: Box, what: str, width: int, height: int) -> Box:
    """The box, clipped where rounding took it beyond the picture."""
    x0, y0, x1, y1 = box
    beyond = max(-x0, -y0, x1 - width, y1 - height)
    if beyond > BORDER_TOLERANCE:
        raise ValueError(f"{what} {list(box)} leaves the picture of {width} x {height} pixels")
    clipped = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise ValueError(f"{what} {list(box)} lies beside the picture")
    return clipped


def _box(box: Any, at: int, width: int, height: int) -> Detection:
    where = f"coordinates {at}"
    if not isinstance(box, dict):
        raise ValueError(f"{where} is no object with label, bbox and confidence")
    for key in ("label", "bbox", "confidence"):
        if key not in box:
            raise ValueError(f"{where}: {key} is missing")
    code = box["label"]
    if not isinstance(code, str) or code not in BY_CODE:
        raise ValueError(f"{where}: label {_printable(code)} is none of {', '.join(BY_CODE)}")
    bbox = _inside(_corners(box["bbox"], f"{where}: bbox"), f"{where}: bbox", width, height)
    confidence = _number(box["confidence"], f"{where}: confidence")
    if not 0 <= confidence <= 1:
        raise ValueError(f"{where}: confidence {confidence} is outside 0..1")
    return Detection(code, bbox, confidence)


def _region(value: Any, width: int, height: int) -> Box | None:
    if value is None:
        return None
    x0, y0, x1, y1 = _inside(_corners(value, "region"), "region", width, height)
    if min(x1 - x0, y1 - y0) < LEAST_SIDE:
        raise ValueError(f"region {value} is smaller than {LEAST_SIDE} pixels a side")
    return (x0, y0, x1, y1)


def _spacing(value: Any) -> float | None:
    if value is None:
        return None
    spacing = _number(value, "spacing_mm")
    if spacing <= 0:
        raise ValueError(f"spacing_mm {spacing} is not above 0")
    return spacing


def _criteria(value: Any) -> dict[str, bool]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(met, bool) for met in value.values()):
        raise ValueError("criteria is no object of true and false")
    return dict(value)


def _defects(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(defect, str) for defect in value):
        raise ValueError("defects is no list of texts")
    return tuple(value)


def _printable(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def counts(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What a part learnt from, for the manifest: pictures, groups and hospitals of each data set,
    source, origin and view; `boxed` and `boxed non-standard` are those annotated with boxes."""
    parts: dict[tuple[str, str, str, str], list[Sample]] = {}
    for sample in samples:
        view = "not told" if sample.view is None else sample.view.value
        key = (sample.dataset, sample.source, sample.origin.value, view)
        parts.setdefault(key, []).append(sample)
    return [
        {
            "dataset": dataset,
            "source": source,
            "origin": origin,
            "view": view,
            "standard": sum(s.standard for s in part),
            "non-standard": sum(not s.standard for s in part),
            "groups": len({s.group for s in part}),
            "hospitals": len({s.hospital for s in part if s.hospital}),
            "boxed": sum(bool(s.annotated) for s in part),
            "boxed non-standard": sum(bool(s.annotated) and not s.standard for s in part),
        }
        for (dataset, source, origin, view), part in sorted(parts.items())
    ]


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
