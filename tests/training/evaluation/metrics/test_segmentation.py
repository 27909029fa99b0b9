"""Dice, IoU, HD95 and ASD by picture; what failed is counted, not left out."""

import math

import numpy as np
import pytest

from training.data.lesions import Ellipse, circumference, draw_ellipse
from training.evaluation.metrics.segmentation import (
    agreement,
    head_circumference_mm,
    segmentation_metrics,
)


def _square(left: int, size: int = 10) -> np.ndarray:
    mask = np.zeros((40, 60), np.uint8)
    mask[10 : 10 + size, left : left + size] = 1
    return mask


def test_masks_that_are_moved_apart() -> None:
    result = agreement(_square(10), _square(12))
    assert result.dice == pytest.approx(0.8)
    assert result.iou == pytest.approx(80 / 120)
    assert result.hd95 == 2
    assert 0 < result.asd < 2
    in_mm = agreement(_square(10), _square(12), 0.5)
    assert (in_mm.hd95, in_mm.asd) == (result.hd95 / 2, result.asd / 2)
    same = agreement(_square(10), _square(10))
    assert (same.dice, same.iou, same.hd95, same.asd) == (1, 1, 0, 0)


def test_a_failure_has_the_worst_values_and_is_counted() -> None:
    nothing = np.zeros((40, 60), np.uint8)
    failure = agreement(nothing, _square(10))
    assert (failure.dice, failure.failed) == (0, True)
    assert failure.hd95 == failure.asd == math.hypot(40, 60)
    assert not agreement(nothing, nothing).failed
    figures = segmentation_metrics(
        [failure, agreement(_square(10), _square(10))],
        ["a", "b"],
        "pixels",
        [(None, 100.0), (50.0, 52.0)],
        resamples=50,
    )
    assert figures["failed"] == 1
    assert figures["not measured"] == 1
    # Left out, it would be 0.
    assert figures["HD95 pixels"]["value"] == pytest.approx(math.hypot(40, 60) / 2)
    assert figures["circumference absolute error mm"]["value"] == 51
    assert figures["circumference error mm"]["value"] == -51


def test_masks_of_unlike_size_are_refused() -> None:
    with pytest.raises(ValueError, match="masks of"):
        agreement(np.zeros((3, 3), np.uint8), np.zeros((3, 4), np.uint8))
    with pytest.raises(ValueError, match="0 agreements"):
        segmentation_metrics([], [], "mm")


def test_circumference_of_a_circle_and_of_an_ellipse() -> None:
    assert circumference(Ellipse(0, 0, 20, 20, 0)) == pytest.approx(20 * math.pi)
    # By the complete elliptic integral: 4 a E(1 - b^2 / a^2).
    from scipy.special import ellipe

    exact = 4 * 50 * ellipe(1 - (35 / 50) ** 2)
    assert circumference(Ellipse(0, 0, 100, 70, 12)) == pytest.approx(exact, rel=1e-5)


def test_the_head_is_the_largest_piece() -> None:
    head = Ellipse(150, 120, 110, 160, 20)
    mask = draw_ellipse(head, 240, 320)
    mask[:8, :8] = 1
    measured = head_circumference_mm(mask, 0.5)
    assert measured == pytest.approx(circumference(head) * 0.5, rel=5e-3)
    assert head_circumference_mm(np.zeros((9, 9), np.uint8), 0.5) is None
