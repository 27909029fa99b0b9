"""What decides the trainings of NextGen-UIA's adapters and heads, as values.

Nothing here imports torch, for `qc-model --help` reads it.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """What decides the training of a head, beside its pictures, tower and adapters."""

    epochs: int = 200  # Each has every picture once, but for the rest of a batch.
    batch: int = 32  # Pictures a step.
    learning_rate: float = 1e-4  # Highest one, of AdamW with betas 0.9 and 0.95; then a cosine.
    weight_decay: float = 0.01  # Of matrices; vectors have none.
    tower_rate: float = 0.1  # Learning rate of a tuned tower, as a share.
    focal_gamma: float = 2.0  # Exponent of the focal loss of classes.
    patience: int = 15  # Epochs without a better validation, after which the training ends.
    augment: bool = True  # Move, scale, mirror and re-tone the pictures.
    copies: int = 0  # Augmented copies of a picture, made once; 0: another one at each step.
    tune_tower: bool = False  # The whole tower learns, not only adapters and head.
    seed: int = 0  # Of weights, order, augmentation and dropout.

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that run folders store. Runs from before there were copies
        do not name them."""
        values = asdict(self)
        return values if self.copies else {k: v for k, v in values.items() if k != "copies"}


@dataclass(frozen=True, slots=True)
class CaptionRecipe:
    """What decides the tuning of adapters on captions, beside the pairs, the CLIP and the adapters.
    The published values."""

    epochs: int = 32  # Each has every pair once, but for the rest of a batch.
    batch: int = 64  # Pairs a step: each picture is told apart from so many captions.
    learning_rate: float = 1e-4  # Highest one, of AdamW with betas 0.9 and 0.95; then a cosine.
    weight_decay: float = 0.01  # Of matrices; vectors have none.
    temperature: float = 0.07  # Fixed.
    patience: int = 10  # Epochs without a lower validation loss, after which the training ends.
    seed: int = 0  # Of weights, order and dropout.

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that run folders store."""
        return asdict(self)
