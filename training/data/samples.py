"""Training samples: a picture, its class and its boxes, read strictly from SpatialCLIP's JSON."""

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
MIN_SIDE = 32
"""Pixels of the shorter side of a picture that can be learnt from: a network's coarsest stride."""
BORDER_TOLERANCE = 1.0
"""A box may reach this many pixels beyond the picture, from rounding; it is clipped there."""
_MAX_LISTED = 20  # A message lists at most so many problems, and indices of each.
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF 2.32, 4.6.4


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
    """A training picture and what is known of it."""

    image: Path
    standard: bool | None  # None: nobody judged it
    boxes: tuple[Detection, ...] = ()  # in pixels of the picture
    # Label codes whose absence among `boxes` means "not in the picture"; a structure of another
    # label is unknown, not negative.
    annotated: frozenset[str] = frozenset()
    view: View | None = None  # None: unknown
    description: str = ""
    criteria: dict[str, bool] = field(default_factory=dict)
    defects: tuple[str, ...] = ()
    region: Box | None = None  # the tissue region in pixels; None: estimated as in serving
    spacing_mm: float | None = None  # the side of a pixel
    group: str = ""  # near-duplicates and frames of one exam share one: it is never divided
    source: str = ""  # the set that figures are given for
    origin: Origin = field(kw_only=True)
    dataset: str = ""  # where the set comes from, if the file names it
    hospital: str = ""  # likewise
    location: str = ""  # file and index, for messages

    @property
    def is_standard(self) -> bool:
        """The quality label; raises ValueError where nobody judged the picture."""
        if self.standard is None:
            raise ValueError(f"{self.location} has no quality label")
        return self.standard

    @property
    def simulated(self) -> bool:
        """Whether a program made the pixels."""
        return self.origin is Origin.SIMULATED


def read_samples(path: Path, origin: Origin | None = None) -> list[Sample]:
    """Read a SpatialCLIP JSON file; image paths are relative to its folder.

    `origin` is given to samples that name none: whether a picture is real decides what a bundle
    may say of real ones, so it is never guessed. Raises SampleError with the index of every bad
    sample; none is left out.
    """
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SampleError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path} is no JSON: {_first_line(error)}") from None
    if not isinstance(items, list):
        raise SampleError(f"{path}: a list of samples is expected")
    if not items:
        raise SampleError(f"{path}: the list of samples is empty")
    samples: list[Sample] = []
    problems: list[tuple[int, str]] = []
    for index, item in enumerate(items):
        try:
            samples.append(_parse_sample(item, index, path, origin))
        except (TypeError, ValueError, OverflowError) as error:
            problems.append((index, _first_line(error)))
    if not problems:
        problems = _find_duplicates(samples)
    if problems:
        raise SampleError(f"{path}: {len(problems)} bad samples: {_list_problems(problems)}")
    return samples


def _list_problems(problems: Sequence[tuple[int, str]]) -> str:
    """A line of the problems, each once with the indices of its samples."""
    indices: dict[str, list[int]] = {}
    for index, problem in problems:
        indices.setdefault(problem, []).append(index)
    parts = []
    for problem, rows in list(indices.items())[:_MAX_LISTED]:
        more = f" and {len(rows) - _MAX_LISTED} more" if len(rows) > _MAX_LISTED else ""
        parts.append(f"{', '.join(map(str, rows[:_MAX_LISTED]))}{more}: {problem}")
    return "; ".join(parts)


def _find_duplicates(samples: Sequence[Sample]) -> list[tuple[int, str]]:
    """Index and problem of each sample whose picture an earlier sample has already."""
    first: dict[Path, int] = {}
    problems = []
    for index, sample in enumerate(samples):
        first_index = first.setdefault(sample.image.resolve(), index)
        if first_index != index:
            problems.append((index, f"image_path is the picture of sample {first_index} too"))
    return problems


