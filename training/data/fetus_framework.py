"""The Fetus Framework data set: real first-trimester mid-sagittal (NT) views.

Cui C., Dong F., Dataset for Fetus Framework, 2022, doi:10.17632/n2rbrb9t4f.1. Non-standard images
carry no boxes: they are not annotated, which is not "nothing there".
"""

import csv
import math
from collections import defaultdict
from pathlib import Path

from detector.anatomy import BY_FETUS_FRAMEWORK, View
from detector.boxes import Box, Detection
from training.data.samples import Origin, Sample, SampleError

DATASET = "Fetus Framework"
SPLITS = ("set1_train", "set2_train")
EXCLUDED = frozenset({"1290.png"})
NEAR_DUPLICATES = {"1105.png": "1104.png", "458.png": "134.png"}
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_STANDARD = {"standard": True, "nonstandard": False, "non-standard": False}


def read_fetus_framework(folder: Path, splits: tuple[str, ...]) -> list[Sample]:
    """Read the samples of these of SPLITS, in file-name order.

    Raises SampleError on a folder that is none of this data set, or that lacks a picture.
    """
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise SampleError(f"--split {unknown[0]} is none of {', '.join(SPLITS)}")
    if not folder.is_dir():
        raise SampleError(f"no folder {folder}")
    annotated = frozenset(label.code for label in BY_FETUS_FRAMEWORK.values())
    boxes: dict[str, list[Detection]] = defaultdict(list)
    for row in _read_rows(folder / "boxes.csv", ("fname", "structure", *_CORNERS)):
        boxes[row["fname"]].append(_parse_box(row))
    labels = ("fname", "split", "quality", "local_file")
    rows = [row for row in _read_rows(folder / "labels.csv", labels) if row["split"] in splits]
    samples = [
        Sample(
            image=folder / row["local_file"],
            standard=_is_standard(row),
            boxes=tuple(boxes[row["fname"]]),
            annotated=annotated if boxes[row["fname"]] else frozenset(),
            view=View.NT,
            group=f"fetus_framework/{NEAR_DUPLICATES.get(row['fname'], row['fname'])}",
            source=row["split"],
            origin=Origin.REAL,
            dataset=DATASET,
            # The data set names one hospital, and no machine or patient of a picture.
            hospital=DATASET,
            location=f"labels.csv: {row['fname']}",
        )
        for row in sorted(rows, key=lambda row: row["fname"])
        if row["fname"] not in EXCLUDED
    ]
    missing = [sample.image.name for sample in samples if not sample.image.is_file()]
    if missing:
        raise SampleError(
            f"{folder} lacks {len(missing)} of its pictures, the first is {missing[0]}"
        )
    return samples


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns; raises SampleError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SampleError(
            f"{path.parent} is no Fetus Framework folder: {path.name}: {error.strerror}"
        ) from None
    except (ValueError, csv.Error) as error:
        raise SampleError(f"{path} is no CSV: {error}") from None
    for number, row in enumerate(rows, 1):
        blank = [column for column in columns if not row.get(column)]
        if blank or None in row:
            what = f"{blank[0]} is missing" if blank else "it has more cells than the header"
            raise SampleError(f"{path}: row {number}: {what}")
    return rows


def _parse_box(row: dict[str, str]) -> Detection:
    try:
        x0, y0, x1, y1 = (float(row[corner]) for corner in _CORNERS)
    except ValueError as error:
        raise SampleError(f"boxes.csv: {row['fname']}: {error}") from None
    box: Box = (x0, y0, x1, y1)
    if not all(map(math.isfinite, box)) or not (x0 < x1 and y0 < y1):
        raise SampleError(f"boxes.csv: {row['fname']}: box {list(box)} has no area")
    if row["structure"] not in BY_FETUS_FRAMEWORK:
        raise SampleError(f"boxes.csv: {row['fname']}: unknown structure {row['structure']!r}")
    return Detection(BY_FETUS_FRAMEWORK[row["structure"]].code, box, 1.0)


def _is_standard(row: dict[str, str]) -> bool:
    if row["quality"] not in _STANDARD:
        raise SampleError(f"labels.csv: {row['fname']}: unknown quality {row['quality']!r}")
    return _STANDARD[row["quality"]]
