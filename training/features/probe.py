"""A linear probe on frozen features: figures by patient folds, abstention, and the fitted probe.

Which score abstention goes by (`abstention`) is chosen among the learnt classes, each in turn taken
for an unknown one: pictures of classes that are to stay unknown have no part in it.
"""

import json
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from detector.console import UsageError
from training.data.splits import group_hash
from training.evaluation.metrics.curves import auroc
from training.evaluation.metrics.multiclass import multiclass_metrics
from training.features.abstention import (
    ANSWERED,
    OF_FEATURES,
    Score,
    abstention_figures,
    energy_score,
    neighbour_score,
    softmax_score,
    threshold,
    unit,
)
from training.features.embeddings import Embeddings
from training.features.towers import Features

Floats = npt.NDArray[np.float64]
FOLDS, INNER_FOLDS = 5, 3
STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse regularisations (C) that inner folds choose from."""
_WEIGHTS, _FACTS = "probe.safetensors", "probe.json"
_LAYER, _DISTANCE = ("mean", "scale", "weights", "biases"), ("whitening", "centres")
_MORE = ("whitening_of_all", "learnt")
"""Arrays of the scores that older probes lack."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """Multinomial logistic regression: `weights` (C, D) and `biases` (C,) act on features less
    `mean`, over `scale` (D,)."""

    classes: tuple[str, ...]
    mean: Floats
    scale: Floats
    weights: Floats
    biases: Floats

    def standardise(self, features: Features) -> Floats:
        result: Floats = (features.astype(np.float64) - self.mean) / self.scale
        return result

    def logits(self, features: Features) -> Floats:
        """(N, D) -> (N, C), in the order of `classes`."""
        result: Floats = self.standardise(features) @ self.weights.T + self.biases
        return result

    def probabilities(self, features: Features) -> Floats:
        """(N, D) -> (N, C), the softmax of `logits`."""
        logits = self.logits(features)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        result: Floats = powers / powers.sum(1, keepdims=True)
        return result

    def predict(self, features: Features) -> list[str]:
        """The most probable class of each row."""
        return [self.classes[k] for k in self.probabilities(features).argmax(1)]


@dataclass(frozen=True, slots=True)
class Probe:
    """A fitted probe. `whitening` (D, D) turns standardised features so that Euclidean distance to
    `centres` (C, D) is Mahalanobis's, `whitening_of_all` so that distance to 0 is that to all
    classes as one; `learnt` (N, D) are the standardised features that were learnt from, of unit
    length. A picture whose score of `abstention` is above `greatest_distance` gets no class."""

    tower: str
    tower_key: str
    strength: float
    layer: LinearLayer
    whitening: Floats
    centres: Floats
    greatest_distance: float = float("inf")
    abstention: Score = Score.MAHALANOBIS
    whitening_of_all: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    learnt: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def scores(self, features: Features, score: Score) -> Floats:
        """(N, D) -> (N,): how unlike the learnt classes each is, by that score. Raises UsageError
        where the probe's folder is of an older version without what the score needs."""
        if score is Score.MAHALANOBIS:
            return self.distances(features)
        if score is Score.SOFTMAX:
            return softmax_score(self.layer.logits(features))
        if score is Score.ENERGY:
            return energy_score(self.layer.logits(features))
        if not self.learnt.size:
            raise UsageError(f"the probe has no score {score}: fit it anew (qc-model probe)")
        rows = self.layer.standardise(features)
        if score is Score.NEIGHBOUR:
            return neighbour_score(rows, self.learnt)
        to_all: Floats = ((rows @ self.whitening_of_all) ** 2).sum(1)
        return self.distances(features) ** 2 - to_all

    def distances(self, features: Features) -> Floats:
        """(N, D) -> (N,): of each to the nearest class."""
        turned = self.layer.standardise(features) @ self.whitening
        squares = ((turned[:, None] - self.centres[None]) ** 2).sum(2)
        result: Floats = np.sqrt(squares.min(1))
        return result


def fit_layer(features: Features, labels: Sequence[str], strength: float) -> LinearLayer:
    """Fit with classes weighed alike; raises UsageError with fewer than two classes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise UsageError("a probe needs pictures of two classes at least")
    rows = features.astype(np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    scale[scale < 1e-6] = 1.0
    model = LogisticRegression(C=strength, max_iter=200, class_weight="balanced")
    with warnings.catch_warnings():
        # The last digits of a weight change no class.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((rows - mean) / scale, [classes.index(label) for label in labels])
    weights, biases = model.coef_, model.intercept_
    if len(classes) == 2:
        # Of two classes scikit-learn keeps the second's logit only.
        weights, biases = np.vstack((-weights, weights)) / 2, np.r_[-biases, biases] / 2
    return LinearLayer(classes, mean, scale, weights, biases)


def fit_probe(data: Embeddings, strength: float) -> Probe:
    """Fit to all rows; raises UsageError with fewer than two classes."""
    from sklearn.covariance import LedoitWolf

    layer = fit_layer(data.features, data.labels, strength)
    rows = layer.standardise(data.features)
    number = np.array([layer.classes.index(label) for label in data.labels])
    means = np.stack([rows[number == k].mean(0) for k in range(len(layer.classes))])

    def whitening_of(residues: Floats) -> Floats:
        covariance = LedoitWolf(assume_centered=True).fit(residues).covariance_
        values, vectors = np.linalg.eigh(covariance)
        result: Floats = vectors / np.sqrt(np.maximum(values, 1e-9))
        return result

    whitening = whitening_of(rows - means[number])
    return Probe(
        data.tower,
        data.tower_key,
        strength,
        layer,
        whitening,
        means @ whitening,
        # Standardised features have the mean 0.
        whitening_of_all=whitening_of(rows),
        learnt=unit(rows),
    )


def folds_of(groups: Sequence[str], folds: int, seed: int) -> npt.NDArray[np.intp]:
    """The fold of each picture; a patient's are in one fold, whatever other pictures there are."""
    return np.array([int(group_hash(group, seed) * folds) for group in groups], np.intp)


