import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qc_daemon.audit.distances import (
    ReferenceBins,
    energy_distance,
    median_bandwidth,
    permutation_p_value,
    squared_discrepancy,
    stability_index,
)


def test_published_distances():
    assert stability_index([0.5, 0.5], [0.6, 0.4]) == pytest.approx(0.0405465, abs=6e-8)
    assert squared_discrepancy([0, 1, 2], [1, 2, 3], 1.0) == pytest.approx(-0.147269, abs=6e-7)
    assert energy_distance([0], [2]) == pytest.approx(4)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=20),
    st.lists(st.floats(-50, 50), min_size=1, max_size=20),
)
def test_energy_is_the_square_of_scipy_s(x, y):
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x, y) ** 2, abs=1e-7)


def test_the_index_of_no_drift_has_its_law():
    """N = 1000, M = 100, ten bins: its mean is 0.105, and 46 % lie above 0.1."""
    rng = np.random.default_rng(0)
    indices, p_values = [], []
    for _ in range(1500):
        reference = ReferenceBins.of(rng.normal(size=1000))
        sample = rng.normal(size=100)
        indices.append(reference.stability_index(sample))
        p_values.append(reference.p_value(sample))
    assert np.mean(indices) == pytest.approx(0.105, abs=0.008)
    assert np.mean(np.array(indices) > 0.1) == pytest.approx(0.46, abs=0.05)
    # Somewhat more than 5 %, for empty bins count for more than the law has it.
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)


def test_drift_has_a_low_p_value():
    rng = np.random.default_rng(1)
    reference = ReferenceBins.of(rng.normal(size=5000))
    assert reference.p_value(rng.normal(size=400)) > 0.01
    assert reference.p_value(rng.normal(0.4, 1, 400)) < 1e-6


def test_values_that_are_all_alike_share_a_bin():
    reference = ReferenceBins.of([0] * 80 + [1] * 20)
    assert len(reference.shares) == 2
    assert reference.shares.tolist() == [0.8, 0.2]
    for values, message in (([1, 1], "differ"), ([], "differ"), ([1, np.nan], "finite")):
        with pytest.raises(ValueError, match=message):
            ReferenceBins.of(values)
    with pytest.raises(ValueError, match="no values"):
        reference.stability_index([])
    with pytest.raises(ValueError, match="not finite"):
        reference.p_value([0.0, np.nan])


def test_whole_exams_are_dealt_out():
    """Ten pictures an exam that are alike: by picture chance looks like drift, by exam it does
    not."""
    rng = np.random.default_rng(2)
    levels = rng.normal(size=40)
    values = np.repeat(levels, 10)
    exams = np.repeat(np.arange(40), 10)
    is_sample = exams >= 30

    def distance(rows):
        return abs(values[rows].mean() - values[~rows].mean())

    by_exam = permutation_p_value(distance, is_sample, exams.tolist(), seed=3)
    by_picture = permutation_p_value(distance, is_sample, list(range(400)), seed=3)
    assert by_exam > by_picture
    values[is_sample] += 3
    assert permutation_p_value(distance, is_sample, exams.tolist(), seed=3) < 0.02
    assert permutation_p_value(distance, is_sample, exams.tolist(), seed=3) == (
        permutation_p_value(distance, is_sample, exams.tolist(), seed=3)
    )
    with pytest.raises(ValueError, match="both sides"):
        permutation_p_value(distance, is_sample, ["one"] * 400, seed=3)


def test_the_bandwidth_is_the_reference_s():
    assert median_bandwidth([[0.0, 0], [3, 4], [6, 8]]) == 5
    with pytest.raises(ValueError, match="do not differ"):
        median_bandwidth([[1.0], [1.0]])
    with pytest.raises(ValueError, match="two rows"):
        squared_discrepancy([1.0], [1.0, 2.0], 1.0)


def test_discrepancy_is_unbiased():
    rng = np.random.default_rng(4)
    values = [
        squared_discrepancy(rng.normal(size=(30, 2)), rng.normal(size=(20, 2)), 1.5)
        for _ in range(400)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert squared_discrepancy(rng.normal(size=(80, 2)), rng.normal(1, 1, (80, 2)), 1.5) > 0.05
