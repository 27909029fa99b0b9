"""Looks: pictures of one machine belong together, whatever they show."""

import numpy as np

from training.data.styles import LEAST_PICTURES, cluster_styles, style_features


def picture(seed: int, grain: int, floor: int, width: int) -> np.ndarray:
    """Blocks of `grain` pixels with noise, on a floor of grey: a machine's look."""
    generator = np.random.default_rng(seed)
    small = generator.integers(floor, 200, (240 // grain, width // grain))
    grey = np.kron(small, np.ones((grain, grain))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def test_two_machines_are_two_looks() -> None:
    first = [style_features(picture(i, 2, 0, 320)) for i in range(50)]
    second = [style_features(picture(i, 8, 60, 400)) for i in range(30)]
    names, separation = cluster_styles(first + second)
    assert names == ["look 1"] * 50 + ["look 2"] * 30
    assert separation is not None
    assert separation > 0.5


def test_the_same_pictures_get_the_same_looks() -> None:
    found = [style_features(picture(i, 1 + i % 4, 10 * (i % 3), 300)) for i in range(60)]
    assert cluster_styles(found) == cluster_styles(found)


def test_few_pictures_are_one_look() -> None:
    found = [style_features(picture(i, 2 + 6 * (i % 2), 0, 320)) for i in range(LEAST_PICTURES - 1)]
    assert cluster_styles(found) == (["look 1"] * (LEAST_PICTURES - 1), None)


def test_a_tiny_or_black_region_is_described_too() -> None:
    for shape in ((1, 1, 3), (3, 500, 3), (40, 40, 3)):
        assert np.isfinite(style_features(np.zeros(shape, np.uint8))).all()