def choose_strength(data: Embeddings, seed: int = 0) -> float:
    """The strength of STRENGTHS whose layers have the highest macro-F1 on patients not seen; the
    smallest of equals. Raises UsageError as `outside` does."""
    fold_of = folds_of(data.groups, INNER_FOLDS, seed + 1)

    def score(strength: float) -> float:
        predicted = [""] * len(fold_of)
        for fold in np.unique(fold_of):
            training = outside(data, fold_of, fold)
            inside = np.flatnonzero(fold_of == fold)
            layer = fit_layer(training.features, training.labels, strength)
            for row, label in zip(inside, layer.predict(data.features[inside]), strict=True):
                predicted[row] = label
        metrics = multiclass_metrics(data.labels, predicted, data.groups, resamples=2)
        return float(metrics["macro F1"]["value"])

    return max(STRENGTHS, key=lambda strength: (score(strength), -strength))


def outside(data: Embeddings, fold_of: npt.NDArray[np.intp], fold: int) -> Embeddings:
    """The rows of other folds. Raises UsageError where they lack a class, or are none."""
    training = data.rows(np.flatnonzero(fold_of != fold).tolist())
    missing: Collection[str] = set(data.labels) - set(training.labels)
    if missing:
        raise UsageError(
            f"all pictures of class {min(missing)!r} are of one fold's patients: it needs pictures"
            " of more patients, or leave it out (--leave-out)"
        )
    return training


def choose_score(
    data: Embeddings, strength: float, seed: int = 0
) -> tuple[Score, dict[str, float]]:
    """The score that best tells a class that was not learnt: each class in turn is left out of a
    probe of four fifths of the patients, and told from the others' pictures among the last fifth.
    Only scores of features are chosen. Also the mean AUROC of each score. Of two classes or fewer
    it is Mahalanobis's, unjudged."""
    classes = sorted(set(data.labels))
    if len(classes) < 3:
        return Score.MAHALANOBIS, {}
    fold_of = folds_of(data.groups, FOLDS, seed + 2)
    labels = np.array(data.labels)
    aurocs: dict[Score, list[float]] = {score: [] for score in Score}
    for number, label in enumerate(classes):
        inside = fold_of == number % FOLDS
        probe = fit_probe(data.rows(np.flatnonzero(~inside & (labels != label)).tolist()), strength)
        # All of the class's pictures are new to the probe.
        rows = np.flatnonzero(inside | (labels == label))
        is_left_out = labels[rows] == label
        if is_left_out.all():
            continue
        for score in Score:
            values = probe.scores(data.features[rows], score)
            aurocs[score].append(auroc(values, is_left_out))
    means = {score: float(np.mean(each)) for score, each in aurocs.items() if each}
    best = max(OF_FEATURES, key=lambda score: means.get(score, 0.0))
    return best, {score.value: value for score, value in means.items()}


