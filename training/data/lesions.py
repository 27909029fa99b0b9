"""Pictures with a class or a mask each: NextGen-UIA's published folders, any CSV, and HC18's heads.

Published: ROOT/all/images, ROOT/all/masks (of the same name), and below ROOT/TASK/DATASET the files
train.txt, val.txt, test.txt (a file name a line) and, of classes, labels.csv (no header:
name,number).
"""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.nextgen_uia.preprocess import Mask, read_mask
from training.data.csv_rows import read_number, read_rows
from training.data.heads import read_hc18 as read_head_samples
from training.data.labelled import (
    SPLITS,
    LabelledPicture,
    check_pictures,
    check_split_names,
    group_key,
)
from training.data.samples import SampleError, file_hash

MASK_CLASSES = ("background", "lesion")
HEAD_CLASSES = ("background", "head")
_MORE = 9
"""A picture may have so many masks beside the first: NAME_1.png to NAME_9.png."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """Centre, full axes in pixels, angle in degrees, as of OpenCV's RotatedRect."""

    cx: float
    cy: float
    axis1: float
    axis2: float
    angle: float


@dataclass(frozen=True, slots=True)
class Lesion(LabelledPicture):
    """A picture with its class, or with what is segmented in it."""

    masks: tuple[Path, ...] = ()  # Their union is segmented,
    ellipse: Ellipse | None = None  # or the inside of this.
    spacing_mm: float | None = None  # Side of a pixel.
    circumference_mm: float | None = None  # As somebody measured it.


def read_published(root: Path, task: str, dataset: str) -> list[Lesion]:
    """A published data set, in the order of its lists. `task` is classification or segmentation.

    ROOT/patients.csv (file, patient), which the published layout lacks, names the patients; without
    it each picture is its own. Raises SampleError, in one line: a list, picture, mask or label that
    is missing, a picture twice, a patient in two splits.
    """
    folder = root / task / dataset
    labels = _read_labels(folder / "labels.csv") if task == "classification" else {}
    patients = _read_patients(root / "patients.csv")
    names = {split: _read_list(folder / f"{split}.txt") for split in SPLITS}
    listed = {name for each in names.values() for name in each}
    lesions: list[Lesion] = []
    for split, files in names.items():
        for number, name in enumerate(files, 1):
            where = f"{split}.txt: line {number}"
            image = root / "all" / "images" / name
            if Path(name).name != name or not image.is_file():
                raise SampleError(f"{where}: all/images has no file {name!r}")
            if task == "classification" and name not in labels:
                # Upstream takes it for class 0.
                raise SampleError(f"{where}: labels.csv has no class of {name!r}")
            masks = () if task == "classification" else _masks(root, name, listed, where)
            lesions.append(
                Lesion(
                    image,
                    labels.get(name, ""),
                    patients.get(name, Path(name).stem),
                    split,
                    where,
                    masks,
                )
            )
    check_pictures(lesions)
    return lesions


def read_hc18(folder: Path) -> list[Lesion]:
    """HC18's heads with their ellipse, spacing and circumference, in file-name order.

    The file's ellipses are larger than the published circumference by 0.8 mm on average, perhaps as
    they are the outer edge of a drawn line: here they are made smaller to have it. Pictures of one
    fetus are one group. Raises SampleError.
    """
    groups = {sample.image.name: sample.group for sample in read_head_samples(folder)}
    lesions = []
    columns = ("file", "pixel_mm", "hc_mm", "cx", "cy", "axis1", "axis2", "angle_deg")
    for row in read_rows(folder / "labels.csv", columns, "HC18"):
        where = f"labels.csv: {row['file']}"
        ellipse = Ellipse(*(read_number(row, name, where) for name in columns[3:]))
        spacing_mm = read_number(row, "pixel_mm", where)
        circumference_mm = read_number(row, "hc_mm", where)
        edge = (circumference(ellipse) - circumference_mm / spacing_mm) / math.pi
        lesions.append(
            Lesion(
                folder / row["file"],
                "",
                groups[row["file"]],
                ellipse=replace(ellipse, axis1=ellipse.axis1 - edge, axis2=ellipse.axis2 - edge),
                spacing_mm=spacing_mm,
                circumference_mm=circumference_mm,
                location=where,
            )
        )
    lesions.sort(key=lambda lesion: lesion.path.name)
    check_pictures(lesions)
    return lesions


