"""How many patients a linear probe needs: macro-F1 by the number of patients to learn from."""

from typing import Any

import numpy as np
import numpy.typing as npt

from detector.console import UsageError
from training.evaluation.metrics.multiclass import confusion_matrix, macro_f1
from training.features.embeddings import Embeddings
from training.features.probe import FOLDS, fit_layer, folds_of, outside

SHOTS = (1, 2, 4, 8, 16, 32)
REPEATS = 5
STRENGTH = 0.1
"""The inverse regularisation: fixed, for one patient a class leaves nothing to choose by."""


def few_shot_curve(
    data: Embeddings,
    shots: tuple[int, ...] = SHOTS,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each number of patients a class: {"patients", "macro F1", "low", "high", "trials"}.

    In each of five folds of patients the support is drawn `repeats` times from the other folds: of
    each class that many patients, with all their pictures of that class; a larger support has the
    smaller one in it. The fold's pictures are judged. The value is the mean over the trials, low
    and high the 2.5th and 97.5th centile of a repetition's mean over the folds, or of the trials
    where there is one repetition. Raises UsageError where a class has fewer patients.
    """
    classes = tuple(sorted(set(data.labels)))
    fold_of = folds_of(data.groups, FOLDS, seed)
    scores = np.zeros((len(shots), repeats, FOLDS))
    for fold in range(FOLDS):
        inside = np.flatnonzero(fold_of == fold)
        if not len(inside):
            raise UsageError("too few patients: one of the five folds is empty")
        test = data.rows(inside.tolist())
        training = outside(data, fold_of, fold)
        for repeat in range(repeats):
            generator = np.random.default_rng((seed, fold, repeat))
            orders = {label: _order(training, label, generator) for label in classes}
            _check(orders, max(shots))
            for row, count in enumerate(shots):
                support = training.rows(_support(training, orders, count))
                layer = fit_layer(support.features, support.labels, STRENGTH)
                predicted = layer.predict(test.features)
                scores[row, repeat, fold] = macro_f1(
                    confusion_matrix(test.labels, predicted, classes)
                )
    return [curve_point(count, each) for count, each in zip(shots, scores, strict=True)]


def curve_point(count: int, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """A point of the curve of scores (repetitions, folds)."""
    means = scores.mean(1) if len(scores) > 1 else scores[0]
    low, high = np.percentile(means, (2.5, 97.5))
    return {
        "patients": count,
        "macro F1": float(scores.mean()),
        "low": float(low),
        "high": float(high),
        "trials": int(scores.size),
    }


def _order(data: Embeddings, label: str, generator: np.random.Generator) -> list[str]:
    """The patients who have a picture of the class, in a random order."""
    patients = sorted(
        {g for g, each in zip(data.groups, data.labels, strict=True) if each == label}
    )
    return [patients[k] for k in generator.permutation(len(patients))]


def _check(orders: dict[str, list[str]], most: int) -> None:
    label = min(orders, key=lambda each: len(orders[each]))
    if len(orders[label]) < most:
        raise UsageError(
            f"class {label!r} has {len(orders[label])} patients to learn from, fewer than {most}:"
            " leave it out (--leave-out), or give fewer --patients"
        )


def _support(data: Embeddings, orders: dict[str, list[str]], count: int) -> list[int]:
    """The rows of the first `count` patients of each class, with that class."""
    chosen = {label: set(order[:count]) for label, order in orders.items()}
    return [
        row
        for row, (label, group) in enumerate(zip(data.labels, data.groups, strict=True))
        if group in chosen[label]
    ]
