"""Augmentation: boxes follow the picture, and leave with what is cut off."""

from pathlib import Path

import numpy as np

from detector.anatomy import View
from detector.boxes import Detection
from detector.yolo.flip import mirror_detections
from training.data.augment import augment
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample


def test_boxes_move_with_the_augmented_picture() -> None:
    """A bright patch marks the structure: wherever it moves to, its box lies on it."""
    pixels = np.full((128, 128, 3), 30, np.uint8)
    pixels[40:64, 70:100] = 200
    for origin in Origin:
        sample = Sample(Path("none"), True, view=View.NT, origin=origin)
        own = (Detection("NT", (70.0, 40.0, 100.0, 64.0), 0.9),)
        item = PreparedSample(
            pixels, (own, mirror_detections(own, 128)), ("one", "two"), (128, 128), sample
        )
        sides = set()
        for seed in range(30):
            picture, description, (box,), size = augment(item, np.random.default_rng(seed))
            x0, y0, x1, y1 = (round(v) for v in box.bbox)
            inside = picture[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean()
            assert inside > picture[:30, :30].mean() + 40
            assert size == (128, 128)
            sides.add((description, (x0 + x1) / 2 > 64))
        assert sides == {("one", True), ("two", False)}


def test_a_box_outside_the_augmented_picture_is_dropped() -> None:
    sample = Sample(Path("none"), True, view=View.NT, origin=Origin.REAL)
    own = (Detection("NT", (0.0, 60.0, 4.0, 64.0), 0.9),)
    item = PreparedSample(
        np.zeros((128, 128, 3), np.uint8),
        (own, mirror_detections(own, 128)),
        ("", ""),
        (128, 128),
        sample,
    )
    counts = {len(augment(item, np.random.default_rng(seed))[2]) for seed in range(40)}
    assert counts == {0, 1}
