"""Small image towers with random weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from model.spatialclip.network import SpatialClip, SpatialClipConfig
from model.spatialclip.sononet import SonoNet
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


def spatialclip(stem: str) -> SpatialClip:
    """A small one, whose patches are features of the stem, or pixels."""
    torch.manual_seed(2)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 32,
        "projection_dim": 24,
    }
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 40,
        "max_position_embeddings": 117,
        "projection_dim": 24,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    clip = {"projection_dim": 24, "vision_config": vision, "text_config": text}
    return SpatialClip(SpatialClipConfig(clip, label_dim=8, heads=4, ffn=32, stem=stem)).eval()


def write_sononet(path: Path) -> Path:
    """SonoNet-16 of random weights, under the published names."""
    torch.manual_seed(3)
    state = SonoNet().state_dict()
    named = {name.replace("blocks.", "features.", 1): tensor for name, tensor in state.items()}
    save_file({n: t for n, t in named.items() if "num_batches" not in n}, path)
    return path


__all__ = [
    "pictures",
    "random_clip",
    "spatialclip",
    "tower_folder",
    "vision_tower",
    "write_sononet",
]
