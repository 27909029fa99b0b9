"""What decides the trainings on FetalCLIP, as values: masks, usable frames, a small student.

Nothing here imports torch, for `qc-model --help` reads it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from training.adapter_recipes import HeadRecipe

SEGMENTATION = HeadRecipe(epochs=100, batch=8, learning_rate=3e-4, patience=100)
"""Of a decoder on a frozen tower: the published values."""
USABILITY = HeadRecipe(epochs=5, batch=32, learning_rate=3e-4, focal_gamma=0.0, patience=5)
"""Of FetalCLIP-IQA's head: the published values; without focus the loss is the cross-entropy."""
USABILITY_RANK, USABILITY_SCALE = 8, 2.0
"""Its adapters: the rank of LoRA, and what peft's alpha of 16 over 8 multiplies it by."""


@dataclass(frozen=True, slots=True)
class DistillationRecipe:
    """What decides the distillation of a student, beside pairs, teacher and student."""

    epochs: int = 20  # Each has every pair once, but for the rest of a batch.
    batch: int = 64  # Pairs a step: the teacher's similarities are of so many times so many.
    learning_rate: float = 5e-4  # Highest one, of AdamW; then a cosine. Published: 1e-5, from CLIP.
    weight_decay: float = 0.1  # Of matrices; vectors have none.
    temperature: float = 5.0  # Divides the teacher's logits, not the student's.
    distillation_weight: float = 1.0  # Of the teacher's part; CLIP's own loss has 1.
    beta_start: float = 2.0  # Weight of pairs that do not match: above 0 the student is coupled,
    beta_end: float = -0.8  # below it is repelled from what the teacher confuses. Linear by epoch.
    augment: bool = True  # Turn by 7 degrees, move by 5 %, re-tone by 15 %: teacher and student.
    patience: int = 20  # Epochs without a lower validation loss, after which the training ends.
    seed: int = 0  # Of weights, order and augmentation.

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that run folders store."""
        return asdict(self)
