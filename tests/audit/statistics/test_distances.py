import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from qc_daemon.audit.statistics.distances import (
    ReferenceBins,
    compare_samples,
    energy_distance,
    median_bandwidth,
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
    values = np.repeat(rng.normal(size=(40, 3)), 10, axis=0) + 0.1 * rng.normal(size=(400, 3))
    exams = np.repeat(np.arange(40), 10).tolist()
    reference, sample = values[:300], values[300:]
    by_exam = compare_samples(reference, sample, exams[:300], exams[300:], seed=3)
    pictures = list(range(400))
    by_picture = compare_samples(reference, sample, pictures[:300], pictures[300:], seed=3)
    assert by_exam.discrepancy == pytest.approx(by_picture.discrepancy)
    assert by_exam.discrepancy_p > 0.01 > by_picture.discrepancy_p
    assert by_exam.energy_p > 0.01 > by_picture.energy_p
    again = compare_samples(reference, sample, exams[:300], exams[300:], seed=3)
    assert again == by_exam
    moved = compare_samples(reference, sample + 2, exams[:300], exams[300:], seed=3)
    # Far below what four hundred permutations can count.
    assert max(moved.discrepancy_p, moved.energy_p) < 1e-4
    with pytest.raises(ValueError, match="both sides"):
        compare_samples(reference, sample, [1] * 300, [1] * 100, seed=3)


def test_a_comparison_is_of_the_two_distances():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 4)), rng.normal(1, 1, (15, 4))
    own = compare_samples(x, y, list(range(20)), list(range(20, 35)), seed=0)
    expected = squared_discrepancy(x, y, median_bandwidth(x))
    assert own.discrepancy == pytest.approx(expected)
    assert own.energy == pytest.approx(energy_distance(x, y))
    within = [np.exp(-(pdist(each, "sqeuclidean") / 2 / 1.5**2)).mean() for each in (x, y)]
    between = np.exp(-(cdist(x, y, "sqeuclidean") / 2 / 1.5**2)).mean()
    assert squared_discrepancy(x, y, 1.5) == pytest.approx(sum(within) - 2 * between)


def test_p_values_of_no_drift_are_even():
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(30), 2).tolist()
    p_values = []
    for seed in range(200):
        exams = np.repeat(rng.normal(size=(30, 5)), 2, axis=0)
        values = exams + rng.normal(size=exams.shape)
        own = compare_samples(
            values[:40], values[40:], groups[:40], groups[40:], seed=seed, permutations=100
        )
        p_values.append((own.discrepancy_p, own.energy_p))
    for each in np.array(p_values).T:
        assert stats.kstest(each, "uniform").pvalue > 0.001
        assert (each < 0.05).mean() < 0.11


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
