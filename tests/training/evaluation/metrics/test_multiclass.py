"""Metrics of several classes, beside scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score, top_k_accuracy_score

from training.evaluation.metrics.multiclass import (
    REJECTED,
    confusion_matrix,
    macro_f1,
    multiclass_metrics,
    top_k_accuracy,
)

LABELS = ["a", "b", "c", "d"]


@given(st.lists(st.tuples(st.sampled_from(LABELS[:3]), st.sampled_from(LABELS)), min_size=1))
def test_means_are_scikit_learns_over_true_classes(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = map(list, zip(*pairs, strict=True))
    metrics = multiclass_metrics(truth, predicted, range(len(truth)), resamples=2)
    options = {"labels": sorted(set(truth)), "average": "macro", "zero_division": 0}
    assert metrics["macro F1"]["value"] == pytest.approx(f1_score(truth, predicted, **options))
    assert metrics["macro recall"]["value"] == pytest.approx(
        recall_score(truth, predicted, **options)
    )
    assert metrics["macro precision"]["value"] == pytest.approx(
        precision_score(truth, predicted, **options)
    )
    assert metrics["weighted F1"]["value"] == pytest.approx(
        f1_score(truth, predicted, **(options | {"average": "weighted"}))
    )


def test_a_rejected_picture_is_missed_and_no_class_of_its_own() -> None:
    metrics = multiclass_metrics(["a", "a", "b"], ["a", REJECTED, "b"], [1, 2, 3], resamples=2)
    assert metrics["rejected"] == 1
    assert set(metrics["by class"]) == {"a", "b"}
    assert metrics["by class"]["a"]["recall"] == 0.5
    assert metrics["macro F1"]["value"] == pytest.approx((2 / 3 + 1) / 2)


def test_the_interval_resamples_patients_not_pictures() -> None:
    """Upstream resamples pictures: pictures of one patient are right or wrong together."""
    generator = np.random.default_rng(0)
    right = generator.random(30) < 0.7
    truth = ["a", "b"] * 150
    predicted = [label if right[n // 10] else "ab"[label == "a"] for n, label in enumerate(truth)]
    patients = multiclass_metrics(truth, predicted, [n // 10 for n in range(300)])
    pictures = multiclass_metrics(truth, predicted, range(300))
    low, high = patients["accuracy"]["interval"]
    narrow_low, narrow_high = pictures["accuracy"]["interval"]
    assert high - low > 2 * (narrow_high - narrow_low)


def test_wrong_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels, 1 predictions"):
        multiclass_metrics(["a", "b"], ["a"], [1, 2])
    with pytest.raises(ValueError):
        multiclass_metrics([], [], [])


def test_counts_and_top_k() -> None:
    counts = confusion_matrix(["a", "a", "b"], ["a", "c", "b"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert macro_f1(counts) == pytest.approx((2 / 3 + 1) / 2)
    probabilities = np.random.default_rng(1).random((40, 4))
    truth = [LABELS[k] for k in np.random.default_rng(2).integers(0, 4, 40)]
    assert top_k_accuracy(truth, probabilities, LABELS, 2) == pytest.approx(
        top_k_accuracy_score(truth, probabilities, k=2, labels=LABELS)
    )
