"""Figures of a judgement, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.evaluation.metrics.classification import (
    classification_metrics,
    risk_coverage,
    sensitivity_at,
)

PROBABILITIES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60)


@given(PROBABILITIES, st.floats(0.5, 0.99))
def test_sensitivity_is_that_of_a_threshold_which_keeps_the_specificity(
    pairs: list[tuple[float, bool]], specificity: float
) -> None:
    p = np.array([value for value, _ in pairs])
    y = np.array([truth for _, truth in pairs])
    assume(y.any() and not y.all())
    reached = sensitivity_at(p, y, specificity)
    # The best over all thresholds that let few enough of the others pass.
    thresholds = [-1.0, *p, 2.0]
    allowed = [t for t in thresholds if np.mean(p[~y] > t) <= 1 - specificity + 1e-9]
    assert reached == pytest.approx(max(np.mean(p[y] > t) for t in allowed))


@given(PROBABILITIES)
def test_risk_at_full_coverage_is_the_error_rate(pairs: list[tuple[float, bool]]) -> None:
    p = np.array([value for value, _ in pairs])
    y = np.array([truth for _, truth in pairs])
    curve = risk_coverage(p, y)
    assert curve["coverage"][-1] == 1
    assert curve["risk"][-1] == pytest.approx(np.mean((p >= 0.5) != y))
    assert len(curve["risk"]) == len(p)


def test_a_perfect_classifier() -> None:
    y = [True] * 30 + [False] * 20
    metrics = classification_metrics([0.99] * 30 + [0.01] * 20, y, list(range(50)))
    assert metrics["AUROC"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert metrics["accuracy"]["value"] == 1
    assert metrics["ECE"]["value"] == pytest.approx(0.01)
    assert metrics["Brier"]["value"] == pytest.approx(0.0001)
    assert (metrics["pictures"], metrics["standard"]) == (50, 30)


def test_one_class_leaves_ranking_metrics_undefined() -> None:
    metrics = classification_metrics([0.2, 0.8, 0.9], [True, True, True], ["a", "b", "c"])
    assert math.isnan(metrics["AUROC"]["value"])
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 3)


def test_intervals_resample_whole_groups() -> None:
    """Ten copies of one picture are one piece of evidence: the interval is as wide as without."""
    generator = np.random.default_rng(0)
    y = generator.random(40) < 0.5
    p = np.clip(y * 0.3 + generator.random(40) * 0.7, 0, 1)
    once = classification_metrics(p, y, list(range(40)))["accuracy"]["interval"]
    copied = classification_metrics(
        np.repeat(p, 10), np.repeat(y, 10), np.repeat(np.arange(40), 10).tolist()
    )
    assert copied["accuracy"]["interval"] == pytest.approx(once)


def test_lengths_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="labels"):
        classification_metrics([0.5], [True, False], ["a"])
