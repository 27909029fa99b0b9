"""Image statistics of pictures whose statistics are known."""

import json
import math
from typing import Any

import numpy as np
import pytest

from model.image_features import (
    MOST_DIMENSIONS,
    STATISTICS,
    ImageFeatures,
)
from model.image_statistics import MOST_PIXELS, measure_image
from tests.support.image_features import EMBEDDING, FEATURES


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_an_even_picture() -> None:
    own = measure_image(np.full((30, 40, 3), 41, np.uint8), (0.2, 0.1))
    assert (own.mean, own.median, own.percentile_1, own.percentile_99) == (41, 41, 41, 41)
    assert (own.deviation, own.sharpness, own.noise, own.entropy) == (0, 0, 0, 0)
    assert (own.black, own.saturated, own.colour) == (0, 0, 0)
    # Down the picture, as depth is.
    assert (own.width, own.height, own.spacing) == (40, 30, 0.1)


def test_grey_levels_black_and_saturated_pixels() -> None:
    values = np.full((10, 100), 100)
    values[:2], values[-1] = 0, 255
    own = measure_image(grey(values))
    assert own.mean == pytest.approx(0.7 * 100 + 0.1 * 255)
    assert own.deviation == pytest.approx(values.std())
    assert (own.black, own.saturated) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (own.percentile_1, own.median, own.percentile_99) == (0, 100, 255)
    shares = np.array([0.2, 0.7, 0.1])
    assert own.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
    assert own.spacing is None


def test_noise_is_its_standard_deviation_in_grey_levels() -> None:
    generator = np.random.default_rng(0)
    ramp = np.linspace(60, 180, 400)[None, :] * np.ones((300, 1))
    for deviation in (2.0, 8.0):
        noisy = grey(np.round(ramp + generator.normal(0, deviation, ramp.shape)))
        assert measure_image(noisy).noise == pytest.approx(deviation, rel=0.05)
    assert measure_image(grey(ramp)).noise < 0.5


def test_a_blurred_picture_is_less_sharp() -> None:
    generator = np.random.default_rng(0)
    values = generator.rayleigh(40, (200, 200))
    blurred = sum(np.roll(values, shift, axis) for shift in (-1, 0, 1) for axis in (0, 1)) / 6
    sharp, soft = (measure_image(grey(np.asarray(each))) for each in (values, blurred))
    assert soft.sharpness < 0.5 * sharp.sharpness
    # The variance of the four neighbours less four times the middle, of values that are apart.
    assert sharp.sharpness == pytest.approx(20 * grey(values)[..., 0].var(), rel=0.05)


def test_coloured_pixels() -> None:
    pixels = np.full((10, 10, 3), 90, np.uint8)
    pixels[:4, :, 0] = 200
    pixels[4:, :, 1] += 10
    assert measure_image(pixels).colour == pytest.approx(0.4)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (1, 2000), (2000, 1)])
def test_a_tiny_region_has_statistics(size: tuple[int, int]) -> None:
    own = measure_image(np.full((*size, 3), 7, np.uint8))
    assert (own.height, own.width) == size
    assert all(math.isfinite(getattr(own, name)) for name in STATISTICS[:-1])


def test_of_a_large_region_the_middle_rows_count() -> None:
    width, rows = 1600, MOST_PIXELS // 1600
    pixels = np.zeros((3 * rows, width, 3), np.uint8)
    pixels[rows : 2 * rows] = 50
    own = measure_image(pixels)
    assert (own.mean, own.black) == (50, 0)
    assert own.height == 3 * rows


def test_features_are_the_same_after_json() -> None:
    body = json.loads(json.dumps(FEATURES.to_json()))
    assert ImageFeatures.from_json(body) == FEATURES
    assert FEATURES.embedding is not None
    assert np.frombuffer(FEATURES.embedding, "<f2") == pytest.approx(EMBEDDING, abs=1e-3)
    assert ImageFeatures.from_json({}) == ImageFeatures(None, None)
    later = body | {"statistics": body["statistics"] | {"measured_later": 1}}
    assert ImageFeatures.from_json(later) == FEATURES


@pytest.mark.parametrize(
    "change",
    [
        {"statistics": {}},
        {"statistics": 3},
        {"embedding": "not base64"},
        {"embedding": ""},
        {"embedding": "AA=="},
        {"embedding": "AH4AAA=="},
        {"embedding": "AAAA" * (MOST_DIMENSIONS // 3 * 2 + 4)},
    ],
)
def test_what_is_no_features_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        ImageFeatures.from_json(FEATURES.to_json() | change)


@pytest.mark.parametrize("value", [None, float("nan"), True, "41"])
def test_a_statistic_that_is_no_number_is_refused(value: Any) -> None:
    body = FEATURES.to_json()
    with pytest.raises(ValueError, match="mean is no number"):
        ImageFeatures.from_json(body | {"statistics": body["statistics"] | {"mean": value}})
