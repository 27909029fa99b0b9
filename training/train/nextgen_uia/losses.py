"""Losses of NextGen-UIA's heads, of logits whose softmax is what is scored."""

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

_SMOOTH = 1e-5


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """() mean of (1 - p)^gamma times the cross-entropy, p the softmax of the true class (Lin et al.
    2017). Upstream's is a sigmoid of each class, scored by a softmax over both."""
    rows = cross_entropy(logits, target, reduction="none")
    return ((1 - (-rows).exp()) ** gamma * rows).mean()


def dice_ce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """() soft Dice loss with squared denominator (Milletari et al. 2016), mean over pictures and
    classes, plus the cross-entropy of pixels. Logits (B, C, H, W), target (B, H, W)."""
    probability = logits.float().softmax(1)
    truth = one_hot(target, logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    both = (probability * truth).sum((-2, -1))
    total = (probability.square() + truth.square()).sum((-2, -1))
    dice = (2 * both + _SMOOTH) / (total + _SMOOTH)
    return 1 - dice.mean() + cross_entropy(logits.float(), target)
