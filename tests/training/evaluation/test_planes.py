"""Figures of planes: by class, confused with what, intervals by patient; absent classes handled."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

from training.evaluation.abstention import abstention_metrics
from training.evaluation.planes import (
    draw_confusion_matrix,
    draw_roc,
    plane_metrics,
    print_abstention,
    print_plane_metrics,
)

CLASSES = ("abdomen", "brain", "cervix", "femur")
TRUTH = np.array([0, 0, 0, 1, 1, 3, 3, 3])
PREDICTED = np.array([0, 0, 1, 1, 2, 3, 3, 0])
"""Of cervix (2) there is no picture, but one prediction; each class has a patient or more."""
PATIENTS = list("aabbccdd")


def probability(predicted: np.ndarray, sure: float = 0.7) -> np.ndarray:
    rows = np.full((len(predicted), len(CLASSES)), (1 - sure) / (len(CLASSES) - 1))
    rows[np.arange(len(predicted)), predicted] = sure
    return rows


def figures() -> dict:
    return plane_metrics(probability(PREDICTED), TRUTH, CLASSES, PATIENTS, resamples=200)


def test_a_class_without_pictures_keeps_its_row_and_column() -> None:
    """Upstream drops classes that are never predicted, so that its labels shift."""
    matrix = figures()["confusion"]["pictures"]
    assert matrix == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 2]]
    assert figures()["confusion"]["labels"] == list(CLASSES)


def test_figures_are_scikit_learns_over_the_present_classes() -> None:
    report = figures()
    labels = [0, 1, 3]
    precision, recall, f1, support = precision_recall_fscore_support(
        TRUTH, PREDICTED, labels=labels
    )
    for at, index in enumerate(labels):
        row = report["by class"][CLASSES[index]]
        assert row["precision"] == pytest.approx(precision[at])
        assert row["recall"] == pytest.approx(recall[at])
        assert row["F1"] == pytest.approx(f1[at])
        assert row["pictures"] == support[at]
    assert report["macro F1"]["value"] == pytest.approx(
        f1_score(TRUTH, PREDICTED, labels=labels, average="macro")
    )
    assert report["macro recall"]["value"] == pytest.approx(
        balanced_accuracy_score(TRUTH, PREDICTED)
    )
    assert report["accuracy"]["value"] == pytest.approx(5 / 8)
    assert report["absent classes"] == ["cervix"]
    assert report["by class"]["cervix"] == {
        "precision": 0.0,
        "recall": None,
        "F1": None,
        "pictures": 0,
        "predicted": 1,
    }


def test_the_interval_is_of_patients_and_not_of_pictures() -> None:
    """Ten pictures of a patient are no ten pieces of evidence."""
    generator = np.random.default_rng(0)
    truth = np.repeat(generator.integers(0, 2, 40), 10)
    wrong = np.repeat(generator.random(40) < 0.3, 10)
    predicted = np.where(wrong, 1 - truth, truth)
    rows = np.eye(2)[predicted]
    by_patient = plane_metrics(rows, truth, ("a", "b"), np.repeat(np.arange(40), 10).tolist())
    by_picture = plane_metrics(rows, truth, ("a", "b"), list(range(400)))
    widths = [np.subtract(*each["macro F1"]["interval"][::-1]) for each in (by_patient, by_picture)]
    assert widths[0] > 2 * widths[1]
    low, high = by_patient["macro F1"]["interval"]
    assert low <= by_patient["macro F1"]["value"] <= high
    assert by_patient["groups"] == 40


def test_figures_are_json_without_nan() -> None:
    assert json.loads(json.dumps(figures(), allow_nan=False))["pictures"] == 8


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="8 labels"):
        plane_metrics(probability(PREDICTED)[:, :3], TRUTH, CLASSES, PATIENTS)


def test_the_table_shows_every_class_and_names_the_absent_ones() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    print_plane_metrics(figures(), console)
    text = console.export_text()
    assert "8 pictures of 4 patients" in text
    assert all(name in text for name in CLASSES)
    assert "no picture of: cervix" in text
    assert "macro F1 0.656 (95 % " in text


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_matrix_is_drawn_without_a_display(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        draw_confusion_matrix(figures(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_the_roc_has_a_curve_of_each_class_that_is_there(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"roc.{suffix}"
    draw_roc(probability(PREDICTED), TRUTH, CLASSES, path)
    assert path.stat().st_size > 1000
    if suffix == "svg":
        text = path.read_text()
        # Of cervix there is no picture. matplotlib keeps labels as comments of their outlines.
        assert all(f"<!-- {name} " in text for name in ("abdomen", "brain", "femur"))
        assert "<!-- cervix" not in text
        again = tmp_path / "again.svg"
        draw_roc(probability(PREDICTED), TRUTH, CLASSES, again)
        assert again.read_text() == text


def test_coverage_is_printed() -> None:
    report = figures()
    least = np.full(len(TRUTH), 0.5)
    report["with abstention"] = abstention_metrics(
        probability(PREDICTED), TRUTH, CLASSES, PATIENTS, least, 50
    )
    report["unknown"] = {"pictures": 4, "rejected": 0.75}
    console = Console(width=120, record=True, file=io.StringIO())
    print_abstention(report, console)
    text = console.export_text()
    assert "of 100% that get a class: macro F1 0.656" in text
    assert "of 4 pictures of unknown classes 75% get none" in text
