"""Styles: pictures of one machine are one cluster, whatever they show."""

import numpy as np

from training.data.styles import MIN_PICTURES, cluster_styles, style_features


def picture(seed: int, grain: int, floor: int, width: int) -> np.ndarray:
    """Blocks of `grain` pixels with noise, on a floor of grey: a machine's style."""
    generator = np.random.default_rng(seed)
    small = generator.integers(floor, 200, (240 // grain, width // grain))
    grey = np.kron(small, np.ones((grain, grain))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def test_two_machines_are_two_styles() -> None:
    first = [style_features(picture(i, 2, 0, 320)) for i in range(50)]
    second = [style_features(picture(i, 8, 60, 400)) for i in range(30)]
    names, separation = cluster_styles(first + second)
    assert names == ["look 1"] * 50 + ["look 2"] * 30
    assert separation is not None
    assert separation > 0.5


def test_the_same_pictures_get_the_same_styles() -> None:
    features = [style_features(picture(i, 1 + i % 4, 10 * (i % 3), 300)) for i in range(60)]
    assert cluster_styles(features) == cluster_styles(features)


def test_few_pictures_are_one_style() -> None:
    features = [
        style_features(picture(i, 2 + 6 * (i % 2), 0, 320)) for i in range(MIN_PICTURES - 1)
    ]
    assert cluster_styles(features) == (["look 1"] * (MIN_PICTURES - 1), None)


def test_a_tiny_or_black_region_has_finite_features() -> None:
    for shape in ((1, 1, 3), (3, 500, 3), (40, 40, 3)):
        assert np.isfinite(style_features(np.zeros(shape, np.uint8))).all()