def of_labelled(pictures: Sequence[LabelledPicture]) -> list[Lesion]:
    """Pictures of a CSV with classes. Raises SampleError on a split that is none."""
    check_split_names(pictures)
    return [Lesion.of(picture) for picture in pictures]


def read_truth(lesion: Lesion, height: int, width: int) -> Mask:
    """(H, W) what is segmented: the union of the masks, or the ellipse's inside.

    Raises SampleError where a mask is not of the picture's size.
    """
    if lesion.ellipse is not None:
        return draw_ellipse(lesion.ellipse, height, width)
    truth = np.zeros((height, width), np.uint8)
    for path in lesion.masks:
        mask = read_mask(path)
        if mask.shape != truth.shape:
            raise SampleError(
                f"{lesion.location}: mask {path.name} is {mask.shape[1]} x {mask.shape[0]}, its"
                f" picture {width} x {height}"
            )
        truth |= mask
    return truth


def draw_ellipse(ellipse: Ellipse, height: int, width: int) -> Mask:
    """(H, W): 1 where a pixel's centre lies within the ellipse."""
    angle = np.deg2rad(ellipse.angle)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    dx, dy = x - ellipse.cx, y - ellipse.cy
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    inside = (2 * along / ellipse.axis1) ** 2 + (2 * across / ellipse.axis2) ** 2 <= 1
    return np.asarray(inside, np.uint8)


def count_lesions(lesions: Iterable[Lesion]) -> dict[str, Any]:
    """Pictures and groups, and pictures of each class, for training.json."""
    lesions = list(lesions)
    labels = Counter(lesion.label for lesion in lesions if lesion.label)
    return {
        "pictures": len(lesions),
        "groups": len({lesion.group for lesion in lesions}),
        "classes": dict(sorted(labels.items())),
    }


def lesions_hash(lesions: Iterable[Lesion]) -> str:
    """SHA-256 over the pictures and what is said of them."""
    digest = hashlib.sha256()
    for lesion in lesions:
        masks = " ".join(file_hash(path) for path in lesion.masks)
        digest.update(
            f"{file_hash(lesion.path)} {lesion.label} {masks} {lesion.ellipse}\n".encode()
        )
    return digest.hexdigest()


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise SampleError(f"{path.parent.name}: {path.name} is missing or no text") from None
    return [line.strip() for line in lines if line.strip()]


def _read_labels(path: Path) -> dict[str, str]:
    """Name -> class of labels.csv, which has no header."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error):
        raise SampleError(f"{path.parent.name}: {path.name} is missing or no CSV") from None
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[1].strip().isdigit():
            raise SampleError(f"{path.name}: line {number}: name,number is expected, no header")
        name, label = row[0].strip(), str(int(row[1]))
        if labels.setdefault(name, label) != label:
            raise SampleError(f"{path.name}: line {number}: {name} has another class above")
    return labels


def _read_patients(path: Path) -> Mapping[str, str]:
    if not path.is_file():
        return {}
    return {
        row["file"]: group_key(row["patient"])
        for row in read_rows(path, ("file", "patient"), "published")
    }


def _masks(root: Path, name: str, listed: set[str], where: str) -> tuple[Path, ...]:
    folder, stem, suffix = root / "all" / "masks", Path(name).stem, Path(name).suffix
    if not (folder / name).is_file():
        raise SampleError(f"{where}: all/masks has no file {name!r}")
    # What is a picture of its own has its own mask.
    more = (f"{stem}_{number}{suffix}" for number in range(1, _MORE + 1))
    others = [folder / each for each in more if each not in listed and (folder / each).is_file()]
    return (folder / name, *others)


def circumference(ellipse: Ellipse) -> float:
    """Perimeter of an ellipse in pixels (Ramanujan 1914; right to 1e-5 for heads)."""
    a, b = ellipse.axis1 / 2, ellipse.axis2 / 2
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def contour_ellipse(mask: Mask) -> Ellipse | None:
    """The ellipse of the largest piece of the mask; None where it has no area to speak of."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea, default=None)
    if contour is None or len(contour) < 5 or cv2.contourArea(contour) < 25:
        return None
    (cx, cy), (axis1, axis2), angle = cv2.fitEllipse(contour)
    # The contour goes through the centres of the outermost pixels, half a pixel inside the edge.
    return Ellipse(cx, cy, axis1 + 1, axis2 + 1, angle)
