import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import View
from detector.boxes import Detection
from model.criteria.checks import Better, CriteriaThresholds
from training.bundling.fit_criteria import CriteriaSample, band_of, fit, rates

MET = np.array([True] * 20 + [False] * 20)


def test_values_apart_are_cut_between():
    values = np.r_[np.linspace(5, 6, 20), np.linspace(1, 2, 20)]
    band = band_of(values, MET, Better.HIGH)
    assert 2 < band.unmet_below <= band.met_from < 5
    low = band_of(-values, MET, Better.LOW)
    assert (low.met_to, low.unmet_above) == (-band.met_from, -band.unmet_below)


def test_overlap_becomes_the_band_of_cannot_tell():
    values = np.r_[np.linspace(4, 10, 20), np.linspace(0, 6, 20)]
    band = band_of(values, MET, Better.HIGH)
    assert band.unmet_below < band.met_from
    assert band.judge((band.unmet_below + band.met_from) / 2) is None


def test_middle_has_two_ends():
    values = np.r_[np.linspace(4, 6, 20), np.linspace(0, 1, 10), np.linspace(9, 10, 10)]
    band = band_of(values, MET, Better.MIDDLE)
    assert [band.judge(v) for v in (0.5, 5, 9.5)] == [False, True, False]


def test_values_that_do_not_separate_give_no_band():
    values = np.r_[np.arange(20), np.arange(20)].astype(float)
    assert band_of(values, MET, Better.HIGH) is None
    assert band_of(np.ones(40), MET, Better.HIGH) is None


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=2, max_size=60))
def test_any_values_give_a_band_or_none(pairs):
    values = np.array([value for value, _ in pairs])
    truths = np.array([truth for _, truth in pairs])
    if truths.all() or not truths.any():
        return
    for better in Better:
        band = band_of(values, truths, better)
        assert band is None or band.unmet_below <= band.met_from <= band.met_to


@pytest.fixture(scope="module")
def samples():
    """Heads large and small, with a plexus or without; grey enough to be measured."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 160, (100, 150, 3)).astype(np.uint8)
    items = []
    for number in range(40):
        large, both = number % 2 == 0, number % 4 < 2
        half = rng.uniform(35, 45) if large else rng.uniform(10, 20)
        detections = [Detection("CB", (75 - half, 50 - half, 75 + half, 50 + half), 0.9)]
        detections += [Detection("CP1", (65, 45, 72, 55), 0.8)]
        detections += [Detection("CP2", (78, 45, 85, 55), 0.8)] if both else []
        truth = {"CRIT-SIZE": large, "CRIT-CHOROID": both}
        items.append(CriteriaSample(View.HEAD, detections, pixels, truth))
    return items


def test_fit_finds_the_thresholds_of_the_samples(samples):
    thresholds = fit(samples, CriteriaThresholds(measured={}))
    assert set(thresholds.measured[View.HEAD]) == {"CRIT-SIZE"}
    by_code = {rate.code: rate for rate in rates(samples, thresholds)}
    for code in ("CRIT-SIZE", "CRIT-CHOROID"):
        assert (by_code[code].sensitivity, by_code[code].specificity) == (1, 1)
        assert by_code[code].undecided == 0
        assert (by_code[code].met, by_code[code].unmet) == (20, 20)


def test_too_few_samples_keep_the_start_thresholds(samples):
    start = CriteriaThresholds()
    assert fit(samples[:6], start).measured == {
        view: dict(bands) for view, bands in start.measured.items()
    }


def test_undecided_is_reported(samples):
    rate = rates(samples, CriteriaThresholds(measured={}))[0]
    assert rate.code == "CRIT-SIZE"
    assert (rate.undecided, rate.sensitivity, rate.specificity) == (1, None, None)
