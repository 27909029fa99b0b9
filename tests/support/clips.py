"""Small CLIPs of FetalCLIP's layout with random weights, and their vocabulary."""

import gzip
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from model.fetalclip.checkpoint import save_fetalclip
from model.fetalclip.network import Architecture, FetalClip
from model.fetalclip.preprocess import read_vocabulary

SMALL = Architecture(
    embed_dim=32,
    vision_width=128,
    vision_layers=2,
    patch=8,
    image=32,
    text_width=48,
    text_layers=2,
    text_heads=3,
    vocabulary=600,
    context=117,
)
FOUR_BLOCKS = replace(SMALL, embed_dim=16, vision_width=64, vision_layers=4)
"""With blocks enough for FetalCLIP's decoder of masks."""


def open_clip_json(architecture: Architecture) -> dict[str, Any]:
    """The architecture as open_clip writes it."""
    return {
        "embed_dim": architecture.embed_dim,
        "vision_cfg": {
            "image_size": architecture.image,
            "layers": architecture.vision_layers,
            "width": architecture.vision_width,
            "patch_size": architecture.patch,
        },
        "text_cfg": {
            "context_length": architecture.context,
            "vocab_size": architecture.vocabulary,
            "width": architecture.text_width,
            "heads": architecture.text_heads,
            "layers": architecture.text_layers,
        },
    }


def random_clip(architecture: Architecture = SMALL, seed: int = 0) -> FetalClip:
    torch.manual_seed(seed)
    return FetalClip(architecture)


def write_vocabulary(path: Path, pairs: int = 200) -> Path:
    """A list of byte pairs like CLIP's, of letters only."""
    letters = "etaoinshrdlucmfw"
    merges = [f"{first} {second}" for first, second in product(letters, letters)][:pairs]
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *merges, ""]).encode()))
    return path


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A folder as `qc-model fetalclip convert` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = read_vocabulary(write_vocabulary(folder / "pairs.gz"), SMALL.vocabulary)
    save_fetalclip(folder, random_clip(seed=seed), tokenizer)
    return folder


def write_config(path: Path) -> Path:
    path.write_text(json.dumps(open_clip_json(SMALL)))
    return path