def _parse_sample(item: Any, index: int, path: Path, origin: Origin | None) -> Sample:
    if not isinstance(item, dict):
        raise ValueError("a sample is an object with image_path, class_label, …")
    label = _required(item, "class_label")
    if label not in ("standard", "non-standard"):
        raise ValueError(f"class_label {label!r} is neither standard nor non-standard")
    name = _parse_text(item, "image_path")
    image = path.parent / name
    width, height = _read_size(image, name)
    coordinates = _required(item, "coordinates")
    if not isinstance(coordinates, list):
        raise ValueError("coordinates is no list")
    boxes = tuple(_parse_box(box, at, width, height) for at, box in enumerate(coordinates))
    # A detector's own boxes are no truth: neither to learn from nor to measure it by.
    is_annotated = _parse_boxes_by(item) != "models"
    source = path.resolve().parent.name
    exam = item.get("exam", name)
    return Sample(
        image=image,
        standard=label == "standard",
        boxes=boxes if is_annotated else (),
        annotated=frozenset(BY_CODE) - {UNKNOWN} if is_annotated else frozenset(),
        view=_parse_view(item),
        description=_parse_text(item, "description", may_be_empty=True),
        criteria=_parse_criteria(item.get("criteria")),
        defects=_parse_defects(item.get("defects")),
        region=_parse_region(item.get("region"), width, height),
        spacing_mm=_parse_spacing(item.get("spacing_mm")),
        group=_parse_text(item, "group", "") or f"{source}/{_parse_exam(exam)}",
        source=source,
        origin=_parse_origin(item, origin),
        dataset=_parse_text(item, "dataset", ""),
        hospital=_parse_text(item, "hospital", ""),
        location=f"{path.name}: sample {index}",
    )


def _parse_boxes_by(item: dict[str, Any]) -> str:
    """Who drew the boxes: "person", as where nothing is said, or "models"."""
    by = item.get("boxes_by", "person")
    if by not in ("person", "models"):
        raise ValueError(f"boxes_by {by!r} is neither person nor models")
    return str(by)


def _required(item: dict[str, Any], key: str) -> Any:
    if key not in item:
        raise ValueError(f"{key} is missing")
    return item[key]


