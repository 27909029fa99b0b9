"""Burned-in annotations: a seed decides them, and none lies outside the picture's content."""

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
    original = pixels.copy()
    first, again = (add_annotations(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == pixels.shape
    assert np.array_equal(first, again)
    assert np.array_equal(pixels, original)


def test_a_letterbox_stays_empty() -> None:
    """Annotations are drawn on the picture, not on the letterbox around it."""
    square = np.full((200, 200, 3), FILL, np.uint8)
    square[25:175] = picture()
    for seed in range(50):
        annotated = add_annotations(square, np.random.default_rng(seed))
        assert (annotated[:25] == FILL).all()
        assert (annotated[175:] == FILL).all()


def test_every_kind_of_annotation_occurs() -> None:
    pixels = picture()
    outputs = [add_annotations(pixels, np.random.default_rng(seed)) for seed in range(200)]
    assert any((each[:6] == 0).all() for each in outputs), "the top blanked"
    assert any(len(np.unique(each[2].reshape(-1, 3), axis=0)) < 8 for each in outputs), "a banner"
    assert any((each[-1, -20:] == 150).all() for each in outputs), "an inset's frame"
    assert sum(np.array_equal(each, pixels) for each in outputs) > 10, "unchanged"
