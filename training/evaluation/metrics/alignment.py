"""How well image, text and layout of a picture are aligned in the shared feature space.

Cosines of matched and mismatched pairs, and retrieval of the one by the other. Pictures of the
same description match each other wherever text takes part.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PAIRS = {"image-text": (0, 1), "image-layout": (0, 2), "text-layout": (1, 2)}
RANKS = (1, 5, 10)
_TEXT = 1


def alignment_metrics(features: Floats, descriptions: Sequence[str]) -> dict[str, Any]:
    """(N, 3, d) features of unit length and N descriptions -> the figures of each pair of branches.

    Mismatched figures are absent where every picture matches every other.
    """
    index = np.unique(np.asarray(descriptions), return_inverse=True)[1]
    same_text = index[:, None] == index[None, :]
    same_picture = np.eye(len(features), dtype=bool)
    return {
        name: _pair_metrics(
            features[:, a], features[:, b], same_text if _TEXT in (a, b) else same_picture
        )
        for name, (a, b) in PAIRS.items()
    }


def _pair_metrics(first: Floats, second: Floats, same: npt.NDArray[np.bool_]) -> dict[str, Any]:
    cosines = first @ second.T
    own_cosines = np.diagonal(cosines)
    metrics = {
        "matched": _mean_and_sd(own_cosines),
        "retrieval": {
            "there": recall_at_k(cosines, same),
            "back": recall_at_k(cosines.T, same),
            "chance": _chance_recall(same),
        },
    }
    return metrics if same.all() else metrics | {"mismatched": _mean_and_sd(cosines[~same])}


def recall_at_k(cosines: Floats, same: npt.NDArray[np.bool_]) -> dict[str, float]:
    """R@k: the share of rows of which a match is among the k best columns; of equal cosines half
    the wrong ones come first."""
    best = np.where(same, cosines, -np.inf).max(1, keepdims=True)
    wrong = ~same
    before = ((cosines > best) & wrong).sum(1) + 0.5 * ((cosines == best) & wrong).sum(1)
    return {f"R@{k}": float(np.mean(before < k)) for k in RANKS}


def _chance_recall(same: npt.NDArray[np.bool_]) -> dict[str, float]:
    """R@k of columns in random order."""
    count, matches = len(same), same.sum(1)
    chances = {}
    for k in RANKS:
        # None of the first k drawn without replacement is a match.
        ranks = np.arange(min(k, count))[:, None]
        missed = np.prod(np.maximum(count - matches - ranks, 0) / (count - ranks), axis=0)
        chances[f"R@{k}"] = float(np.mean(1 - missed))
    return chances


def _mean_and_sd(values: Floats) -> dict[str, float]:
    return {"mean": float(values.mean()), "SD": float(values.std())}
