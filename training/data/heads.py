"""Real axial fetal heads: HC18's with the skull's ellipse, and some of them with boxed structures.

Van den Heuvel et al. 2018, Zenodo 1327317 (HC18). No head has a quality label. Of a head only what
somebody drew is annotated; but no axial head shows a face's profile or an abdomen.
"""

import math
from collections import defaultdict
from pathlib import Path

from detector.anatomy import LABELS, View
from detector.boxes import Box, Detection
from detector.sides import FALX, PLEXUSES, name_plexus
from training.data.csv_rows import CORNERS, check_pictures, read_box, read_number, read_rows
from training.data.samples import Origin, Sample, SampleError

DATASET = "HC18"
HC18, STRUCTURES = SOURCES = ("hc18_heads", "head_structures")
"""`Sample.source` of what the two readers give."""
SKULL = "CB"
FLAG = {"0": False, "1": True}
_ELLIPSE = ("cx", "cy", "axis1", "axis2", "angle_deg")
_STRUCTURES = ("falx", "choroid_plexus", "cavum_septi_pellucidi")
NOT_IN_A_HEAD = frozenset(
    label.code
    for label in LABELS
    # Thalami, midbrain and the cisterna magna are brain, which an axial plane may well cut.
    if label.view in (View.NT, View.CRL, View.ABDOMEN)
    and label.code not in ("TH", "MB", "IT", "CM")
)
"""Structures whose absence is known without anybody having looked: of the profile and the trunk."""


def read_hc18(folder: Path) -> list[Sample]:
    """HC18's heads, each with its skull's box and its pixel spacing, in file-name order.

    First-trimester heads (14w0d or less) are of view HEAD, later ones of OTHER. Files of one id
    are one fetus. Raises SampleError on a folder that is none of this data set.
    """
    columns = ("file", "id", "width", "height", "pixel_mm", "first_trimester", *_ELLIPSE)
    samples = []
    for row in read_rows(folder / "labels.csv", columns, DATASET):
        where = f"labels.csv: {row['file']}"
        if row["first_trimester"] not in FLAG:
            raise SampleError(f"{where}: first_trimester is neither 0 nor 1")
        size = (read_number(row, "width", where), read_number(row, "height", where))
        samples.append(
            Sample(
                image=folder / row["file"],
                standard=None,
                boxes=(Detection(SKULL, _skull_box(row, where, size), 1.0),),
                annotated=NOT_IN_A_HEAD | {SKULL},
                view=View.HEAD if FLAG[row["first_trimester"]] else View.OTHER,
                spacing_mm=read_number(row, "pixel_mm", where),
                group=_group(row["id"]),
                source=HC18,
                origin=Origin.REAL,
                dataset=DATASET,
                hospital=DATASET,
                location=where,
            )
        )
    check_pictures(folder, [sample.image for sample in samples])
    return sorted(samples, key=lambda sample: sample.image.name)


def read_head_structures(folder: Path) -> list[Sample]:
    """Second-trimester heads of HC18 with boxed falx and choroid plexus, in file-name order.

    A head shows two plexuses, of which the near one is mostly in shadow: one that nobody boxed is
    unknown. Turned and blurred copies of a picture share its group, and so do the two fetuses that
    HC18's parts number alike. Raises SampleError on a folder that is none of this data set.
    """
    columns = ("file", "id", "structure", *CORNERS)
    boxes: dict[str, dict[str, list[Box]]] = defaultdict(lambda: defaultdict(list))
    ids: dict[str, str] = {}
    for row in read_rows(folder / "boxes.csv", columns, DATASET):
        where = f"boxes.csv: {row['file']}"
        if row["structure"] not in _STRUCTURES:
            raise SampleError(f"{where}: unknown structure {row['structure']!r}")
        boxes[row["file"]][row["structure"]].append(read_box(row, where))
        ids[row["file"]] = row["id"]
    samples = [
        Sample(
            image=folder / file,
            standard=None,
            boxes=(detections := _structures(structures)),
            annotated=NOT_IN_A_HEAD | {detection.label for detection in detections},
            view=View.OTHER,
            group=_group(ids[file]),
            source=STRUCTURES,
            origin=Origin.REAL,
            dataset=DATASET,
            hospital=DATASET,
            location=f"boxes.csv: {file}",
        )
        for file, structures in sorted(boxes.items())
    ]
    check_pictures(folder, [sample.image for sample in samples])
    return samples


def _group(identifier: str) -> str:
    # 243 and 243_3 are pictures of one fetus.
    return f"hc18/{identifier.partition('_')[0]}"


def _structures(boxes: dict[str, list[Box]]) -> tuple[Detection, ...]:
    """The boxes that the vocabulary has a label for: the falx and, beside it, the plexus."""
    if not boxes["falx"]:
        return ()
    falx = boxes["falx"][0]
    named = {name_plexus(plexus, falx): plexus for plexus in boxes["choroid_plexus"]}
    return (
        Detection(FALX, falx, 1.0),
        *(Detection(code, named[code], 1.0) for code in PLEXUSES if code in named),
    )


def _skull_box(row: dict[str, str], where: str, size: tuple[float, float]) -> Box:
    """The bounding box of the ellipse: centre, full axes and angle as of OpenCV's RotatedRect."""
    cx, cy, first, second, angle = (read_number(row, column, where) for column in _ELLIPSE)
    turn = math.radians(angle)
    half_width = math.hypot(first * math.cos(turn), second * math.sin(turn)) / 2
    half_height = math.hypot(first * math.sin(turn), second * math.cos(turn)) / 2
    box = (
        max(0.0, cx - half_width),
        max(0.0, cy - half_height),
        min(size[0], cx + half_width),
        min(size[1], cy + half_height),
    )
    if not (box[0] < box[2] and box[1] < box[3]):
        raise SampleError(f"{where}: the ellipse lies beside the picture")
    return box
