"""Recall and ranks of pictures and captions, both ways."""

import numpy as np
import pytest

from training.evaluation.metrics.retrieval import retrieval_metrics


def test_figures_are_those_counted_by_hand() -> None:
    # Picture 0 ranks its text first, 1 second, 2 third.
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.6, 0.3]], np.float32)
    figures = retrieval_metrics(similarity, ["a", "b", "c"], ["x", "y", "z"])
    to_text, to_image = figures["image to text"], figures["text to image"]
    assert to_text["R@1"] == pytest.approx(100 / 3)
    assert to_text["R@2"] == pytest.approx(200 / 3)
    assert to_text["R@5"] == 100
    assert (to_text["MedR"], to_text["MeanR"]) == (2, 2)
    # Text 0 ranks its picture first, 1 second, 2 first.
    assert to_image["R@1"] == pytest.approx(200 / 3)
    assert to_image["MeanR"] == pytest.approx(4 / 3)
    assert figures["rSum"] == pytest.approx(100 / 3 + 200 / 3 + 400)


def test_equal_captions_are_right_for_each_other() -> None:
    similarity = np.array([[0.1, 0.9], [0.9, 0.1]], np.float32)
    assert retrieval_metrics(similarity, ["a", "b"], ["x", "y"])["rSum"] == 400
    assert retrieval_metrics(similarity, ["a", "a"], ["x", "y"])["rSum"] == 600


def test_a_network_that_says_the_same_of_all_gets_no_credit() -> None:
    figures = retrieval_metrics(np.ones((4, 4), np.float32), list("abcd"), list("wxyz"))
    assert figures["image to text"]["R@1"] == 0
    assert figures["image to text"]["MedR"] == 4
    with pytest.raises(ValueError, match="not finite"):
        retrieval_metrics(np.full((2, 2), np.nan, np.float32), ["a", "b"], ["x", "y"])
