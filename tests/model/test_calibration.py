"""Calibration, its error and its interval."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.anatomy import View
from model.calibration import (
    Calibration,
    Isotonic,
    Scaling,
    bootstrap_interval,
    expected_calibration_error,
)


def sample(n=4000, temperature=2.5, bias=-0.7, seed=0):
    """Logits whose true probability is sigmoid(logit / temperature + bias)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 4, n)
    p = 1 / (1 + np.exp(-(logits / temperature + bias)))
    return logits, (generator.random(n) < p).astype(float)


def test_fit_finds_the_truth():
    scaling = Calibration.fit(*sample()).common
    assert scaling.temperature == pytest.approx(2.5, rel=0.1)
    assert scaling.bias == pytest.approx(-0.7, abs=0.15)


def test_fit_without_bias():
    scaling = Calibration.fit(*sample(bias=0.0), bias=False).common
    assert scaling.bias == 0
    assert scaling.temperature == pytest.approx(2.5, rel=0.1)


def test_fit_lowers_the_calibration_error():
    logits, labels = sample()
    fresh, truth = sample(seed=1)
    raw = expected_calibration_error(1 / (1 + np.exp(-fresh)), truth)
    calibrated = Calibration.fit(logits, labels).calibrate_many(fresh)
    assert expected_calibration_error(calibrated, truth) < raw / 3
    assert expected_calibration_error(calibrated, truth) < 0.04


def test_views_with_enough_samples_get_their_own():
    z1, y1 = sample(temperature=1.0, bias=0.0)
    z2, y2 = sample(temperature=4.0, bias=1.0, seed=2)
    z3, y3 = sample(n=10, seed=3)
    views = [View.NT] * len(z1) + [View.CRL] * len(z2) + [View.HEAD] * len(z3)
    fitted = Calibration.fit(np.r_[z1, z2, z3], np.r_[y1, y2, y3], views)
    assert set(fitted.views) == {View.NT, View.CRL}
    assert fitted.views[View.CRL].temperature == pytest.approx(4.0, rel=0.2)
    assert fitted.calibrate(0.0, View.CRL) > fitted.calibrate(0.0, View.NT)
    assert fitted.calibrate(0.3, View.HEAD) == fitted.calibrate(0.3)
    many = fitted.calibrate_many([0.3, 0.3], [View.CRL, View.HEAD])
    assert many.tolist() == [fitted.calibrate(0.3, View.CRL), fitted.calibrate(0.3)]


def test_separable_samples_stay_finite():
    scaling = Calibration.fit([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1]).common
    assert 0 < scaling.temperature < np.inf


def test_separable_samples_make_no_one_certain():
    """Fifty of each class, apart: a new one on the wrong side has odds of 1:2000 at the least."""
    z, y = np.r_[np.linspace(-3, -0.1, 50), np.linspace(0.1, 3, 50)], np.repeat([0.0, 1.0], 50)
    assert Scaling.fit(z, y).probability([-1.0])[0] > 1 / 2000


@pytest.mark.parametrize(
    ("logits", "labels"),
    [([1.0, 2.0], [1, 1]), ([1.0, np.nan], [0, 1]), ([1.0], [0, 1]), ([1.0, 2.0], [0, 2])],
)
def test_fit_refuses(logits, labels):
    with pytest.raises(ValueError):
        Calibration.fit(logits, labels)


