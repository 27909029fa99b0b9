"""What decides the trainings on FetalCLIP, as values: masks and usable frames.

Nothing here imports torch, for `qc-model --help` reads it.
"""

from training.adapter_recipes import HeadRecipe

SEGMENTATION = HeadRecipe(epochs=100, batch=8, learning_rate=3e-4, patience=100)
"""Of a decoder on a frozen tower: the published values."""
USABILITY = HeadRecipe(epochs=5, batch=32, learning_rate=3e-4, focal_gamma=0.0, patience=5)
"""Of FetalCLIP-IQA's head: the published values; without focus the loss is the cross-entropy."""
USABILITY_RANK, USABILITY_SCALE = 8, 2.0
"""Its adapters: the rank of LoRA, and what peft's alpha of 16 over 8 multiplies it by."""
