"""The threshold below which no class is named: fitted, kept, and judged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.console import UsageError
from training.evaluation.abstention import (
    abstention_metrics,
    fit_abstention,
    read_abstention,
    save_abstention,
)


def rows(sure: list[float], classes: int = 3) -> np.ndarray:
    """The first class is the surest."""
    p = np.array(sure)
    return np.column_stack([p, *[(1 - p) / (classes - 1)] * (classes - 1)])


def test_the_threshold_by_hand() -> None:
    # Surest first: right, right, wrong, right, wrong.
    truth = [0, 0, 1, 0, 2]
    sure = [0.9, 0.8, 0.7, 0.6, 0.5]
    fitted = fit_abstention(rows(sure), truth, list("aabbc"), target=0.7)
    assert fitted.least_probability == 0.6
    assert (fitted.coverage, fitted.accuracy) == (0.8, 0.75)
    assert (fitted.pictures, fitted.patients) == (5, 3)
    assert fit_abstention(rows(sure), truth, list("aabbc"), target=0.8).least_probability == 0.8


def test_pictures_of_one_probability_are_answered_together() -> None:
    fitted = fit_abstention(rows([0.9, 0.6, 0.6]), [0, 0, 1], list("abc"), target=0.9)
    assert (fitted.least_probability, fitted.coverage) == (0.9, pytest.approx(1 / 3))


def test_where_nothing_is_right_nothing_is_named() -> None:
    fitted = fit_abstention(rows([0.9, 0.8]), [1, 1], list("ab"))
    assert (fitted.least_probability, fitted.coverage, fitted.accuracy) == (2.0, 0.0, None)
    figures = abstention_metrics(rows([0.9, 0.8]), [1, 1], ("x", "y", "z"), list("ab"), [2.0, 2.0])
    assert figures["coverage"]["value"] == 0
    assert figures["macro F1"] is figures["accuracy"] is None


@given(
    st.lists(st.tuples(st.floats(0.34, 1.0), st.booleans()), min_size=1, max_size=40),
    st.floats(0.5, 1.0),
)
def test_it_is_the_lowest_threshold_that_keeps_what_was_asked(
    pictures: list[tuple[float, bool]], target: float
) -> None:
    sure = np.array([p for p, _ in pictures])
    right = np.array([r for _, r in pictures])
    truth = np.where(right, 0, 1)
    fitted = fit_abstention(rows(sure.tolist()), truth, list(range(len(truth))), target)
    answered = sure >= fitted.least_probability
    assert fitted.coverage == pytest.approx(answered.mean())
    if answered.any():
        assert right[answered].mean() >= target
    for lower in sure[sure < fitted.least_probability]:
        assert right[sure >= lower].mean() < target


def test_figures_are_of_those_that_get_a_class() -> None:
    figures = abstention_metrics(
        rows([0.9, 0.9, 0.5, 0.5]), [0, 0, 1, 0], ("x", "y", "z"), list("abcd"), [0.6] * 4, 50
    )
    assert figures["coverage"]["value"] == 0.5
    assert figures["accuracy"]["value"] == 1
    low, high = figures["coverage"]["interval"]
    assert 0 <= low <= 0.5 <= high <= 1


def test_it_is_kept_beside_the_model(tmp_path: Path) -> None:
    path = tmp_path / "abstention.json"
    assert read_abstention(path) is None
    fitted = fit_abstention(rows([0.9, 0.8]), [0, 1], list("ab"))
    save_abstention(path, fitted)
    assert read_abstention(path) == fitted
    for text in ("[]", "{", '{"least_probability": 9}'):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"abstention\.json is no abstention"):
            read_abstention(path)
