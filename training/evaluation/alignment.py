"""Do a picture, its words and its layout lie together in the shared feature space?

Cosines of matched and mismatched pairs, and retrieval of the one by the other. Pictures with the
same words match each other wherever words take part: their texts are one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PAIRS = {"image-text": (0, 1), "image-layout": (0, 2), "text-layout": (1, 2)}
RANKS = (1, 5, 10)
_TEXT = 1


def health(features: Floats, words: Sequence[str]) -> dict[str, Any]:
    """(N, 3, d) features of unit length, and the N pictures' words -> the figures of each pair.

    Mismatched figures are absent where every picture matches every other.
    """
    index = np.unique(np.asarray(words), return_inverse=True)[1]
    same_words = index[:, None] == index[None, :]
    own = np.eye(len(features), dtype=bool)
    return {
        name: _pair(features[:, a], features[:, b], same_words if _TEXT in (a, b) else own)
        for name, (a, b) in PAIRS.items()
    }


def _pair(first: Floats, second: Floats, same: npt.NDArray[np.bool_]) -> dict[str, Any]:
    cosines = first @ second.T
    matched = np.diagonal(cosines)
    found = {
        "matched": _spread(matched),
        "retrieval": {
            "there": recall(cosines, same),
            "back": recall(cosines.T, same),
            "chance": _chance(same),
        },
    }
    return found if same.all() else found | {"mismatched": _spread(cosines[~same])}


def recall(cosines: Floats, same: npt.NDArray[np.bool_]) -> dict[str, float]:
    """R@k: the share of rows of which a match is among the k best columns; of equal cosines half
    the wrong ones come first."""
    best = np.where(same, cosines, -np.inf).max(1, keepdims=True)
    wrong = ~same
    before = ((cosines > best) & wrong).sum(1) + 0.5 * ((cosines == best) & wrong).sum(1)
    return {f"R@{k}": float(np.mean(before < k)) for k in RANKS}


def _chance(same: npt.NDArray[np.bool_]) -> dict[str, float]:
    """R@k of columns in random order."""
    count, matches = len(same), same.sum(1)
    chances = {}
    for k in RANKS:
        # None of the first k drawn without replacement is a match.
        drawn = np.arange(min(k, count))[:, None]
        missed = np.prod(np.maximum(count - matches - drawn, 0) / (count - drawn), axis=0)
        chances[f"R@{k}"] = float(np.mean(1 - missed))
    return chances


def _spread(values: Floats) -> dict[str, float]:
    return {"mean": float(values.mean()), "SD": float(values.std())}
