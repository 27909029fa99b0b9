"""Small image towers with random weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.support.clips import random_clip, write_clip

WIDTH, SIDE, PATCH = 32, 32, 8


def vision_tower(
    layers: int = 4,
    *,
    width: int = WIDTH,
    heads: int = 4,
    intermediate: int | None = None,
    seed: int = 0,
) -> Any:
    """A CLIP image tower of 4 x 4 patches."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=intermediate or 2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=SIDE,
        patch_size=PATCH,
    )
    return CLIPVisionModel(config).eval()


def pictures(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def tower_folder(folder: Path, seed: int = 0) -> Path:
    """A folder of a whole small CLIP: two blocks in its image tower, its tokenizer beside it."""
    return write_clip(folder, seed)


__all__ = ["pictures", "random_clip", "tower_folder", "vision_tower"]
