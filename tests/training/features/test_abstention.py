"""Scores of abstention by hand, and what their thresholds are worth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.features.test_probe import CLASSES, made_up
from training.features.abstention import (
    Score,
    abstention_figures,
    energy_score,
    neighbour_score,
    softmax_score,
    threshold,
)
from training.features.probe import choose_score, classify, evaluate_probe, fit_probe, save_probe
from training.features.probe import load_probe as read_probe


def test_scores_of_logits_by_hand() -> None:
    logits = np.array([[math.log(3), 0.0], [0.0, 0.0], [1000.0, 0.0]])
    assert softmax_score(logits) == pytest.approx([0.25, 0.5, 0.0])
    assert energy_score(logits) == pytest.approx([-math.log(4), -math.log(2), -1000.0])


def test_the_neighbour_is_the_fifth_most_similar() -> None:
    angles = np.radians([0, 10, 20, 30, 40, 90])
    bank = np.stack((np.cos(angles), np.sin(angles)), 1) * 7.0
    assert neighbour_score(np.array([[2.0, 0.0]]), bank) == pytest.approx(
        [1 - math.cos(math.radians(40))]
    )
    # Of fewer than five it is the furthest.
    assert neighbour_score(np.array([[2.0, 0.0]]), bank[:2]) == pytest.approx(
        [1 - math.cos(math.radians(10))]
    )


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6))
def test_softmax_and_energy_agree_with_their_definitions(row: list[float]) -> None:
    powers = [math.exp(each) for each in row]
    logits = np.array([row])
    assert softmax_score(logits)[0] == pytest.approx(1 - max(powers) / sum(powers), abs=1e-9)
    assert energy_score(logits)[0] == pytest.approx(-math.log(sum(powers)), abs=1e-9)


def test_figures_on_a_worked_example() -> None:
    """Ten known pictures in two folds, scores 0 to 9: each fold's threshold is of the other."""
    known = np.arange(10.0)
    fold_of = np.array([0, 1] * 5)
    right = known < 8
    figures = abstention_figures(
        known, right, [f"p{n}" for n in range(10)], fold_of,
        np.array([5.0, 20.0]), ["u1", "u2"], shares=(0.5,),
    )  # fmt: skip
    (entry,) = figures["at"]
    # Even fold: threshold 5, so 0, 2, 4; odd fold: threshold 4, so 1, 3.
    assert entry["answered"]["value"] == 0.5
    assert entry["wrong of the answered"]["value"] == 0.0
    # All known scores have the median 4.5: 5 is above it.
    assert entry["unknown named"]["value"] == 0.0
    # 20 is above all ten, 5 above five and level with one.
    assert figures["AUROC"] == pytest.approx((10 + 5.5) / 20)
    (whole,) = abstention_figures(known, right, list("abcdefghij"), fold_of, shares=(1.0,))["at"]
    # The even fold's highest is below the odd fold's, but not the other way round: 9 of 10.
    assert whole["answered"]["value"] == 0.9
    assert whole["wrong of the answered"]["value"] == pytest.approx(1 / 9)


def test_a_class_that_was_left_out_is_told() -> None:
    score, aurocs = choose_score(made_up(separation=5), 0.1)
    assert set(aurocs) == {each.value for each in Score}
    assert aurocs[score.value] == max(
        aurocs[each] for each in ("mahalanobis", "relative", "neighbour")
    )
    assert aurocs[score.value] > 0.9


def test_a_probe_keeps_its_score(tmp_path: object) -> None:
    data = made_up(40, separation=5)
    for score in (Score.NEIGHBOUR, Score.RELATIVE, Score.ENERGY):
        probe, figures = evaluate_probe(data, abstention=score, answered=0.8)
        assert figures["abstention"]["score"] == score.value
        assert figures["with abstention"]["answered"] == pytest.approx(0.8, abs=0.02)
        folder = tmp_path / score.value  # type: ignore[operator]
        save_probe(folder, probe)
        before, after = classify(probe, data), classify(read_probe(folder), data)
        assert [each["label"] for each in after] == [each["label"] for each in before]
        assert after[0]["distance"] == pytest.approx(before[0]["distance"], rel=1e-4)
        assert after[0]["abstention"] == score.value
    assert set(figures["abstention"]["scores"]) == {each.value for each in Score}


def test_relative_distance_is_less_the_distance_to_all() -> None:
    data = made_up(40)
    probe = fit_probe(data, 0.1)
    rows = probe.layer.standardise(data.features[:5])
    inverse = probe.whitening_of_all @ probe.whitening_of_all.T
    expected = probe.distances(data.features[:5]) ** 2 - np.einsum(
        "nd,de,ne->n", rows, inverse, rows
    )
    assert probe.scores(data.features[:5], Score.RELATIVE) == pytest.approx(expected)
    assert threshold(np.arange(101.0), 0.95) == 95.0
    assert probe.layer.classes == CLASSES