@settings(deadline=None)
@given(
    st.floats(0.05, 50), st.floats(-10, 10), st.lists(st.floats(-30, 30), min_size=2, max_size=20)
)
def test_calibration_is_monotone_and_a_probability(temperature, bias, logits):
    p = Scaling(temperature, bias).probability(sorted(logits))
    assert np.all(np.diff(p) >= 0)
    assert np.all((p >= 0) & (p <= 1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperature(temperature):
    with pytest.raises(ValueError):
        Scaling(temperature)


def test_json_round_trip():
    fitted = Calibration(Scaling(1.7, 0.2), {View.NT: Scaling(0.9, -0.1)})
    assert Calibration.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


LOGITS = st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({truth for _, truth in pairs}) == 2
)


@settings(deadline=None)
@given(LOGITS, st.lists(st.floats(-50, 50), min_size=2, max_size=20))
def test_isotonic_never_falls_and_is_never_certain_of_what_it_has_seen(pairs, fresh):
    fitted = Isotonic.fit([z for z, _ in pairs], [y for _, y in pairs])
    p = fitted.probability(sorted(fresh))
    assert np.all(np.diff(p) >= 0)
    assert np.all((p >= 0) & (p <= 1))
    within_fit = fitted.probability(
        np.clip([z for z, _ in pairs], fitted.logits[0], fitted.logits[-1])
    )
    assert np.all((within_fit > 0) & (within_fit < 1))


@settings(deadline=None)
@given(LOGITS)
def test_isotonic_round_trip(pairs):
    fitted = Isotonic.fit([z for z, _ in pairs], [y for _, y in pairs])
    whole = Calibration(fitted, {View.NT: fitted, View.CRL: Scaling(2.0, 1.0)})
    assert Calibration.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_isotonic_ranks_as_the_logits_do():
    generator = np.random.default_rng(3)
    z = generator.normal(0, 2, 400)
    fitted = Isotonic.fit(z, (generator.random(400) < 1 / (1 + np.exp(-z))).astype(float))
    fresh = np.linspace(-6, 6, 500)
    assert np.all(np.diff(fitted.probability(fresh)) > 0)


def test_isotonic_finds_a_shape_that_scaling_cannot():
    generator = np.random.default_rng(0)
    z = generator.normal(0, 3, 4000)
    true = np.where(z > 0, 0.95, 0.3)
    fitted = Isotonic.fit(z, (generator.random(4000) < true).astype(float))
    is_off_the_step = np.abs(z) > 0.5
    assert np.abs(fitted.probability(z) - true)[is_off_the_step].mean() < 0.05


def test_a_reader_of_scalings_reads_an_isotonic_calibration():
    """What version 0.1 of the bundle's format takes from the manifest is there and usable."""
    fitted = Isotonic.fit([-2.0, -1.0, 1.0, 2.0, 0.0], [0, 0, 1, 1, 1])
    data = Calibration(fitted, {View.NT: fitted}).to_json()
    assert Scaling(data["temperature"], data["bias"]) == fitted.scaling
    own = data["views"]["NT"]
    assert Scaling(own["temperature"], own["bias"]) == fitted.scaling


def test_a_calibration_without_isotonic_is_read_as_before():
    data = {"temperature": 0.5, "bias": 1.0, "views": {"NT": {"temperature": 2.0, "bias": 0.0}}}
    assert Calibration.from_json(data) == Calibration(
        Scaling(0.5, 1.0), {View.NT: Scaling(2.0, 0.0)}
    )
    assert Calibration.from_json(data).to_json() == data


@pytest.mark.parametrize(
    ("logits", "log_odds"),
    [
        ((), ()),
        ((0.0, 1.0), (0.0,)),
        ((0.0, 1.0), (1.0, 0.5)),
        ((1.0, 1.0), (0.0, 1.0)),
        ((0.0, float("nan")), (0.0, 1.0)),
        ((0.0, 1.0), (0.0, float("inf"))),
    ],
)
def test_impossible_isotonic(logits, log_odds):
    with pytest.raises(ValueError):
        Isotonic(Scaling(), logits, log_odds)


def test_perfect_prediction_has_no_error():
    labels = np.array([0, 1, 1, 0] * 10, float)
    assert expected_calibration_error(labels, labels) == 0
    assert expected_calibration_error(np.full(40, 0.5), labels) == 0


def test_known_error():
    assert expected_calibration_error(np.full(10, 0.9), np.r_[np.ones(5), np.zeros(5)]) == (
        pytest.approx(0.4)
    )
    p = np.r_[np.full(50, 0.2), np.full(50, 0.8)]
    y = np.r_[np.ones(50), np.zeros(50)]
    assert expected_calibration_error(p, y, bins=2) == pytest.approx(0.8)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 15))
def test_error_is_bounded_and_blind_to_order(seed, n, bins):
    generator = np.random.default_rng(seed)
    p = generator.integers(0, 6, n) / 5
    y = generator.integers(0, 2, n).astype(float)
    error = expected_calibration_error(p, y, bins)
    order = generator.permutation(n)
    assert 0 <= error <= 1
    assert expected_calibration_error(p[order], y[order], bins) == pytest.approx(error, abs=1e-12)


def test_bins_have_equal_mass():
    """Two crowded bins with opposite errors must not cancel in one wide bin."""
    p = np.r_[np.full(50, 0.90), np.full(50, 0.95), np.full(2, 0.1)]
    y = np.r_[np.ones(50), np.full(50, 0.0), 0, 0]
    assert expected_calibration_error(p, y) > 0.5


def test_interval_covers_and_widens_with_groups():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(1.0, 1.0, 40), 10)

    def mean(indices):
        return float(values[indices].mean())

    single = bootstrap_interval(mean, list(range(400)), resamples=400)
    grouped = bootstrap_interval(mean, [k // 10 for k in range(400)], resamples=400)
    assert grouped[0] < values.mean() < grouped[1]
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])
    assert bootstrap_interval(mean, [k // 10 for k in range(400)], resamples=400) == grouped


def test_interval_of_a_metric_that_is_mostly_undefined():
    with pytest.raises(ValueError, match="undefined"):
        bootstrap_interval(lambda _: float("nan"), ["a", "b"], resamples=10)
    with pytest.raises(ValueError):
        bootstrap_interval(lambda _: 0.0, [])
