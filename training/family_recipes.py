"""What decides each training of the other families, as values; SpatialCLIP's and its detector's are
in `training.recipes`.

Nothing here imports torch, for `qc-model --help` reads it.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Loss(StrEnum):
    """Losses for classes of unlike frequency (`training.train.dual_branch.losses`)."""

    SMOOTHED = "label-smoothing"
    FOCAL = "focal"
    LDAM = "ldam"
    LDAM_FOCAL = "ldam-focal"


@dataclass(frozen=True, slots=True)
class DualBranchRecipe:
    """What decides the training of a dual-branch classifier, beside its pictures, its classes and
    its network. Losses and learning rate are the published ones."""

    epochs: int = 100  # Each has every picture once, but for the rest of a batch.
    batch: int = 4  # Pictures a step.
    learning_rate: float = 1e-4  # Of AdamW.
    weight_decay: float = 0.0  # Of matrices and kernels.
    cosine: bool = False  # A warm-up over an epoch, then a cosine to 1 %; else constant.
    loss: Loss = Loss.LDAM_FOCAL
    smoothing: float = 0.1  # Of the label-smoothing loss.
    focal_gamma: float = 1.0  # Exponent of the focal loss.
    balance_beta: float = 0.9999  # Of class weights by effective number (Cui et al. 2019); 0: none.
    balance_epoch: int = 0  # Weigh classes from this epoch on (deferred: Cao et al. 2019 with 80).
    frozen_backbones: bool = False  # Only head and gate learn.
    augment: bool = True  # Move, scale, mirror and re-tone the pictures.
    seed: int = 0  # Of weights, order and augmentation.

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that run folders store."""
        return asdict(self) | {"loss": self.loss.value}
