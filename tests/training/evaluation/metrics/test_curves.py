"""Curves against scikit-learn, and against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from model.calibration import expected_calibration_error
from training.evaluation.metrics.classification import f1
from training.evaluation.metrics.curves import (
    auroc,
    average_precision,
    precision_recall,
    reliability,
    roc,
    wilson,
)

PAIRS = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), st.booleans()),
    min_size=2,
    max_size=60,
)


def split(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs]), np.array([y for _, y in pairs])


@settings(deadline=None)
@given(PAIRS.filter(lambda pairs: len({y for _, y in pairs}) == 2))
def test_areas_are_scikit_learn_s(pairs: list[tuple[float, bool]]) -> None:
    p, y = split(pairs)
    assert auroc(p, y) == pytest.approx(roc_auc_score(y, p))
    assert average_precision(p, y) == pytest.approx(average_precision_score(y, p))
    curve = roc(p, y)
    below = np.trapezoid(curve["true positive rate"], curve["false positive rate"])
    assert below == pytest.approx(auroc(p, y))
    assert curve["true positive rate"][-1] == curve["false positive rate"][-1] == 1
    share = precision_recall(p, y)
    assert share["precision"][-1] == pytest.approx(y.mean())


@settings(deadline=None)
@given(PAIRS)
def test_f1_is_scikit_learn_s(pairs: list[tuple[float, bool]]) -> None:
    p, y = split(pairs)
    assert f1(p, y) == pytest.approx(f1_score(y, p >= 0.5, zero_division=0))


@settings(deadline=None)
@given(PAIRS)
def test_bins_of_the_reliability_plot_are_those_of_the_error(
    pairs: list[tuple[float, bool]],
) -> None:
    p, y = split(pairs)
    bins = reliability(p, y)
    assert sum(each["pictures"] for each in bins) == len(p)
    error = sum(abs(b["observed"] - b["predicted"]) * b["pictures"] for b in bins) / len(p)
    assert error == pytest.approx(expected_calibration_error(p, y), abs=1e-9)
    for each in bins:
        low, high = each["interval"]
        assert low - 1e-9 <= each["observed"] <= high + 1e-9


def test_one_class_has_no_curve() -> None:
    assert roc([0.1, 0.9], [True, True])["true positive rate"] == []
    assert precision_recall([0.1, 0.9], [False, False])["recall"] == []
    assert math.isnan(auroc(np.array([0.1]), np.array([True])))


def test_wilson_by_hand() -> None:
    """Newcombe 1998, table I: 81 of 263."""
    assert wilson(81, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == pytest.approx(1)