def _parse_text(
    item: dict[str, Any], key: str, default: str | None = None, may_be_empty: bool = False
) -> str:
    """The text under the key; without a default it must be there and not be empty."""
    if default is not None and item.get(key) is None:
        return default
    value = _required(item, key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    if default is None and not value and not may_be_empty:
        raise ValueError(f"{key} is empty")
    if (not value.isprintable() and key != "description") or _has_surrogate(value):
        raise ValueError(f"{key} {_printable(value)} has characters that are none of a name")
    return value


def _has_surrogate(text: str) -> bool:
    """Whether the text has half a character, which JSON can write and no file name can have."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _parse_origin(item: dict[str, Any], default: Origin | None) -> Origin:
    value = item.get("origin")
    if value is None:
        if default is None:
            raise ValueError('origin is missing: write "real" or "simulated", or give --origin')
        return default
    if value not in list(Origin):
        raise ValueError(f"origin {value!r} is neither real nor simulated")
    return Origin(value)


def _parse_view(item: dict[str, Any]) -> View | None:
    value = item.get("view")
    if value is None:
        return None
    if value not in list(View):
        raise ValueError(f"view {value!r} is none of {', '.join(View)}")
    return View(value)


def _parse_exam(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("exam is neither a text nor a whole number")
    return str(value)


def _read_size(image: Path, name: str) -> tuple[int, int]:
    """(width, height) of the picture in pixels, whose file must be complete."""
    try:
        is_file = image.is_file()
    except OSError:
        is_file = False
    if not is_file:
        raise ValueError(f"no file {_printable(name)}")
    try:
        with Image.open(image) as opened:
            size = opened.size
            # Decoding rotates a picture whose EXIF orientation is sideways.
            if "exif" in opened.info and opened.getexif().get(_ORIENTATION) in _SIDEWAYS:
                size = size[::-1]
            # A PNG has checksums; whether another file is complete, only decoding shows.
            opened.verify() if opened.format == "PNG" else opened.load()
    except Exception:
        # A broken file can fail in any way: OSError, SyntaxError, a decompression bomb.
        raise ValueError(f"{name!r} is no readable picture") from None
    if min(size) < MIN_SIDE:
        raise ValueError(f"{name!r} has {size[0]} x {size[1]} pixels, needed: {MIN_SIDE} a side")
    return size


def _parse_number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} {_printable(value)} is no finite number")
    return float(value)


def _parse_corners(value: Any, what: str) -> Box:
    """A box in pixels with an area, of four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{what} {_printable(value)} is no list of x_min, y_min, x_max, y_max")
    x0, y0, x1, y1 = (_parse_number(v, what) for v in value)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{what} {_printable(value)} has no area")
    return (x0, y0, x1, y1)


def _clip_to_picture(box: Box, what: str, width: int, height: int) -> Box:
    """The box, clipped where rounding puts it beyond the picture."""
    x0, y0, x1, y1 = box
    beyond = max(-x0, -y0, x1 - width, y1 - height)
    if beyond > BORDER_TOLERANCE:
        raise ValueError(f"{what} {list(box)} leaves the picture of {width} x {height} pixels")
    clipped = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise ValueError(f"{what} {list(box)} lies beside the picture")
    return clipped


def _parse_box(box: Any, at: int, width: int, height: int) -> Detection:
    where = f"coordinates {at}"
    if not isinstance(box, dict):
        raise ValueError(f"{where} is no object with label, bbox and confidence")
    for key in ("label", "bbox", "confidence"):
        if key not in box:
            raise ValueError(f"{where}: {key} is missing")
    code = box["label"]
    if not isinstance(code, str) or code not in BY_CODE:
        raise ValueError(f"{where}: label {_printable(code)} is none of {', '.join(BY_CODE)}")
    bbox = _clip_to_picture(
        _parse_corners(box["bbox"], f"{where}: bbox"), f"{where}: bbox", width, height
    )
    confidence = _parse_number(box["confidence"], f"{where}: confidence")
    if not 0 <= confidence <= 1:
        raise ValueError(f"{where}: confidence {confidence} is outside 0..1")
    return Detection(code, bbox, confidence)


def _parse_region(value: Any, width: int, height: int) -> Box | None:
    if value is None:
        return None
    x0, y0, x1, y1 = _clip_to_picture(_parse_corners(value, "region"), "region", width, height)
    if min(x1 - x0, y1 - y0) < MIN_SIDE:
        raise ValueError(f"region {value} is smaller than {MIN_SIDE} pixels a side")
    return (x0, y0, x1, y1)


def _parse_spacing(value: Any) -> float | None:
    if value is None:
        return None
    spacing = _parse_number(value, "spacing_mm")
    if spacing <= 0:
        raise ValueError(f"spacing_mm {spacing} is not above 0")
    return spacing


def _parse_criteria(value: Any) -> dict[str, bool]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(met, bool) for met in value.values()):
        raise ValueError("criteria is no object of true and false")
    return dict(value)


def _parse_defects(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(defect, str) for defect in value):
        raise ValueError("defects is no list of texts")
    return tuple(value)


def _printable(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def count_samples(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The pictures, groups and hospitals of each data set, source, origin and view, for the
    manifest; `boxed` and `boxed non-standard` are those annotated with boxes."""
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
            "standard": sum(s.standard is True for s in part),
            "non-standard": sum(s.standard is False for s in part),
            "unlabelled": sum(s.standard is None for s in part),
            "groups": len({s.group for s in part}),
            "hospitals": len({s.hospital for s in part if s.hospital}),
            "boxed": sum(bool(s.annotated) for s in part),
            "boxed non-standard": sum(bool(s.annotated) and s.standard is False for s in part),
        }
        for (dataset, source, origin, view), part in sorted(parts.items())
    ]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, read piece by piece: a cine may be large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 over the samples' pictures, classes, boxes and views, for the bundle's manifest."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.image.read_bytes())
        digest.update(repr((sample.standard, sample.boxes, sample.view)).encode())
    return digest.hexdigest()
