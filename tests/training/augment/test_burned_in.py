"""Marks at random: other ones for other seeds, none outside the picture's content."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.spatialclip.preprocess import FILL
from training.augment.burned_in import add_annotations


def picture(height: int = 150, width: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 120, (height, width, 3), np.uint8)


@given(st.integers(0, 10_000), st.integers(1, 90), st.integers(1, 90))
def test_any_picture_keeps_its_shape(seed: int, height: int, width: int) -> None:
    pixels = picture(height, width)
    kept = pixels.copy()
    made, again = (add_annotations(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert made.shape == pixels.shape
    assert np.array_equal(made, again)
    assert np.array_equal(pixels, kept)


def test_a_letterbox_stays_empty() -> None:
    """Marks are the picture's, not the frame's that the model puts about it."""
    square = np.full((200, 200, 3), FILL, np.uint8)
    square[25:175] = picture()
    for seed in range(50):
        made = add_annotations(square, np.random.default_rng(seed))
        assert (made[:25] == FILL).all()
        assert (made[175:] == FILL).all()


def test_every_kind_of_mark_comes_and_goes() -> None:
    pixels = picture()
    made = [add_annotations(pixels, np.random.default_rng(seed)) for seed in range(200)]
    assert any((each[:6] == 0).all() for each in made), "a banner taken away"
    assert any(len(np.unique(each[2].reshape(-1, 3), axis=0)) < 8 for each in made), "a banner"
    assert any((each[-1, -20:] == 150).all() for each in made), "an inset's frame"
    assert sum(np.array_equal(each, pixels) for each in made) > 10, "nothing at all"
