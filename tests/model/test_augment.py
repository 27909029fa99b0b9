"""A further look moves the picture a little, the same way each time, and never mirrors it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.augment import SCALE, SHIFT, augment


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 90), st.integers(1, 90))
def test_shape_and_repeatability(number: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    original = pixels.copy()
    augmented = augment(pixels, number)
    assert augmented.shape == pixels.shape
    assert augmented.dtype == np.uint8
    assert np.array_equal(augmented, augment(pixels, number))
    assert np.array_equal(pixels, original)


@settings(deadline=None)
@given(st.integers(0, 200))
def test_a_spot_moves_no_further_than_it_may(number: int) -> None:
    """And stays on its side: left remains left."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[48:53, 58:63] = 255
    rows, columns = np.nonzero(augment(pixels, number)[..., 0] > 200)
    assert abs(rows.mean() - 50) <= SHIFT * 200 + SCALE * 50 + 1
    assert abs(columns.mean() - 60) <= SHIFT * 300 + SCALE * 90 + 1


def test_augmented_copies_differ() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    assert len({augment(pixels, number).tobytes() for number in range(8)}) == 8
