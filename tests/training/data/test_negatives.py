"""Negatives: one that is made of a real picture is held out with it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.crossval.folds import exclude_groups_of
from training.data.negatives import shuffle_tiles, write_negatives
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample, read_samples
from training.data.splits import fold_of, leave_fold_out, split_by_group


@pytest.fixture
def pictures(tmp_path: Path) -> list[Sample]:
    """Real pictures, each a group of its own."""
    samples = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        grey = np.random.default_rng(number).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(path), grey)
        group = f"fetus_framework/{number}.png"
        samples.append(Sample(path, True, group=group, source="set2_train", origin=Origin.REAL))
    return samples


def test_a_negative_has_the_group_of_its_picture(
    pictures: list[Sample], tmp_path: Path, shared_data: Path
) -> None:
    dicom = shared_data / "us_dicom" / "gdcm-US-ALOKA-16.dcm"
    assert write_negatives(tmp_path / "out", [dicom], pictures, 30, 0) > 30
    negatives = read_samples(tmp_path / "out" / "samples.json")
    of_pictures = [s for s in negatives if s.image.name.startswith("made_")]
    assert len(of_pictures) == 30
    assert {s.group for s in of_pictures} <= {s.group for s in pictures}
    assert {s.group for s in negatives if s not in of_pictures} == {f"out/{dicom.name}"}

    # By folds and by share; once it was not held out, for its group had another name.
    prepared = [
        PreparedSample(np.zeros((8, 8, 3), np.uint8), ((), ()), ("", ""), (80, 60), sample)
        for sample in negatives
    ]
    _, held_out = leave_fold_out(pictures, fold_of(pictures[0], 2, 0), 2, 0)
    remaining = {item.sample.group for item in exclude_groups_of(prepared, held_out)}
    assert remaining
    assert not remaining & {s.group for s in held_out}
    training, _ = split_by_group([*pictures, *negatives], 0.5, 0)
    assert not {s.group for s in training} & {s.group for s in split_by_group(pictures, 0.5, 0)[1]}


def test_shuffled_tiles_have_the_pixels_of_the_picture() -> None:
    pixels = np.arange(60 * 60 * 3, dtype=np.uint32).reshape(60, 60, 3).astype(np.uint8)
    shuffled = shuffle_tiles(pixels, np.random.default_rng(3))
    assert shuffled.shape == pixels.shape
    assert np.array_equal(np.sort(shuffled, axis=None), np.sort(pixels, axis=None))
    assert not np.array_equal(shuffled, pixels)