def evaluate_probe(
    data: Embeddings,
    unknown: Embeddings | None = None,
    *,
    seed: int = 0,
    abstention: Score | None = None,
    answered: float = ANSWERED,
) -> tuple[Probe, dict[str, Any]]:
    """The probe fitted to all rows, and figures of probes that did not see a picture's patient.

    Each fold's strength is chosen by inner folds of its own training patients. `unknown` are
    pictures of classes that are not learnt: what share of them gets no class, each judged by the
    probe that did not see its patient. `abstention` None chooses the score by `choose_score`.
    Raises UsageError as `outside` does.
    """
    fold_of = folds_of(data.groups, FOLDS, seed)
    unknown_fold = folds_of(unknown.groups if unknown else (), FOLDS, seed)
    predicted = [""] * len(fold_of)
    known_scores = {score: np.zeros(len(fold_of)) for score in Score}
    unknown_scores = {score: np.zeros(len(unknown_fold)) for score in Score}
    strengths = []
    for fold in range(FOLDS):
        training = outside(data, fold_of, fold)
        strengths.append(choose_strength(training, seed))
        probe = fit_probe(training, strengths[-1])
        inside = np.flatnonzero(fold_of == fold)
        for row, label in zip(inside, probe.layer.predict(data.features[inside]), strict=True):
            predicted[row] = label
        others = np.flatnonzero(unknown_fold == fold)
        for each in Score:
            known_scores[each][inside] = probe.scores(data.features[inside], each)
            if unknown is not None and len(others):
                unknown_scores[each][others] = probe.scores(unknown.features[others], each)
    strength = choose_strength(data, seed)
    score, choice = choose_score(data, strength, seed)
    score = abstention or score
    distances, of_unknown = known_scores[score], unknown_scores[score]
    # The folds' distances are of patients that the probe did not see, as they will be in use.
    greatest = threshold(distances, answered)
    right = np.array([a == b for a, b in zip(predicted, data.labels, strict=True)])
    figures: dict[str, Any] = {
        "tower": data.tower,
        "strengths": strengths,
        "all answered": multiclass_metrics(data.labels, predicted, data.groups),
        "with abstention": _abstaining(data, predicted, distances <= greatest),
        "abstention": {
            "score": score.value,
            "AUROC of classes left out": choice,
            "scores": {
                each.value: abstention_figures(
                    known_scores[each],
                    right,
                    data.groups,
                    fold_of,
                    None if unknown is None else unknown_scores[each],
                    () if unknown is None else unknown.groups,
                )
                for each in Score
            },
        },
    }
    if unknown is not None:
        figures["unknown"] = _unknown_figures(distances, of_unknown, greatest, unknown)
    final = fit_probe(data, strength)
    return replace(final, greatest_distance=greatest, abstention=score), figures


def _abstaining(
    data: Embeddings, predicted: Sequence[str], answered: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Figures of the answered pictures, and what share they are."""
    rows = np.flatnonzero(answered).tolist()
    part = data.rows(rows)
    metrics = multiclass_metrics(part.labels, [predicted[k] for k in rows], part.groups)
    return {"answered": len(rows) / len(predicted)} | metrics


def _unknown_figures(
    known: Floats, unknown: Floats, greatest: float, pictures: Embeddings
) -> dict[str, Any]:
    is_unknown = np.r_[np.zeros(len(known), bool), np.ones(len(unknown), bool)]
    of_class = {
        label: np.array([each == label for each in pictures.labels])
        for label in sorted(set(pictures.labels))
    }
    return {
        "pictures": len(unknown),
        "rejected": float(np.mean(unknown > greatest)),
        "AUROC of the distance": auroc(np.r_[known, unknown], is_unknown),
        "by class": {
            label: {
                "pictures": int(rows.sum()),
                "rejected": float(np.mean(unknown[rows] > greatest)),
            }
            for label, rows in of_class.items()
        },
    }


def classify(probe: Probe, data: Embeddings) -> list[dict[str, Any]]:
    """A record of each row: `label` (None where the picture is like no class), `closest`, its
    `probability`, the `distance` (the score that abstention goes by) and all `probabilities`.

    Raises UsageError on features of another tower.
    """
    if data.tower_key != probe.tower_key:
        raise UsageError(
            f"the probe was fitted on the tower {probe.tower}; {data.tower} is another, or has"
            " other weights"
        )
    probabilities = probe.layer.probabilities(data.features)
    classes = probe.layer.classes
    records = []
    distances = probe.scores(data.features, probe.abstention)
    for row, distance in zip(probabilities, distances, strict=True):
        closest = classes[int(row.argmax())]
        records.append(
            {
                "label": closest if distance <= probe.greatest_distance else None,
                "closest": closest,
                "probability": float(row.max()),
                "abstention": probe.abstention.value,
                "distance": float(distance),
                "greatest_distance": probe.greatest_distance,
                "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            }
        )
    return records


def save_probe(folder: Path, probe: Probe) -> None:
    """Write probe.json and probe.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(probe.layer, name) for name in _LAYER}
    arrays |= {name: getattr(probe, name) for name in _DISTANCE}
    arrays |= {name: getattr(probe, name).astype(np.float32) for name in _MORE}
    save_file({n: np.ascontiguousarray(each) for n, each in arrays.items()}, folder / _WEIGHTS)
    facts = {"classes": list(probe.layer.classes)} | {
        name: value
        for name, value in asdict(probe).items()
        if name not in ("layer", *_DISTANCE, *_MORE)
    }
    (folder / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_probe(folder: Path) -> Probe:
    """The inverse of `save_probe`. Raises UsageError on a folder that holds none."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        arrays = load_file(folder / _WEIGHTS)
        layer = LinearLayer(tuple(facts.pop("classes")), *(arrays[name] for name in _LAYER))
        facts["abstention"] = Score(facts.get("abstention", Score.MAHALANOBIS))
        more = {name: arrays[name].astype(float) for name in _MORE if name in arrays}
        probe = Probe(layer=layer, **facts, **{name: arrays[name] for name in _DISTANCE}, **more)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(
            f"{folder} holds no probe of qc-model probe ({type(error).__name__})"
        ) from None
    if layer.weights.shape != (len(layer.classes), len(layer.mean)):
        raise UsageError(f"{folder}: the probe's weights are not those of its classes")
    return probe
