"""Alignment of image, text and layout: cosines and retrieval, on features made by hand."""

import numpy as np
import pytest

from training.evaluation.metrics.alignment import PAIRS, alignment_metrics, recall_at_k


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_perfectly_aligned_features() -> None:
    own = np.eye(20)
    metrics = alignment_metrics(np.stack([own] * 3, axis=1), [f"words {i}" for i in range(20)])
    assert set(metrics) == set(PAIRS)
    for pair in metrics.values():
        assert pair["matched"] == {"mean": 1.0, "SD": 0.0}
        assert pair["mismatched"] == {"mean": 0.0, "SD": 0.0}
        assert pair["retrieval"]["there"] == {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0}
        assert pair["retrieval"]["chance"]["R@5"] == pytest.approx(5 / 20)


def test_features_without_any_alignment_retrieve_at_chance() -> None:
    features = unit(np.random.default_rng(0).normal(size=(400, 3, 32)))
    metrics = alignment_metrics(features, [f"words {i}" for i in range(400)])
    for pair in metrics.values():
        assert abs(pair["matched"]["mean"] - pair["mismatched"]["mean"]) < 0.05
        for rank, chance in pair["retrieval"]["chance"].items():
            assert pair["retrieval"]["there"][rank] == pytest.approx(chance, abs=0.03)


def test_equal_descriptions_match_but_layouts_do_not() -> None:
    text = np.tile([[1.0, 0.0]], (4, 1))
    image = unit(np.array([[1.0, 0.1], [1.0, -0.1], [0.9, 0.2], [1.0, 0.0]]))
    metrics = alignment_metrics(np.stack([image, text, image], axis=1), ["the same"] * 4)
    assert "mismatched" not in metrics["image-text"]
    assert metrics["image-text"]["retrieval"]["back"]["R@1"] == 1
    assert metrics["image-layout"]["retrieval"]["chance"]["R@1"] == pytest.approx(1 / 4)


def test_collapsed_features_retrieve_nothing() -> None:
    """All cosines equal: no column is nearer than another, which is no success."""
    same = np.eye(40, dtype=bool)
    assert recall_at_k(np.ones((40, 40)), same) == {"R@1": 0, "R@5": 0, "R@10": 0}
