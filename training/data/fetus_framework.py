"""The Fetus Framework data set: real first-trimester mid-sagittal (NT) views.

Cui C., Dong F., Dataset for Fetus Framework, 2022, doi:10.17632/n2rbrb9t4f.1. Non-standard images
carry no boxes: they are not annotated, which is not "nothing there".
"""

from collections import defaultdict
from pathlib import Path

from detector.anatomy import BY_FETUS_FRAMEWORK, View
from detector.boxes import Detection
from training.data.csv_rows import CORNERS, check_pictures, read_box, read_rows
from training.data.samples import Origin, Sample, SampleError

DATASET = "Fetus Framework"
SPLITS = ("set1_train", "set2_train")
EXCLUDED = frozenset({"1290.png"})
NEAR_DUPLICATES = {"1105.png": "1104.png", "458.png": "134.png"}
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
    for row in read_rows(folder / "boxes.csv", ("fname", "structure", *CORNERS), DATASET):
        boxes[row["fname"]].append(_parse_box(row))
    labels = ("fname", "split", "quality", "local_file")
    rows = [
        row for row in read_rows(folder / "labels.csv", labels, DATASET) if row["split"] in splits
    ]
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
    check_pictures(folder, [sample.image for sample in samples])
    return samples


def _parse_box(row: dict[str, str]) -> Detection:
    where = f"boxes.csv: {row['fname']}"
    if row["structure"] not in BY_FETUS_FRAMEWORK:
        raise SampleError(f"{where}: unknown structure {row['structure']!r}")
    return Detection(BY_FETUS_FRAMEWORK[row["structure"]].code, read_box(row, where), 1.0)


def _is_standard(row: dict[str, str]) -> bool:
    if row["quality"] not in _STANDARD:
        raise SampleError(f"labels.csv: {row['fname']}: unknown quality {row['quality']!r}")
    return _STANDARD[row["quality"]]
