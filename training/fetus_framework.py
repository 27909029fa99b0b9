"""The Fetus Framework data set: real first-trimester mid-sagittal (NT) views.

Cui C., Dong F., Dataset for Fetus Framework, 2022, doi:10.17632/n2rbrb9t4f.1. Non-standard images
carry no boxes: they are not annotated, which is not "nothing there".
"""

import csv
from collections import defaultdict
from pathlib import Path

from detector.detection import Detection
from detector.vocabulary import BY_FETUS_FRAMEWORK, View
from training.samples import Sample, SampleError

DROPPED = frozenset({"1290.png"})
NEAR_DUPLICATES = {"1105.png": "1104.png", "458.png": "134.png"}


def read_fetus_framework(folder: Path, splits: tuple[str, ...]) -> list[Sample]:
    """Samples of the named splits (`set1_train`, `set2_train`), in file-name order."""
    annotated = frozenset(label.code for label in BY_FETUS_FRAMEWORK.values())
    boxes: dict[str, list[Detection]] = defaultdict(list)
    try:
        with (folder / "boxes.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                box = tuple(float(row[k]) for k in ("x_min", "y_min", "x_max", "y_max"))
                label = BY_FETUS_FRAMEWORK[row["structure"]].code
                boxes[row["fname"]].append(Detection(label, box, 1.0))  # type: ignore[arg-type]
        with (folder / "labels.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] in splits]
    except OSError as error:
        raise SampleError(f"{folder} is no Fetus Framework folder: {error.strerror}") from None
    return [
        Sample(
            image=folder / row["local_file"],
            standard=row["quality"] == "standard",
            boxes=tuple(boxes[row["fname"]]),
            annotated=annotated if boxes[row["fname"]] else frozenset(),
            view=View.NT,
            group=f"fetus_framework/{NEAR_DUPLICATES.get(row['fname'], row['fname'])}",
            source=row["split"],
        )
        for row in sorted(rows, key=lambda row: row["fname"])
        if row["fname"] not in DROPPED
    ]
