"""Losses for classes of unlike frequency: smoothed, focal, label-distribution-aware margins (LDAM),
and LDAM with focal; class weights by effective number, deferred where asked.

Each is a mean over the batch weighted by class, so that weights of all losses mean the same and a
batch of rare classes weighs no more than another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from training.family_recipes import DualBranchRecipe, Loss

LDAM_SCALE = 30.0
"""Logits are multiplied by it after the margin (Cao et al. 2019, arXiv 1906.07413)."""
LARGEST_MARGIN = 0.5
MIXED_SHARE = 0.8
"""Of both parts of LDAM-Focal (arXiv 2506.08623)."""


class ImbalanceLoss(nn.Module):
    """The recipe's loss of logits (B, C) and targets (B,); `counts` are the training pictures of
    each class. Margins and weights are buffers: they go to the network's device with `to`."""

    def __init__(self, recipe: DualBranchRecipe, counts: Sequence[int]) -> None:
        super().__init__()
        self.recipe = recipe
        self.margins = nn.Buffer(ldam_margins(counts), persistent=False)
        self.weights = nn.Buffer(class_weights(counts, recipe.balance_beta), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, epoch: int) -> Tensor:
        """() the loss in `epoch`, from 0: before `balance_epoch` every class weighs alike."""
        recipe, logits = self.recipe, logits.float()
        weights: Tensor = self.weights
        if epoch < recipe.balance_epoch:
            weights = torch.ones_like(weights)
        if recipe.loss is Loss.SMOOTHED:
            return smoothed_loss(logits, targets, weights, recipe.smoothing)
        if recipe.loss is Loss.FOCAL:
            return focal_loss(logits, targets, weights, recipe.focal_gamma)
        ldam = ldam_loss(logits, targets, weights, self.margins)
        if recipe.loss is Loss.LDAM:
            return ldam
        focal = focal_loss(logits, targets, weights, recipe.focal_gamma)
        return MIXED_SHARE * ldam + MIXED_SHARE * focal


def smoothed_loss(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """() cross-entropy with targets of (1 - e) + e / C for the true class and e / C for others."""
    classes = logits.shape[1]
    goal = one_hot(targets, classes) * (1 - smoothing) + smoothing / classes
    rows = -(goal * logits.log_softmax(1)).sum(1)
    return _weighted_mean(rows, weights[targets])


def focal_loss(logits: Tensor, targets: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """() focal loss (Lin et al. 2017): cross-entropy times (1 - p)^gamma.

    p is the softmax probability of the true class. Taken from the weighted cross-entropy, as the
    published code has it, it would be p to the power of the weight.
    """
    rows = cross_entropy(logits, targets, reduction="none")
    return _weighted_mean(rows * (1 - (-rows).exp()) ** gamma, weights[targets])


def ldam_loss(logits: Tensor, targets: Tensor, weights: Tensor, margins: Tensor) -> Tensor:
    """() cross-entropy of scaled logits, the true one less the margin of its class."""
    margin = one_hot(targets, logits.shape[1]) * margins[targets, None]
    rows = cross_entropy(LDAM_SCALE * (logits - margin), targets, reduction="none")
    return _weighted_mean(rows, weights[targets])


def ldam_margins(counts: Sequence[int]) -> Tensor:
    """(C,) n^(-1/4) of each class with pictures, the largest LARGEST_MARGIN; 0 for one without."""
    n = torch.tensor(counts, dtype=torch.float64)
    margins = torch.where(n > 0, n.clamp(min=1) ** -0.25, 0.0)
    return (margins * (LARGEST_MARGIN / margins.max().clamp(min=1e-12))).float()


def class_weights(counts: Sequence[int], beta: float) -> Tensor:
    """(C,) (1 - b) / (1 - b^n) of each class (Cui et al. 2019), of mean 1 over the classes with
    pictures; 0 for one without. `beta` 0 weighs all alike."""
    n = torch.tensor(counts, dtype=torch.float64)
    weights = torch.where(n > 0, (1 - beta) / (1 - beta ** n.clamp(min=1)), 0.0)
    return (weights * (n > 0).sum() / weights.sum().clamp(min=1e-12)).float()


def _weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    return (rows * weights).sum() / weights.sum().clamp(min=1e-12)
