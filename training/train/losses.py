"""The losses of SpatialCLIP that are more than one call."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from torch import Tensor


def quality_loss(logits: Tensor, target: Tensor, focal: float) -> Tensor:
    """(B,) binary cross-entropy of each row, times (1 - p)^focal, p the probability it gives the
    truth (Lin et al. 2017); p comes from the unweighted entropy."""
    rows = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if focal == 0:
        return rows
    sure = torch.where(target > 0.5, logits, -logits).sigmoid()
    return rows * (1 - sure) ** focal


def class_weights(standard: Sequence[bool], beta: float = 0.999) -> Tensor:
    """(2,) weights of non-standard and standard by effective number (Cui et al. 2019), of mean 1
    over the samples. A class without samples weighs nothing."""
    counts = torch.tensor([len(standard) - sum(standard), sum(standard)], dtype=torch.float32)
    effective = (1 - beta**counts) / (1 - beta)
    weights = torch.where(counts > 0, 1 / effective.clamp(min=1e-6), 0.0)
    return weights * counts.sum() / (weights * counts).sum().clamp(min=1e-6)


def contrastive(a: Tensor, b: Tensor, scale: Tensor, words: Sequence[str]) -> Tensor:
    """Symmetric InfoNCE in which equal captions count as matches, not as negatives."""
    index = {word: i for i, word in enumerate(dict.fromkeys(words))}
    keys = torch.tensor([index[word] for word in words], device=a.device)
    same = (keys[:, None] == keys[None, :]).float()
    targets = same / same.sum(1, keepdim=True)
    logits = scale * a @ b.T
    return 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))
