"""How well texts find their picture, and pictures their text: recall at k, ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RECALLS = (1, 2, 5, 10)
_OF_SUM = (1, 5, 10)


def retrieval_metrics(
    similarity: npt.NDArray[np.float32], texts: Sequence[str], images: Sequence[str]
) -> dict[str, Any]:
    """Of N pairs: `similarity` (N, N) of picture i and text j, `texts` and `images` their names.

    Pairs of equal text are right for each other's pictures, and likewise pictures: a caption that
    stands twice cannot tell which one is meant. R@k is in percent; a rank counts from 1, and equal
    similarities rank last. "rSum" is the sum of R@1, R@5 and R@10 both ways, 600 at most.
    """
    scores = np.asarray(similarity, np.float64)
    count = len(texts)
    if scores.shape != (count, count) or len(images) != count or not count:
        raise ValueError(f"{scores.shape} similarities, {count} texts, {len(images)} pictures")
    if not np.isfinite(scores).all():
        raise ValueError("similarities are not finite")
    same_text = np.array(texts)[:, None] == np.array(texts)[None]
    same_image = np.array(images)[:, None] == np.array(images)[None]
    is_right = same_text | same_image
    to_text = _summary(_ranks(scores, is_right))
    to_image = _summary(_ranks(scores.T, is_right.T))
    total = sum(part[f"R@{k}"] for part in (to_text, to_image) for k in _OF_SUM)
    return {"pairs": count, "image to text": to_text, "text to image": to_image, "rSum": total}


def _ranks(scores: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]) -> Any:
    """(N,) rank of the best right one in each row: one more than those that score as much."""
    best = np.where(is_right, scores, -np.inf).max(1, keepdims=True)
    return 1 + ((scores >= best) & ~is_right).sum(1)


def _summary(ranks: npt.NDArray[np.int64]) -> dict[str, float]:
    recalls = {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in RECALLS}
    return recalls | {"MedR": float(np.median(ranks)), "MeanR": float(np.mean(ranks))}
