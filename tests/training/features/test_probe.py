"""The linear probe and its few-shot curve on made-up features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from detector.console import UsageError
from training.features.embeddings import Embeddings
from training.features.few_shot import few_shot_curve
from training.features.probe import (
    classify,
    evaluate_probe,
    fit_layer,
    fit_probe,
    folds_of,
    load_probe,
    save_probe,
)

CLASSES = ("abdomen", "brain", "femur")


def made_up(
    patients: int = 60, *, separation: float = 3.0, seed: int = 0, width: int = 8
) -> Embeddings:
    """Two pictures of each class a patient, around the class's centre."""
    generator = np.random.default_rng(seed)
    centres = np.eye(len(CLASSES), width) * separation
    features, labels, groups = [], [], []
    for patient in range(patients):
        for number, label in enumerate(CLASSES):
            features += list(centres[number] + generator.normal(0, 1, (2, width)))
            labels += [label] * 2
            groups += [f"p{patient}"] * 2
    files = tuple(f"{n}.png" for n in range(len(labels)))
    array = np.array(features, np.float32)
    return Embeddings("made-up", "key", array, files, files, tuple(labels), tuple(groups))


def test_the_layer_is_scikit_learns() -> None:
    data = made_up(20)
    for labels in (data.labels, tuple("brain" if x == "brain" else "no" for x in data.labels)):
        layer = fit_layer(data.features, labels, 0.1)
        model = LogisticRegression(C=0.1, max_iter=200, class_weight="balanced")
        model.fit(layer.standardise(data.features), labels)
        expected = model.predict_proba(layer.standardise(data.features))
        assert list(model.classes_) == list(layer.classes)
        assert layer.probabilities(data.features) == pytest.approx(expected, abs=1e-9)


def test_distance_is_mahalanobis_to_the_nearest_class() -> None:
    data = made_up(40)
    probe = fit_probe(data, 0.1)
    rows = probe.layer.standardise(data.features)
    covariance = np.linalg.inv(probe.whitening @ probe.whitening.T)
    means = [rows[[x == label for x in data.labels]].mean(0) for label in CLASSES]
    inverse = np.linalg.inv(covariance)
    expected = [
        min(np.sqrt((row - mean) @ inverse @ (row - mean)) for mean in means) for row in rows[:9]
    ]
    assert probe.distances(data.features[:9]) == pytest.approx(expected, rel=1e-6)


def test_a_patient_is_in_one_fold() -> None:
    data = made_up(30)
    fold_of = folds_of(data.groups, 5, 0)
    for group in set(data.groups):
        assert len({int(f) for f, g in zip(fold_of, data.groups, strict=True) if g == group}) == 1
    assert set(fold_of) == {0, 1, 2, 3, 4}


def test_what_only_tells_the_patient_is_worth_nothing() -> None:
    """Folds of pictures, as leaking splits are, would give a perfect score here."""
    generator = np.random.default_rng(0)
    patients = 80
    identity = generator.normal(0, 1, (patients, 20)).astype(np.float32)
    labels = [CLASSES[k] for k in generator.integers(0, 3, patients)]
    rows = np.repeat(np.arange(patients), 4)
    files = tuple(f"{n}.png" for n in range(len(rows)))
    data = Embeddings(
        "made-up", "key", identity[rows], files, files,
        tuple(labels[k] for k in rows), tuple(f"p{k}" for k in rows),
    )  # fmt: skip
    figures = evaluate_probe(data)[1]["all answered"]
    assert figures["accuracy"]["value"] < 0.5
    assert fit_layer(data.features, data.labels, 0.1).predict(data.features) != list(data.labels)


def test_figures_of_separable_classes_and_what_is_unlike_them() -> None:
    data = made_up(separation=6)
    generator = np.random.default_rng(1)
    count = 40
    files = tuple(f"u{n}.png" for n in range(count))
    # Like a brain in all that tells the classes apart, and like none of them in the rest.
    far = np.array([0, 6, 0, 0, 0, 0, 0, 9.0]) + generator.normal(0, 1, (count, 8))
    unknown = Embeddings(
        "made-up", "key", far.astype(np.float32), files, files,
        ("cervix",) * 20 + ("other",) * 20, tuple(f"p{n}" for n in range(count)),
    )  # fmt: skip
    probe, figures = evaluate_probe(data, unknown)
    score = figures["all answered"]["macro F1"]
    assert score["value"] > 0.97
    assert score["interval"][0] <= score["value"] <= score["interval"][1]
    assert figures["with abstention"]["answered"] == pytest.approx(0.95, abs=0.01)
    assert figures["unknown"]["rejected"] > 0.95
    assert figures["unknown"]["AUROC of the distance"] > 0.99
    assert figures["unknown"]["by class"]["cervix"]["pictures"] == 20
    # The softmax is as sure of them as of brains: abstention by probability would miss them.
    of_unknown, of_known = (
        np.median(probe.layer.probabilities(each.features).max(1)) for each in (unknown, data)
    )
    assert of_unknown > 0.9 * of_known
    assert classify(probe, unknown)[0]["label"] is None
    known = classify(probe, data)
    assert np.mean([record["label"] is not None for record in known]) > 0.93


def test_a_probe_saved_and_loaded_says_the_same(tmp_path: Path) -> None:
    data = made_up(20)
    probe = replace(fit_probe(data, 0.1), greatest_distance=3.0)
    save_probe(tmp_path / "probe", probe)
    assert classify(load_probe(tmp_path / "probe"), data) == classify(probe, data)


def test_features_of_another_tower_are_refused() -> None:
    data = made_up(20)
    with pytest.raises(UsageError, match="fitted on the tower made-up"):
        classify(fit_probe(data, 0.1), replace(data, tower="other", tower_key="k"))


def test_wrong_folders_and_classes_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no probe"):
        load_probe(tmp_path)
    data = made_up(20)
    with pytest.raises(UsageError, match="two classes"):
        fit_layer(data.features, ["brain"] * len(data.labels), 0.1)
    labels = tuple(
        "cervix" if g == "p3" else x for x, g in zip(data.labels, data.groups, strict=True)
    )
    with pytest.raises(UsageError, match="class 'cervix' are of one fold's patients"):
        evaluate_probe(replace(data, labels=labels))


def test_more_patients_are_better_and_draws_are_repeatable() -> None:
    data = made_up(60, separation=2)
    curve = few_shot_curve(data, (1, 4, 16), repeats=3, seed=2)
    values = [point["macro F1"] for point in curve]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05
    assert [point["patients"] for point in curve] == [1, 4, 16]
    assert all(point["low"] <= point["macro F1"] <= point["high"] for point in curve)
    assert curve[0]["trials"] == 15
    assert curve == few_shot_curve(data, (1, 4, 16), repeats=3, seed=2)


def test_too_few_patients_are_said() -> None:
    with pytest.raises(UsageError, match="fewer than 32"):
        few_shot_curve(made_up(20), (1, 32))
