"""Another scanner's style changes the picture, never its shape, and the same way for a seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.augment import scanner


@given(st.integers(0, 10_000), st.integers(40, 90), st.integers(40, 90))
def test_shape_type_and_seed(seed: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    original = pixels.copy()
    first, again = (scanner.restyle(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.array_equal(pixels, original)


def test_anatomy_stays_where_it_is() -> None:
    """A bright disc is still the brightest place, whatever the style."""
    pixels = np.full((120, 160, 3), 40, np.uint8)
    pixels[50:70, 70:90] = 180
    for seed in range(60):
        restyled = scanner.restyle(pixels, np.random.default_rng(seed)).astype(float)
        assert restyled[53:67, 73:87].mean() > restyled[20:45, 60:100].mean() + 20
