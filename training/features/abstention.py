"""When a probe names no class: how unlike its classes a picture is, and what thresholds are worth.

All scores are higher for a picture that is less like what was learnt:

- softmax: one less the highest probability (Hendrycks and Gimpel 2017);
- energy: less the logarithm of the sum of the logits' exponentials (Liu et al. 2020);
- mahalanobis: distance to the nearest class, with one covariance (Lee et al. 2018);
- relative: its square less that to all classes as one (Ren et al. 2021);
- neighbour: one less the cosine to the fifth most similar picture learnt from (Sun et al. 2022).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics.classification import metric_with_interval
from training.evaluation.metrics.curves import auroc

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NEIGHBOURS = 5
ANSWERED = 0.95
"""The share of pictures of the learnt classes that are answered: it sets the threshold."""
SHARES = (0.99, 0.95, 0.9, 0.8)
"""Those that figures are given for."""


class Score(StrEnum):
    """How unlike the learnt classes a picture is."""

    MAHALANOBIS = "mahalanobis"
    RELATIVE = "relative"
    NEIGHBOUR = "neighbour"
    ENERGY = "energy"
    SOFTMAX = "softmax"


OF_FEATURES = (Score.MAHALANOBIS, Score.RELATIVE, Score.NEIGHBOUR)
"""Those that a probe chooses among: logits are blind to all that does not tell its classes apart,
and so to many pictures that are none of them."""


def softmax_score(logits: Floats) -> Floats:
    """(N, C) -> (N,): 1 - max softmax."""
    return np.asarray(1 - np.exp(logits.max(1) - _log_sum(logits)), float)


def energy_score(logits: Floats) -> Floats:
    """(N, C) -> (N,): - log sum exp."""
    return -_log_sum(logits)


def neighbour_score(rows: Floats, bank: Floats, count: int = NEIGHBOURS) -> Floats:
    """(N, D) and the learnt (M, D) -> (N,): of each the `count`-th smallest cosine distance, or the
    largest where fewer were learnt."""
    cosines = unit(rows) @ unit(bank).T
    place = min(count, cosines.shape[1])
    return np.asarray(1 - np.partition(cosines, -place, axis=1)[:, -place], float)


def unit(rows: Floats) -> Floats:
    """(N, D) -> the same, each of length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), float)


def threshold(known: Floats, answered: float = ANSWERED) -> float:
    """The greatest score that is answered, so that about this share of the known ones is."""
    return float(np.quantile(known, answered))


def abstention_figures(
    known: Floats,
    right: Bools,
    groups: Sequence[str],
    fold_of: npt.NDArray[np.intp],
    unknown: Floats | None = None,
    unknown_groups: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
) -> dict[str, Any]:
    """What a score is worth: of pictures of learnt classes the scores (N,), whether their class is
    named rightly, and their fold; of other pictures the scores (M,).

    A fold's threshold is of the other folds, so that the answered share is one of patients that the
    threshold did not see. For each wanted share: how many are answered, how many of these are
    wrong, and how many others are still named, with 95 % intervals over patients.
    """
    figures: dict[str, Any] = {"at": [_at(known, right, groups, fold_of, each) for each in shares]}
    if unknown is None or not len(unknown):
        return figures
    is_unknown = np.r_[np.zeros(len(known), bool), np.ones(len(unknown), bool)]
    figures["AUROC"] = auroc(np.r_[known, unknown], is_unknown)
    everyone = np.arange(len(unknown))
    for share, entry in zip(shares, figures["at"], strict=True):
        is_named = unknown <= threshold(known, share)
        entry["unknown named"] = metric_with_interval(
            lambda rows, is_named=is_named: float(is_named[rows].mean()),  # type: ignore[misc]
            everyone,
            unknown_groups,
        )
    return figures


def _at(
    known: Floats, right: Bools, groups: Sequence[str], fold_of: npt.NDArray[np.intp], share: float
) -> dict[str, Any]:
    is_answered = np.zeros(len(known), bool)
    for fold in np.unique(fold_of):
        inside = fold_of == fold
        others = known[~inside] if (~inside).any() else known
        is_answered[inside] = known[inside] <= threshold(others, share)

    def error(rows: npt.NDArray[np.intp]) -> float:
        answered_rows = rows[is_answered[rows]]
        return float(np.mean(~right[answered_rows])) if len(answered_rows) else float("nan")

    everyone = np.arange(len(known))
    return {
        "wanted": share,
        "greatest score": threshold(known, share),
        "answered": metric_with_interval(
            lambda rows: float(is_answered[rows].mean()), everyone, groups
        ),
        "wrong of the answered": metric_with_interval(error, everyone, groups),
    }


def _log_sum(logits: Floats) -> Floats:
    highest = logits.max(1)
    return np.asarray(highest + np.log(np.exp(logits - highest[:, None]).sum(1)), float)
